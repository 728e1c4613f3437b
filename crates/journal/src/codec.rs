//! The bytes of commits and resources.
//!
//! A *payload* is what one frame holds, before compression: a run of records that share one table of names.
//!
//! ```text
//! payload  u32 LE: where the table begins | records … | table
//! table    varint count | count × (varint length, UTF-8)         every property, type, leaf path and author, once
//! commits  zigzag time_ms | commit …                             the group's time; how many commits, the frame says
//! entry    id | varint created | varint modified | times | document
//! grave    id | varint created | varint deleted | times          a tombstone
//! times    zigzag created_ms | zigzag what passed until the other
//! step     kind u8 | id | varint position | zigzag time_ms | document, leaf changes or nothing
//! id       varint type | text id
//! commit   varint author | varint count | change …               author, type, name, path: an index into the table
//! change   kind u8 | varint type | text id | parents | body      body: document, leaf changes, or document
//! parents  varint 0 | varint count | (varint type, text id) …    a list that is new in this payload
//!          varint k                                              or the k-th such list again: siblings share theirs
//! document varint count | (varint name, value) …
//! leaf     varint path | has u8 | old value? | new value?        has: bit 0 an old value, bit 1 a new one
//! value    head | …                                              see [`Tag`]
//! text     varint length | UTF-8
//! ```
//!
//! The table stands at the end because the names are known only when the records are written; it exists because the names
//! of a resource take as many bytes as its values. Numbers are LEB128 varints. Every length is checked against what is left
//! before anything is allocated for it, and nesting is limited to [`DEPTH_MAX`]: decoding is total.

mod decode;
mod encode;
mod input;

pub(crate) use decode::{
    Interner, Step, StepOperation, commits_time_ms, decode_commits, decode_entries, decode_steps, decode_tombstones,
};
pub(crate) use encode::Encoder;
pub(crate) use input::Input;

/// Deepest nesting of lists and structures in a value. A model cannot declare more than 16 levels.
pub(crate) const DEPTH_MAX: usize = 32;

/// Longest path of a leaf, in bytes. Every leaf that names it allocates it anew, so this bounds what a small payload can make
/// its reader allocate. A model's longest path is 15 names of 200 bytes.
pub(crate) const PATH_BYTES_MAX: usize = 4096;

/// Why bytes are not what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CodecError(pub(crate) &'static str);

/// The kind of a value: the low three bits of its head byte.
///
/// The high five bits hold a number `n` below 31; 31 says that `n - 31` follows as a varint. So most heads are one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Tag {
    /// `n` is 0 or 1.
    Boolean = 0,
    /// `n` is the zigzag of the number.
    Long = 1,
    /// `n` is 0; eight bytes LE follow.
    Double = 2,
    /// `n` bytes of UTF-8 follow.
    String = 3,
    /// `n` is the type's index; the id follows as text.
    Id = 4,
    /// `n` values follow.
    List = 5,
    /// `n` fields follow: varint name, value.
    Struct = 6,
}

impl Tag {
    fn of(head: u8) -> Result<Self, CodecError> {
        Ok(match head & 7 {
            0 => Self::Boolean,
            1 => Self::Long,
            2 => Self::Double,
            3 => Self::String,
            4 => Self::Id,
            5 => Self::List,
            6 => Self::Struct,
            _ => return Err(CodecError("unknown kind of value")),
        })
    }
}

/// What happens to a resource: the byte before a change.
const CREATE: u8 = 1;
const UPDATE: u8 = 2;
const DELETE: u8 = 3;

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

#[cfg(test)]
mod tests;
