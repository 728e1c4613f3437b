//! Properties of resources, against the models.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use lockstep_model::{Registry, TypeDef};

static MACHINE: LazyLock<Arc<TypeDef>> =
    LazyLock::new(|| Registry::new().type_def("VirtualMachine").expect("a built-in type").clone());

fuzz_target!(|json: &str| {
    let Ok(document) = MACHINE.read_document(json) else { return };
    let written = serde_json::to_string(&document).expect("a document is JSON");
    let again = MACHINE.read_document(&written).expect("what was written is a document");
    assert_eq!(again, document);
});
