//! Numbers and frames of NBD that client and server share. All integers are big-endian.
//!
//! Source: `doc/proto.md` of the NBD project.

use bytes::{Buf, BufMut};

/// The meta context that tells holes and zeroes.
pub const ALLOCATION: &str = "base:allocation";
/// Of [`ALLOCATION`]: nothing is allocated.
pub(crate) const STATE_HOLE: u32 = 1;
/// Of [`ALLOCATION`]: reads as zeroes.
pub(crate) const STATE_ZERO: u32 = 2;
/// Of a dirty bitmap: was written.
pub(crate) const STATE_DIRTY: u32 = 1;

/// Bytes of one read. What servers take unless they say otherwise.
pub const READ_BYTES_MAX: usize = 32 << 20;
/// Bytes of an export's or a context's name.
pub(crate) const NAME_BYTES_MAX: usize = 4096;
/// Bytes of what comes with an option or its reply: a name, a few names, or a text for people.
pub(crate) const OPTION_BYTES_MAX: usize = 64 << 10;
/// Extents of one answer about block status.
pub(crate) const STATUSES_MAX: usize = 1 << 20;

pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_MAGIC: u32 = 0x6744_6698;
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Of both sides' handshake flags.
pub(crate) const FIXED_NEWSTYLE: u16 = 1;
pub(crate) const NO_ZEROES: u16 = 2;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;
pub(crate) const OPT_LIST_META_CONTEXT: u32 = 9;
pub(crate) const OPT_SET_META_CONTEXT: u32 = 10;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_META_CONTEXT: u32 = 4;
/// Replies with this bit are errors.
pub(crate) const REP_ERROR: u32 = 1 << 31;
pub(crate) const REP_ERR_UNSUPPORTED: u32 = REP_ERROR | 1;
pub(crate) const REP_ERR_INVALID: u32 = REP_ERROR | 3;
pub(crate) const REP_ERR_UNKNOWN: u32 = REP_ERROR | 6;
pub(crate) const REP_ERR_TOO_BIG: u32 = REP_ERROR | 9;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

/// Transmission flags.
pub(crate) const HAS_FLAGS: u16 = 1;
pub(crate) const READ_ONLY: u16 = 1 << 1;
pub(crate) const SEND_FLUSH: u16 = 1 << 2;
pub(crate) const SEND_TRIM: u16 = 1 << 5;
pub(crate) const SEND_DF: u16 = 1 << 7;
pub(crate) const CAN_MULTI_CONN: u16 = 1 << 8;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISCONNECT: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;
pub(crate) const CMD_BLOCK_STATUS: u16 = 7;

/// Of a read: one chunk only.
pub(crate) const FLAG_DF: u16 = 1 << 2;
/// Of a block status: one extent only.
pub(crate) const FLAG_REQ_ONE: u16 = 1 << 3;

/// Of a chunk: the last one of its request.
pub(crate) const CHUNK_DONE: u16 = 1;

pub(crate) const CHUNK_NONE: u16 = 0;
pub(crate) const CHUNK_OFFSET_DATA: u16 = 1;
pub(crate) const CHUNK_OFFSET_HOLE: u16 = 2;
pub(crate) const CHUNK_BLOCK_STATUS: u16 = 5;
/// Chunks with this bit are errors.
pub(crate) const CHUNK_ERROR: u16 = 1 << 15;
pub(crate) const CHUNK_PLAIN_ERROR: u16 = CHUNK_ERROR | 1;

pub(crate) const EPERM: u32 = 1;
pub(crate) const EIO: u32 = 5;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const EOVERFLOW: u32 = 75;

pub(crate) const REQUEST_BYTES: usize = 28;
pub(crate) const CHUNK_BYTES: usize = 20;
pub(crate) const OPTION_BYTES: usize = 16;
pub(crate) const OPTION_REPLY_BYTES: usize = 20;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) command: u16,
    pub(crate) cookie: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u32,
}

