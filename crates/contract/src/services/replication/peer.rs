//! What the two sites of a replication ask of each other, with the link's account.
//!
//! The source owns what a replication is told and how its syncs go; the destination owns its instances and what was recovered from them.
//! Each keeps a copy of what the other owns: [`Put`] brings it, as often as it changes, and the later `revision` wins. What somebody asks of the
//! wrong side is run on the right one ([`Run`]), and its task followed ([`Follow`]). When a replication is turned around, the source becomes the
//! destination first ([`Turn`]), and answers what both sites have from then on.

use super::Instance;
use crate::services::tasks::Task;
use crate::{Method, Opaque, Rest, operation, structure};

structure! {
    /// A side of a replication, as its owner has it.
    pub struct PutInput = "operation-input" {
        /// The replication: a UUID.
        replication: String,
        /// Which side it is that tells: `SOURCE` or `DESTINATION`.
        side: super::Side,
        /// Counts up with each change of that side.
        revision: i64,
        /// The properties that this side owns, as they are stored.
        properties: Opaque,
        /// Whether the replication is new.
        create: bool,
    }
}

structure! {
    /// A replication by its UUID.
    pub struct Input = "operation-input" {
        /// The UUID.
        replication: String,
    }
}

structure! {
    /// The parameters of `remove`.
    pub struct RemoveInput = "operation-input" {
        /// The UUID.
        replication: String,
        /// Whether the instances go too.
        instances: bool,
    }
}

structure! {
    /// The parameters of `run`.
    pub struct RunInput = "operation-input" {
        /// The replication: a UUID.
        replication: String,
        /// What to do: a verb of the API, e.g. `sync`.
        verb: String,
        /// Its parameters.
        input: Opaque,
        /// Who asks, at the site that passes it on.
        user: String,
    }
}

structure! {
    /// A task by its id.
    pub struct FollowInput = "operation-input" {
        /// The replication that it is about: a UUID.
        replication: String,
        /// The task.
        task: String,
        /// Whether it is to be cancelled.
        cancel: bool,
    }
}

structure! {
    /// The parameters of `turn`.
    pub struct TurnInput = "operation-input" {
        /// The replication: a UUID.
        replication: String,
        /// How often it will have been turned around.
        turns: i64,
        /// The recovered machine, which will be replicated, as its site calls it.
        vm: String,
    }
}

structure! {
    /// A replication that was turned around.
    pub struct Turned = "lockstep.replication.peer.turned" {
        /// The properties that the new source owns, as they are stored.
        source: Opaque,
        /// The properties that the new destination owns, as they are stored.
        replica: Opaque,
    }
}

operation! {
    /// Tells how a side of a replication is. One with a lower revision than the one before is ignored.
    pub Put = "lockstep.replication.peer"."put"(PutInput) -> (),
    errors: [InvalidArgument, NotFound, AlreadyExists, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Put, "/lockstep/replication/peer/{replication}", 204),
}

operation! {
    /// Removes a replication here. One that is not there is no error.
    pub Remove = "lockstep.replication.peer"."remove"(RemoveInput) -> (),
    errors: [ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Delete, "/lockstep/replication/peer/{replication}", 204),
}

operation! {
    /// The instances of a replication, the oldest first.
    pub Instances = "lockstep.replication.peer"."instances"(Input) -> Vec<Instance>,
    errors: [NotFound, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Get, "/lockstep/replication/peer/{replication}/instances", 200),
}

operation! {
    /// Does what somebody has asked for at the other site.
    pub Run = "lockstep.replication.peer"."run"(RunInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, "/lockstep/replication/peer/{replication}", 202).action("run"),
}

operation! {
    /// Makes the source of a replication its destination. One that was turned so already answers the same again.
    pub Turn = "lockstep.replication.peer"."turn"(TurnInput) -> Turned,
    errors: [NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Replicate,
    rest: Rest::new(Method::Post, "/lockstep/replication/peer/{replication}", 200).action("turn"),
}

operation! {
    /// How far such a task is.
    pub Follow = "lockstep.replication.peer"."follow"(FollowInput) -> Task,
    errors: [NotFound],
    privilege: Replicate,
    rest: Rest::new(Method::Post, "/lockstep/replication/peer/{replication}", 200).action("follow"),
}
