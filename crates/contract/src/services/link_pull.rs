//! What one site of a link asks the other for, to keep a copy of its inventory, or what else is kept in step.
//!
//! The asker copies the state page by page from the moment of [`Start`], then the changes since. What it asks for is a *set*, named as the
//! provider that asks: the inventory when it is unset. Everything is of this site's own resources, without those that came by links and
//! without secret properties; `inventory` without types that have a writing service, and without categories and tags;
//! `acquisition-specs` those alone. `tagging` is no copy: see below. Models are told apart: each answer carries their version, and
//! whoever finds a new one asks for [`Models`] before it reads on.
//!
//! # Frames
//! Resources travel as an LZ4 block with its length in front (four bytes, little endian), in base64. Inside is a line for each
//! resource: type, tab, id, tab, properties as plain JSON; nothing behind the last tab when the resource is gone. Types and ids hold no
//! control characters, so neither tab nor line end needs an escape.
//!
//! # Tagging
//! In the set `tagging` a line is of a category, a tag, or an object that has or had tags, and in the place of properties stands what
//! the site knows of the edits of it: `{"seen": {site: tick}, "is": {register: [tick, site, value]}}`, as `lockstep-site/src/stamps.rs` has it.
//! Objects are the site's own, and those of the asker that it has copies of: with the asker's id, and `"yours": true` beside. Types are
//! those of the resources, and `TagConflict` for edits that were lost. Places are among the answerer's own resources, and mean
//! nothing else. There are no digests: what is known already is passed over when it comes again.
//!
//! # Digests
//! A digest of a resource is a number of 64 bits as 16 hex digits; that of a range is the sum of its resources'. How it is reckoned is
//! `links/src/inventory/digest.rs`; two sites that reckon differently copy more than they need and nothing wrong.

use crate::services::{NoInput, TypedId};
use crate::{Binary, Method, Rest, operation, structure};

const PATH: &str = "/lockstep/link-pull";

structure! {
    /// What is to be copied.
    pub struct StartInput = "operation-input" {
        /// The set; unset: `inventory`.
        set: Option<String>,
        /// The link that it is asked over; for `tagging`.
        link: Option<String>,
    }
}

structure! {
    /// Where a copy begins.
    pub struct Started = "lockstep.links.pull.started" {
        /// This moment, for `changes`.
        token: String,
        /// How many resources there are to copy.
        total: i64,
        /// The version of the models; empty when none was registered at run time.
        models: String,
    }
}

structure! {
    /// The models that were registered at run time.
    pub struct ModelList = "lockstep.links.pull.model_list" {
        /// Their version.
        models: String,
        /// Their definitions as JSON.
        definitions: Vec<String>,
    }
}

structure! {
    /// Where to go on.
    pub struct AfterInput = "operation-input" {
        /// Behind this resource, by type and id; unset: at the first.
        after: Option<TypedId>,
        /// The set; unset: `inventory`.
        set: Option<String>,
        /// The link that it is asked over; for `tagging`.
        link: Option<String>,
    }
}

structure! {
    /// Resources in the order of their types and ids, as they are at this moment.
    pub struct PageOut = "lockstep.links.pull.page" {
        /// The resources.
        frame: Binary,
        /// Where the next page begins: all there was up to it is in this one or before; unset at the end.
        next: Option<TypedId>,
        /// The version of the models.
        models: String,
    }
}

structure! {
    /// Resources from one place to another.
    pub struct DigestRange = "lockstep.links.pull.range" {
        /// The last one; the first is behind the range before.
        last: TypedId,
        /// How many there are.
        count: i64,
        /// The sum of their digests.
        digest: String,
    }
}

structure! {
    /// Ranges in order, without gaps.
    pub struct DigestPage = "lockstep.links.pull.digest_page" {
        /// The ranges.
        ranges: Vec<DigestRange>,
        /// Whether there are resources behind the last range.
        more: bool,
        /// The version of the models.
        models: String,
    }
}

structure! {
    /// A range.
    pub struct EntriesInput = "operation-input" {
        /// It begins behind this resource; unset: at the first.
        after: Option<TypedId>,
        /// Its last resource.
        last: TypedId,
        /// The set; unset: `inventory`.
        set: Option<String>,
    }
}

structure! {
    /// A resource's digest.
    pub struct DigestEntry = "lockstep.links.pull.entry" {
        /// Which one.
        resource: TypedId,
        /// Its digest.
        digest: String,
    }
}

structure! {
    /// Digests of single resources, in order.
    pub struct EntryPage = "lockstep.links.pull.entry_page" {
        /// The resources.
        entries: Vec<DigestEntry>,
        /// Go on behind this one; unset when the range is told.
        next: Option<TypedId>,
    }
}

structure! {
    /// Which resources.
    pub struct FetchInput = "operation-input" {
        /// At most [`FETCH_MAX`].
        resources: Vec<TypedId>,
        /// The set; unset: `inventory`.
        set: Option<String>,
    }
}

/// Most resources that are fetched at a time.
pub const FETCH_MAX: usize = 2000;

structure! {
    /// Resources that were asked for by id.
    pub struct Fetched = "lockstep.links.pull.fetched" {
        /// The first of them, in the order asked for; those that are not there as gone.
        frame: Binary,
    }
}

structure! {
    /// Where to go on.
    pub struct ChangesInput = "operation-input" {
        /// The token of the last answer.
        token: String,
        /// How long to wait for a change, in seconds; at most [`WAIT_MAX_S`].
        wait_s: Option<i64>,
        /// The set; unset: `inventory`.
        set: Option<String>,
        /// The link that it is asked over; for `tagging`.
        link: Option<String>,
    }
}

/// Longest wait for a change, in seconds.
pub const WAIT_MAX_S: i64 = 25;

structure! {
    /// What changed, each resource once and as it is at this moment.
    pub struct ChangesOut = "lockstep.links.pull.changes" {
        /// For the next call. It goes on even if nothing changed that is told.
        token: String,
        /// The resources.
        frame: Binary,
        /// Whether more has changed already.
        more: bool,
        /// The version of the models.
        models: String,
    }
}

operation! {
    /// A moment to copy from.
    pub Start = "lockstep.links.pull"."start"(StartInput) -> Started,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("start"),
}

operation! {
    /// The models that were registered at run time.
    pub Models = "lockstep.links.pull"."models"(NoInput) -> ModelList,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("models"),
}

operation! {
    /// The resources behind a place.
    pub Page = "lockstep.links.pull"."page"(AfterInput) -> PageOut,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("page"),
}

operation! {
    /// Digests of ranges behind a place: to find out where two copies differ.
    pub Digests = "lockstep.links.pull"."digests"(AfterInput) -> DigestPage,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("digests"),
}

operation! {
    /// Digests of the resources of a range.
    pub Entries = "lockstep.links.pull"."entries"(EntriesInput) -> EntryPage,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("entries"),
}

operation! {
    /// Resources by id.
    pub Fetch = "lockstep.links.pull"."fetch"(FetchInput) -> Fetched,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("fetch"),
}

operation! {
    /// What changed after a token. A token that has aged out is refused with `lockstep.cdc.expired`, one of another log with
    /// `lockstep.cdc.invalid`.
    pub Changes = "lockstep.links.pull"."changes"(ChangesInput) -> ChangesOut,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Post, PATH, 200).action("changes"),
    waits: true,
}
