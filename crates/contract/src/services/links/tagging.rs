//! Tagging over links.

use super::{DateTime, Method, Rest, enumeration, operation, structure};
use crate::services::TypedId;

enumeration! {
    /// Why an edit was lost.
    pub enum Reason = "lockstep.links.tagging.reason" {
        /// The same was edited later, and neither edit had seen the other.
        Later = "LATER",
        /// What was edited was deleted at another site.
        Deleted = "DELETED",
        /// The name was given at two sites: what had it later was renamed.
        Name = "NAME",
        /// Two tags of a category of cardinality SINGLE were attached to an object: the earlier was taken off.
        Cardinality = "CARDINALITY",
    }
}

structure! {
    /// An edit of tagging that lost against one of another site.
    pub struct Conflict = "lockstep.links.tagging.conflict" {
        /// The conflict's id.
        id: String,
        /// What was edited: a category, a tag, or an object.
        resource: TypedId,
        /// The property that was edited; of an object, the tag that was attached or detached.
        property: String,
        /// Why it was lost.
        reason: Reason,
        /// What the property would be, as JSON; of an object, whether the tag would be attached.
        lost: String,
        /// The site of the edit that was lost.
        lost_site: String,
        /// When it was made.
        lost_time: DateTime,
        /// What the property is, or was then; unset when what was edited was deleted.
        kept: Option<String>,
        /// The site of the edit that won.
        kept_site: String,
        /// When that was made.
        kept_time: DateTime,
    }
}

structure! {
    /// The parameters of `conflicts`.
    pub struct ConflictsInput = "operation-input" {
        /// How many at the most; unset: 1000, which is the most.
        limit: Option<i64>,
    }
}

operation! {
    /// The edits of tagging that lost against those of other sites, at this site or a linked one, the latest first.
    ///
    /// They are kept for 30 days, 10,000 at the most; all of them are resources of type `TagConflict`.
    pub Conflicts = "lockstep.links.tagging"."conflicts"(ConflictsInput) -> Vec<Conflict>,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/links/tagging/conflicts", 200),
}