impl Request {
    pub(crate) fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut frame = [0; REQUEST_BYTES];
        let mut out = frame.as_mut_slice();
        out.put_u32(REQUEST_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.command);
        out.put_u64(self.cookie);
        out.put_u64(self.offset);
        out.put_u32(self.bytes);
        frame
    }

    /// None if it is no request.
    pub(crate) fn decode(frame: [u8; REQUEST_BYTES]) -> Option<Self> {
        let mut input = frame.as_slice();
        (input.get_u32() == REQUEST_MAGIC).then(|| Self {
            flags: input.get_u16(),
            command: input.get_u16(),
            cookie: input.get_u64(),
            offset: input.get_u64(),
            bytes: input.get_u32(),
        })
    }
}

/// The head of a piece of a structured reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) flags: u16,
    pub(crate) kind: u16,
    pub(crate) cookie: u64,
    pub(crate) bytes: u32,
}

impl Chunk {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.put_u32(CHUNK_MAGIC);
        out.put_u16(self.flags);
        out.put_u16(self.kind);
        out.put_u64(self.cookie);
        out.put_u32(self.bytes);
    }

    /// What follows the magic number.
    pub(crate) fn decode(frame: &[u8; CHUNK_BYTES - 4]) -> Self {
        let mut input = frame.as_slice();
        Self { flags: input.get_u16(), kind: input.get_u16(), cookie: input.get_u64(), bytes: input.get_u32() }
    }
}

/// An option of the handshake.
pub(crate) fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(OPTION_BYTES + data.len());
    frame.put_u64(OPTION_MAGIC);
    frame.put_u32(option);
    put_length(&mut frame, data.len());
    frame.extend_from_slice(data);
    frame
}

/// The answer to an option.
pub(crate) fn option_reply(option: u32, reply: u32, data: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(OPTION_REPLY_BYTES + data.len());
    frame.put_u64(OPTION_REPLY_MAGIC);
    frame.put_u32(option);
    frame.put_u32(reply);
    put_length(&mut frame, data.len());
    frame.extend_from_slice(data);
    frame
}

/// A length and the bytes.
pub(crate) fn put_string(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend_from_slice(text.as_bytes());
}

/// The inverse of [`put_string`]; none if it is cut short, too long or no text.
pub(crate) fn get_string(input: &mut &[u8]) -> Option<String> {
    let bytes = input.try_get_u32().ok()? as usize;
    if bytes > NAME_BYTES_MAX || bytes > input.len() {
        return None;
    }
    let (text, rest) = input.split_at(bytes);
    *input = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Lengths that are put are of our own making and below [`OPTION_BYTES_MAX`] by far.
fn put_length(out: &mut Vec<u8>, bytes: usize) {
    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire() {
        let request = Request { flags: 8, command: 7, cookie: 1 << 63, offset: 1 << 40, bytes: u32::MAX };
        assert_eq!(Request::decode(request.encode()), Some(request));
        assert_eq!(Request::decode([0; REQUEST_BYTES]), None);
        let chunk = Chunk { flags: 1, kind: CHUNK_PLAIN_ERROR, cookie: 3, bytes: 9 };
        let mut frame = Vec::new();
        chunk.encode(&mut frame);
        assert_eq!(Chunk::decode(frame[4..].try_into().unwrap()), chunk);
    }

    #[test]
    fn texts_are_cut_nowhere() {
        let mut frame = Vec::new();
        put_string(&mut frame, "disk0");
        put_string(&mut frame, "");
        let mut input = frame.as_slice();
        assert_eq!(get_string(&mut input).as_deref(), Some("disk0"));
        assert_eq!(get_string(&mut input).as_deref(), Some(""));
        assert_eq!(get_string(&mut input), None);
        assert_eq!(get_string(&mut [0, 0, 0, 9, b'x'].as_slice()), None);
        assert_eq!(get_string(&mut [255, 255, 255, 255, b'x'].as_slice()), None);
        assert_eq!(get_string(&mut [0, 0, 0, 1, 0xff].as_slice()), None);
    }
}
