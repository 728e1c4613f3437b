//! XML bodies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_contract::services::resource_model::QueryInput;
use lockstep_contract::{Encoding, Place, Wire};

fuzz_target!(|bytes: &[u8]| {
    // The root and its namespace are checked first, and would hide what is behind them.
    let mut body = b"<query xmlns=\"urn:x\">".to_vec();
    body.extend_from_slice(bytes);
    body.extend_from_slice(b"</query>");
    if let Ok(data) = lockstep_contract::xml::read(&body, "query", "urn:x") {
        let _ = QueryInput::decode(data, &Place::root(Encoding::Plain));
    }
});
