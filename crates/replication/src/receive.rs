//! The destination's side of a sync.

/// The id of the refusal of a root that differs.
pub const ROOT_DIFFERS: &str = "lockstep.replication.root";

/// The id of the refusal of a map with blocks that are not there.
pub const BLOCKS_MISSING: &str = "lockstep.replication.blocks";
