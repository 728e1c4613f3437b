//! Stats: what can be sampled, what shall be, and the samples.
//!
//! Services under `com.vmware.vstats` are the contract's; those under `lockstep.stats` are ours: what agents need, and answers for
//! people and tools that the contract's have no room for.
//!
//! Source: `api/vstats.md`.

pub mod acq_specs;
pub mod addresses;
pub mod agents;
pub mod cache;
pub mod counters;
pub mod data;
pub mod series;

use crate::{enumeration, structure};

enumeration! {
    /// How an identifier of an acquisition specification is matched.
    pub enum Predicate = "com.vmware.vstats.query_predicate" {
        /// The resource with this id.
        Equal = "EQUAL",
        /// Every resource of the type.
        All = "ALL",
    }
}

structure! {
    /// A counter and, if need be, the edition of its metadata.
    pub struct CidMid = "com.vmware.vstats.cid_mid" {
        /// The counter, e.g. `cpu.capacity.usage.HOST`.
        cid: String,
        /// The metadata; unset or empty: the counter's default.
        mid: Option<String>,
    }
}

structure! {
    /// An identifier of a resource, one part of a resource address.
    pub struct RsrcId = "com.vmware.vstats.rsrc_id" {
        /// The name of the position in the schema; unset: the position of the type.
        key: Option<String>,
        /// The type, e.g. `HOST`. Optional in the encoding, but demanded.
        resource_type as "type": Option<String>,
        /// The id; empty with the predicate ALL.
        id_value: String,
        /// How it is matched; unset: EQUAL.
        predicate: Option<Predicate>,
        /// What sort of id it is; unset: `moid`, the resource's id in the inventory.
        scheme: Option<String>,
    }
}

structure! {
    /// Text for people.
    pub struct UserInfo = "com.vmware.vstats.user_info" {
        /// A short name.
        label: crate::Message,
        /// What it is.
        description: crate::Message,
    }
}

/// What a resource address and a specification's identifier are looked up by, unless said otherwise.
pub const SCHEME: &str = "moid";
