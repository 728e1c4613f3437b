//! What the source of a replication asks the destination for, to bring a new instance there.
//!
//! The source drives. It opens a *draft*, fills it with the blocks that the destination lacks and with the map that says which block
//! stands where, and commits it. Every call may be made again: after a cut link or a restart of the destination the source goes on
//! with the call that failed. A draft is of one reading of the source: after a restart of the source there is a new reading, another
//! instance, another draft. The blocks that the draft before has got are kept until the new one is committed, and [`Have`] finds them.
//!
//! # Lives
//! What [`Put`] brings is durable when it answers. What [`Have`] finds is durable once a [`Put`] after it answers with the same `life`: a
//! text that changes when the destination was started anew, and so may have lost what somebody else had just brought. With another life
//! the source asks again.
//!
//! # Frames
//! A frame of [`Put`] is drawn in `replication/src/frame.rs`. Hashes are BLAKE3, of 32 bytes, one behind the other. A map's leaf and the
//! hashes of leaves are those of the block store, drawn there.
//!
//! # Whose
//! A replication belongs to the link that made it. Another link is told that it is not there.

use crate::{Binary, Method, Rest, operation, structure};

const PATH: &str = "/lockstep/replication/receive/{replication}/{instance}";

/// Most hashes that one call of [`Have`] asks for.
pub const HASHES_MAX: usize = 8192;

/// Most bytes of a frame.
pub const FRAME_BYTES_MAX: usize = 6 << 20;

/// Most hashes of leaves that one answer of [`Map`] tells.
pub const LEAVES_MAX: usize = 8192;

/// Most disks of an instance.
pub const DISKS_MAX: usize = 64;

structure! {
    /// A disk of an instance.
    pub struct Disk = "lockstep.replication.receive.disk" {
        /// Its key: 2000 for the first disk of the machine.
        key: i64,
        /// Its size in bytes, a multiple of 512.
        bytes: i64,
    }
}

structure! {
    /// The parameters of `open`.
    pub struct OpenInput = "operation-input" {
        /// The replication.
        replication: String,
        /// The instance to be: `h4replica-` and a UUID.
        instance: String,
        /// The instance that the draft begins as; unset: it begins as zeroes.
        base: Option<String>,
        /// All disks.
        disks: Vec<Disk>,
    }
}

structure! {
    /// An instance that was committed.
    pub struct Instance = "lockstep.replication.receive.instance" {
        /// Its name.
        instance: String,
        /// The point in time it shows, in milliseconds since 1970.
        time_ms: i64,
        /// BLAKE3 of the root of its map, as hex digits.
        root: String,
        /// Its number among the instances of the replication.
        sequence: i64,
        /// Bytes that were stored for it.
        transfer_bytes: i64,
    }
}

structure! {
    /// The instance that a draft begins as.
    pub struct Base = "lockstep.replication.receive.base" {
        /// BLAKE3 of the root of its map, as hex digits.
        root: String,
        /// Its disks, by key.
        disks: Vec<Disk>,
    }
}

structure! {
    /// A draft that was opened.
    pub struct Opened = "lockstep.replication.receive.opened" {
        /// The life.
        life: String,
        /// The instance, when it was committed already: there is nothing to do.
        committed: Option<Instance>,
        /// The base; unset without one.
        base: Option<Base>,
    }
}

structure! {
    /// A draft or an instance.
    pub struct InstanceInput = "operation-input" {
        /// The replication.
        replication: String,
        /// The instance.
        instance: String,
    }
}

structure! {
    /// The parameters of `map`.
    pub struct MapInput = "operation-input" {
        /// The replication.
        replication: String,
        /// An instance that was committed.
        instance: String,
        /// The disk's key.
        disk: i64,
        /// The first leaf.
        first: i64,
        /// How many, at most [`LEAVES_MAX`].
        count: i64,
    }
}

structure! {
    /// Hashes of leaves.
    pub struct Leaves = "lockstep.replication.receive.leaves" {
        /// The hashes, in order.
        hashes: Binary,
    }
}

structure! {
    /// The parameters of `leaf`.
    pub struct LeafInput = "operation-input" {
        /// The replication.
        replication: String,
        /// An instance that was committed.
        instance: String,
        /// The disk's key.
        disk: i64,
        /// Which leaf.
        leaf: i64,
    }
}

structure! {
    /// A leaf of a map.
    pub struct Leaf = "lockstep.replication.receive.leaf" {
        /// What its hash is of.
        leaf: Binary,
    }
}

structure! {
    /// The parameters of `have`.
    pub struct HaveInput = "operation-input" {
        /// The replication.
        replication: String,
        /// The draft.
        instance: String,
        /// Hashes of blocks, at most [`HASHES_MAX`].
        hashes: Binary,
    }
}

structure! {
    /// Which blocks are there.
    pub struct Had = "lockstep.replication.receive.had" {
        /// The life.
        life: String,
        /// A bit for each hash, that of the first is the lowest of the first byte: set when the block is there. It stays there for the draft.
        present: Binary,
    }
}

structure! {
    /// The parameters of `put`.
    pub struct PutInput = "operation-input" {
        /// The replication.
        replication: String,
        /// The draft.
        instance: String,
        /// Blocks and entries of the map, at most [`FRAME_BYTES_MAX`].
        frame: Binary,
    }
}

structure! {
    /// What was put is there.
    pub struct Taken = "lockstep.replication.receive.taken" {
        /// The life.
        life: String,
    }
}

structure! {
    /// The parameters of `commit`.
    pub struct CommitInput = "operation-input" {
        /// The replication.
        replication: String,
        /// The draft.
        instance: String,
        /// BLAKE3 of the root of the map as the source reckons it, as hex digits.
        root: String,
        /// The point in time it shows, in milliseconds since 1970.
        time_ms: i64,
    }
}

operation! {
    /// Begins a draft. One of that name that is there already begins anew.
    pub Open = "lockstep.replication.receive"."open"(OpenInput) -> Opened,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, UnableToAllocateResource, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("open"),
}

operation! {
    /// The hashes of leaves of a committed instance's map.
    pub Map = "lockstep.replication.receive"."map"(MapInput) -> Leaves,
    errors: [InvalidArgument, NotFound, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("map"),
}

operation! {
    /// A leaf of a committed instance's map.
    pub GetLeaf = "lockstep.replication.receive"."leaf"(LeafInput) -> Leaf,
    errors: [InvalidArgument, NotFound, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("leaf"),
}

operation! {
    /// Which of these blocks are there. Those that are stay for the draft.
    pub Have = "lockstep.replication.receive"."have"(HaveInput) -> Had,
    errors: [InvalidArgument, NotFound, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("have").body("hashes"),
}

operation! {
    /// Brings blocks and entries of the map, durable when it answers. A block whose bytes do not have its hash is refused, and nothing of its frame is stored.
    pub Put = "lockstep.replication.receive"."put"(PutInput) -> Taken,
    errors: [InvalidArgument, NotFound, UnableToAllocateResource, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("put").body("frame"),
}

operation! {
    /// Makes the draft an instance, whole or not at all. Refused when a block of its map is missing, or its root is not the one that
    /// the source reckons.
    pub Commit = "lockstep.replication.receive"."commit"(CommitInput) -> Instance,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, UnableToAllocateResource, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 200).action("commit"),
}

operation! {
    /// Drops a draft. One that is not there is no error.
    pub Abandon = "lockstep.replication.receive"."abandon"(InstanceInput) -> (),
    errors: [InvalidArgument, NotFound, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, PATH, 204).action("abandon"),
}
