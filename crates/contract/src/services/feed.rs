//! The change feed beyond the seed: filtered, and caught up after its token has aged out.

use crate::services::TypedId;
use crate::services::resource_model::ResourceFilter;
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What happened to a resource, as seen through a filter.
    pub enum EventKind = "lockstep.feed.event_kind" {
        /// It came into being and matches.
        Create = "CREATE",
        /// It matched and still does; some of its properties changed.
        Update = "UPDATE",
        /// It matched and ended.
        Delete = "DELETE",
        /// It was there and did not match; it does, by a change of its own or elsewhere.
        Enter = "ENTER",
        /// It matched and is still there, but does not match any more, by a change of its own or elsewhere.
        Leave = "LEAVE",
    }
}

structure! {
    /// A change of one resource, as seen through a filter.
    pub struct Event = "lockstep.feed.event" {
        /// Which one.
        resource: TypedId,
        /// What happened.
        kind: EventKind,
        /// The paths of the resource's own properties whose values changed, when it changed itself and goes on.
        properties: Option<Vec<String>>,
        /// Its parents, the nearest first; for DELETE as they were just before.
        parent_resources: Vec<TypedId>,
    }
}

structure! {
    /// Changes, and where to go on.
    pub struct EventList = "lockstep.feed.event_list" {
        /// The token for the next call.
        sequence: String,
        /// What happened since the token of this call; unset when nothing did.
        changes: Option<Vec<Event>>,
        /// Whether the token had aged out of the log, so that this answer holds one event for each resource that may have changed:
        /// what the client has is to be read again, and a LEAVE or DELETE of what it does not have is to be passed over.
        caught_up: Option<bool>,
    }
}

structure! {
    /// The parameters of `get_changes`.
    pub struct GetChangesInput = "operation-input" {
        /// Where to go on: the `sequence` of the last answer, or the token in a query's header.
        sequence_token: String,
        /// Only resources of these types; unset: all.
        resource_types: Option<Vec<String>>,
        /// Only resources that match, before or after; the filter of a query, relations included.
        filter: Option<ResourceFilter>,
        /// Answer a token that has aged out of the log by a catch-up instead of an error.
        catch_up: Option<bool>,
    }
}

operation! {
    /// The net changes since the token, of the resources that match a filter.
    ///
    /// Applied to what the client had at the token, they give what a query with this filter gives at `sequence`. A resource
    /// comes at most once in an answer. When there are none yet, the answer waits for the first, up to the server's limit.
    pub GetChanges = "lockstep.feed"."get_changes"(GetChangesInput) -> EventList,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/lockstep/feed", 200).action("get-changes"),
    waits: true,
}
