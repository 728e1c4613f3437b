//! Bodies of requests: JSON of the vAPI and plain JSON, as the inputs of operations.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_contract::services::resource_model::QueryInput;
use lockstep_contract::{Data, Encoding, Place, PlainJson, TypedJson, Wire};

fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Plain, Encoding::Typed] {
        let Ok(data) = Data::from_json(bytes) else { return };
        let Ok(input) = QueryInput::decode(data, &Place::root(encoding)) else { continue };
        // What was read is written and reads back as the same.
        let written = if encoding == Encoding::Plain {
            let mut json = PlainJson::default();
            input.encode(&mut json);
            json.out
        } else {
            let mut json = TypedJson::default();
            input.encode(&mut json);
            json.out
        };
        let again = Data::from_json(&written).expect("what was written is JSON");
        let again = QueryInput::decode(again, &Place::root(encoding)).expect("what was written is such an input");
        assert_eq!(again, input);
    }
});
