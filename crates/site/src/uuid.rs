//! Random UUIDs: what is called so that two sites never call two things alike.

use lockstep_contract::Error;

/// A UUID of version 4, variant 1, in lower case.
///
/// # Errors
/// `internal_server_error` when the operating system has no random numbers.
pub fn random() -> Result<String, Error> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "no random numbers for an id");
        Error::internal()
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    Ok(text)
}

/// Whether the text is a UUID in lower case.
pub fn is_uuid(text: &str) -> bool {
    let fits = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || matches!(byte, b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ones_differ_and_are_known_again() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert!(a != b && is_uuid(&a) && is_uuid(&b) && a.as_bytes()[14] == b'4', "{a} {b}");
        for bad in ["", "x", &a.to_uppercase().replace('1', "A"), &a[1..], &format!("{a}0"), &a.replace('-', "0")] {
            assert!(!is_uuid(bad), "{bad}");
        }
    }
}
