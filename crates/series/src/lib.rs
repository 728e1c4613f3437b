//! The series store: an embedded, compressed store of samples that survives crashes.
//!
//! A [`Point`] is identified by its [`SeriesKey`] and its second: written again, it replaces what was there, so an agent that sends
//! a batch twice stores every point once. [`Store::append`] returns when a batch is durable. Points are kept for a day or so; what
//! is older lives on in [`Rollup`]s over five minutes and over an hour ([`Tier`]).
//!
//! # What is on the disk
//! | file | what | drawn in |
//! |---|---|---|
//! | `lock` | held by the process that has the store open | |
//! | `manifest` | which parts there are, from where on the log counts | `manifest.rs` |
//! | `log-<number>.seg` | batches in the order of their appending; the last of these files grows | `log.rs`, `frame.rs`, `section.rs` |
//! | `raw-<partition>-<id>.part` | points of two hours, by series, compressed | `part.rs`, `codec.rs` |
//! | `5m-…`, `1h-…` | rollups of a day, and of 16 days | the same |
//! | `forwarded` | how far the log was forwarded | `store/forward.rs` |
//! | `*.tmp` | a file that is being written; removed at the next opening | |
//!
//! Every file but the log's last segment is written under a temporary name, flushed, renamed, and its directory flushed: it is
//! there in whole or not at all. Frames, blocks, index pages and footers each have a CRC32C that is checked whenever they are read: a
//! flipped bit is [`StoreError::Damaged`], which names file and byte, never data.
//!
//! # The way of a point
//! ```text
//!   append ──► log (flushed) ──► live ──freeze──► frozen ──► part ──merge──► part ──roll up──► 5m part, 1h part ──► gone
//!                   │           └─── memory ──────────┘      └─── a partition of 2 h ───┘
//!                   └──► unforwarded ──► another store
//! ```
//! Appending is numbered at the head of `store/append.rs`, housekeeping at that of `store/housekeeping.rs`, opening at that of
//! `store/recover.rs`.
//!
//! # Who does what
//! | thread | does | never waits for |
//! |---|---|---|
//! | a caller of `append` | encodes; writes and flushes for all who wait, or waits for who does | housekeeping's files |
//! | a caller of `read` | copies what waits in memory, decodes blocks | the disk's writes; but a millisecond or so while a batch is applied, some while sealed points are freed |
//! | the loop around `housekeep` | seals, rolls up, merges, drops | readers |
//! | a forwarder | reads the log as far as it is durable | appends |
//!
//! There is no thread in here: the caller has one call [`Store::wait_for_work`] and [`Store::housekeep`] in turns, and pause when
//! that fails. While nobody does, appends fill the memory they may and are then refused ([`AppendError::HeadFull`]).
//!
//! # What may happen at the same time
//! - *Reading and sealing.* A reader looks at memory first and at the set of parts second; housekeeping publishes parts first and frees
//!   memory second. So a point is found once or twice, and of two the one in memory counts, which is not older.
//! - *Reading and removing.* A reader keeps the set of parts it took; removed files go on existing for who has them open.
//! - *Late points and rolling up.* A window is made from its points at each reading as long as these are kept. It is stored once, when
//!   its partition is past retention and no point of it is taken any more; one manifest swaps the points for the rollups. So a
//!   rollup always has all points of its window, and late ones count at once.
//! - *Housekeeping and a crash.* A step is made real by the manifest; what came before is files that the next opening removes.
//!
//! # What is promised after a crash
//! - Every acknowledged point is there, or its successor. One that was not acknowledged may be there; once shown to anybody, it stays.
//! - A torn write at the log's end is cut. Damage anywhere else, also to an end that is known to have been durable, is an error.
//!   Known durable is what was at the last step of housekeeping and at closing; a bad byte behind that looks like a torn write.
//! - What is forwarded, taken together, has every acknowledged point at least once, each series in the order of its appending.
//!
//! # Limits
//! A batch has at most [`BATCH_POINTS_MAX`] points. Points are kept at most [`RAW_RETENTION_S_MAX`]. A series takes about 120 bytes of
//! memory, a waiting point 16 to 32; the log that waits for being forwarded at most [`Config::forward_bytes_max`]. Each part keeps a
//! file open: about 100 with the default retentions. Values may be any `f64`, and come back bit for bit, but a `NaN` counts in no
//! minimum or maximum and makes its window's sum one.

mod batch;
mod catalog;
mod codec;
mod config;
mod error;
mod files;
mod frame;
mod input;
mod log;
mod manifest;
mod part;
mod parts;
mod section;
mod store;

pub use batch::{BATCH_POINTS_MAX, Batch, Point, Rollup, SeriesKey};
pub use catalog::TimeRange;
pub use config::{Clock, Config, RAW_RETENTION_S_MAX, Tier};
pub use error::{AppendError, StoreError};
pub use store::{Appended, Cursor, ForwardLag, Housekept, Store, StoreStats};
