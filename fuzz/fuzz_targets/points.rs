//! Batches of samples, as agents send them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lockstep_contract::points::Batch;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    let Ok(batch) = Batch::decode(bytes) else { return };
    let again = Batch::decode(&*batch.encode_to_vec()).expect("what was written is a batch");
    assert_eq!(again.series.len(), batch.series.len());
});
