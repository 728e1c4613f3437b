//! Sequence tokens: a position of a log, as clients hold it.
//!
//! `<log epoch>.<position>.<check>` in hex. The epoch tells logs apart: a token of another site, or of a log that was rebuilt, is
//! refused and never misread. The check part catches what was mistyped, cut off or made up. Clients must not look inside.

use lockstep_journal::{Origin, ReadError};
use lockstep_model::Position;

/// Why a token does not name a place in this log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours.
    #[error("the sequence token is not one of this service's")]
    Malformed,
    /// A token of another log.
    #[error("the sequence token belongs to another site or to a log that was rebuilt")]
    Foreign,
    /// A position that has not been reached.
    #[error("the sequence token is ahead of the log")]
    Future,
    /// The log does not go back that far any more.
    #[error("the sequence token has expired: take a new one, read everything by query, and go on from there")]
    Expired,
}

/// Writes the token of `position`.
pub fn write(origin: Origin, position: Position) -> String {
    let body = format!("{:016x}.{:x}", origin.epoch, position.0);
    let check = crc32c::crc32c(body.as_bytes());
    format!("{body}.{check:08x}")
}

/// Reads a token of this log; whether the position can be read after is the journal's to say.
///
/// # Errors
/// [`TokenError::Malformed`] and [`TokenError::Foreign`].
pub fn read(origin: Origin, token: &str) -> Result<Position, TokenError> {
    let (body, check) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
    let (epoch, position) = body.split_once('.').ok_or(TokenError::Malformed)?;
    let hex = |text: &str| u64::from_str_radix(text, 16).map_err(|_| TokenError::Malformed);
    let (epoch, position) = (hex(epoch)?, hex(position)?);
    // Written anew and compared: one spelling per token, so `+1` or upper case is no token.
    let is_ours =
        check == format!("{:08x}", crc32c::crc32c(body.as_bytes())) && body == format!("{epoch:016x}.{position:x}");
    if !is_ours {
        return Err(TokenError::Malformed);
    }
    if epoch != origin.epoch {
        return Err(TokenError::Foreign);
    }
    Ok(Position(position))
}

impl TokenError {
    /// The id that its message has on the wire.
    pub fn message_id(&self) -> &'static str {
        match self {
            Self::Expired => "lockstep.cdc.expired",
            Self::Malformed | Self::Foreign | Self::Future => "lockstep.cdc.invalid",
        }
    }

    /// What a failed read of the journal says of the token; `None` when it is not the token's fault.
    pub fn from_read(error: &ReadError) -> Option<Self> {
        match error {
            ReadError::Expired { .. } => Some(Self::Expired),
            ReadError::Future { .. } => Some(Self::Future),
            ReadError::Broken(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_others_are_refused() {
        let ours = Origin { epoch: 0xb1f0 };
        for position in [0, 1, 0x1a4, u64::MAX] {
            assert_eq!(read(ours, &write(ours, Position(position))), Ok(Position(position)));
        }
        let token = write(ours, Position(7));
        assert_eq!(read(Origin { epoch: 1 }, &token), Err(TokenError::Foreign));
        for bad in [
            "",
            ".",
            "..",
            "7",
            "x.y.z",
            &token.to_uppercase(),
            &token[1..],
            &token[..token.len() - 1],
            &format!("{token} "),
            "+1.+2.3",
        ] {
            assert_eq!(read(ours, bad), Err(TokenError::Malformed), "{bad:?}");
        }
        for i in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[i] = if changed[i] == b'1' { b'2' } else { b'1' };
            assert_eq!(read(ours, std::str::from_utf8(&changed).unwrap()), Err(TokenError::Malformed), "byte {i}");
        }
    }
}
