//! The text form of queries, and what it compiles to.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use lockstep_model::Registry;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

fuzz_target!(|text: &str| {
    let Ok(spec) = lockstep_query::parse_text(text, &REGISTRY) else { return };
    let _ = lockstep_query::Query::compile(&spec, &REGISTRY, &lockstep_query::Limits::default());
});
