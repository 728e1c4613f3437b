//! The change feed as its clients know it.
//!
//! Source: seed 002; `api/cis-data-and-cdc.md`, part B.

use crate::services::{NoInput, TypedId};
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What happened to a resource.
    pub enum ChangeKind = "com.vmware.cdc.change_log.change_event.change_kind" {
        /// It came into being.
        Create = "CREATE",
        /// Some of its properties changed.
        Update = "UPDATE",
        /// It ended.
        Delete = "DELETE",
    }
}

structure! {
    /// A change of one resource.
    pub struct ChangeEvent = "com.vmware.cdc.change_log.change_event" {
        /// Which one.
        resource: TypedId,
        /// What happened.
        kind: ChangeKind,
        /// The paths of the properties whose values changed; for UPDATE only.
        properties: Option<Vec<String>>,
        /// Its parents, the nearest first; for DELETE as they were just before.
        parent_resources: Vec<TypedId>,
    }
}

structure! {
    /// Changes, and where to go on.
    pub struct ChangeList = "com.vmware.cdc.change_log.change_list" {
        /// The token for the next call.
        sequence: String,
        /// What happened since the token of this call; unset when nothing did.
        changes: Option<Vec<ChangeEvent>>,
    }
}

structure! {
    /// The parameters of `get_changes`.
    pub struct GetChangesInput = "operation-input" {
        /// Where to go on: the `sequence` of the last answer, or what `get_current_sequence` gave.
        sequence_token: String,
    }
}

operation! {
    /// The token of this moment: `get_changes` with it returns what happens afterwards.
    pub GetCurrentSequence = "com.vmware.cdc.change_log"."get_current_sequence"(NoInput) -> String,
    errors: [Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cdc/change-log", 200).action("get-current-sequence"),
}

operation! {
    /// All changes since the token. When there are none yet, the answer waits for the first, up to the server's limit.
    pub GetChanges = "com.vmware.cdc.change_log"."get_changes"(GetChangesInput) -> ChangeList,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cdc/change-log", 200).action("get-changes"),
    waits: true,
}
