//! Frames of the journal: whole ones, and payloads that no checksum guards.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = lockstep_journal::decode_frame(bytes);
    if let [count, payload @ ..] = bytes {
        let _ = lockstep_journal::decode_payload(payload, 1, u32::from(*count));
    }
});
