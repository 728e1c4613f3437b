//! Cache sync: what has to change in a client's copy of the acquisition specifications.
//!
//! Source: seed 000; `api/vstats.md`, section 7.

use crate::services::stats::RsrcId;
use crate::services::stats::acq_specs::{CounterSpec, Status};
use crate::{Method, Rest, operation, structure};

/// The response header with the epoch up to which the answer tells all: what to pass as the next `start_epoch`.
pub const END_EPOCH_HEADER: &str = "lockstep-end-epoch";

structure! {
    /// A specification as caches keep it.
    pub struct AcqSpec = "com.vmware.vstats.cache.acq_spec" {
        /// Where samples are pushed to besides; none here.
        endpoints: Vec<String>,
        /// What is sampled.
        counters: CounterSpec,
        /// Of which resources, defaults filled in.
        resources: Vec<RsrcId>,
        /// Seconds between samples.
        interval: i64,
        /// When it ends, in seconds since 1970.
        expiration: i64,
        /// For people.
        memo_: String,
        /// The specification's id.
        id: String,
        /// Why the status is what it is; empty for ENABLED.
        status_reason: String,
        /// What becomes of it.
        status: Status,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct GetInput = "operation-input" {
        /// The epoch up to which the client is in sync; 0: it has nothing.
        start_epoch: i64,
        /// The epoch up to which it wants to be; unset: the present.
        end_epoch: Option<i64>,
        /// The `next` of the page before, with the same epochs; unset: the first page.
        page: Option<String>,
    }
}

structure! {
    /// What has to change.
    pub struct SyncResult = "com.vmware.vstats.cache.sync_result" {
        /// Names the next page; unset: there is none.
        next: Option<String>,
        /// Made after `start_epoch`; with 0: all that exist.
        created_acq_specs: Vec<AcqSpec>,
        /// Changed after `start_epoch`; with 0: none.
        updated_acq_specs: Vec<AcqSpec>,
        /// Deleted after `start_epoch`; with 0: none.
        deleted_acq_specs: Vec<String>,
    }
}

operation! {
    /// Returns the net change of the acquisition specifications after `start_epoch` and up to `end_epoch`.
    ///
    /// Each id is in one list at most. The header `Lockstep-End-Epoch` says up to when the answer tells all: passed as the next
    /// `start_epoch`, nothing is missed and nothing comes twice.
    pub Get = "com.vmware.vstats.cache"."get"(GetInput) -> SyncResult,
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/cache/sync", 200),
}
