//! Collectors: what keeps a part of the inventory as a source outside has it.

pub mod hosts;

use crate::services::NoInput;
use crate::{DateTime, Message, Method, Rest, Secret, enumeration, operation, structure};

enumeration! {
    /// What a collector collects from.
    pub enum Kind = "lockstep.collectors.kind" {
        /// A vCenter, or an ESXi host.
        Vcenter = "VCENTER",
        /// A machine, and the virtual machines there: the server's own, or one that an agent keeps. Such a collector is not made by
        /// `create`: `serve` has it, or an agent attaches itself.
        Host = "HOST",
    }
}

enumeration! {
    /// What a collector is at.
    pub enum Phase = "lockstep.collectors.phase" {
        /// It reaches for its source.
        Connecting = "CONNECTING",
        /// It reads everything that the source has, and compares.
        Reading = "READING",
        /// All is here, and changes come as they happen.
        Following = "FOLLOWING",
        /// It failed, and will try again.
        Failed = "FAILED",
    }
}

structure! {
    /// What a collector is made from.
    pub struct CreateSpec = "lockstep.collectors.create_spec" {
        /// The collector's name, which is its id; unset: the source's host name.
        name: Option<String>,
        /// What it collects from.
        kind: Kind,
        /// The source: `HOST`, `HOST:PORT` or `https://HOST[:PORT]`.
        address: String,
        /// The account there. The role Read-only on the root, propagated, is enough to collect; to switch machines it needs the privileges
        /// below `VirtualMachine.Interact` besides.
        user: String,
        /// Its password. Kept sealed with a key that is in no backup of the journal.
        password: Secret,
        /// SHA-256 of the certificate that the source shows, in hex with or without colons; unset: one that the system's roots vouch for.
        ssl_thumbprint: Option<String>,
        /// What the ids of its resources begin with; unset: nothing for the first collector, `NAME:` for each further one.
        id_prefix: Option<String>,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// What the collector is made from.
        spec: CreateSpec,
    }
}

structure! {
    /// How many resources of a type there are.
    pub struct Count = "lockstep.collectors.count" {
        /// The type.
        resource_type: String,
        /// How many.
        count: i64,
    }
}

structure! {
    /// A property that a source does not show: it is unset here, which says nothing of what it is there.
    pub struct Hidden = "lockstep.collectors.hidden" {
        /// The type of the objects there.
        object_type: String,
        /// The property there; empty for objects that are not shown at all.
        property: String,
        /// The privilege that the account lacks, or another reason.
        privilege: String,
        /// Of how many objects.
        objects: i64,
    }
}

structure! {
    /// A collector and how it is doing.
    pub struct Info = "lockstep.collectors.info" {
        /// Its name.
        collector: String,
        /// What it collects from.
        kind: Kind,
        /// Where the source is; for a host its name.
        address: String,
        /// The account there; for a host with an agent the agent's account here, for the server's own host empty.
        user: String,
        /// The certificate that the source must show.
        ssl_thumbprint: Option<String>,
        /// What the ids of its resources begin with.
        id_prefix: String,
        /// What the source says it is.
        product: Option<String>,
        /// When the collector was made.
        created: DateTime,
        /// What it is at.
        phase: Phase,
        /// Objects that were read in the present or last whole read.
        completed_work: i64,
        /// Objects that there are to read.
        total_work: i64,
        /// When the source last confirmed that its resources are as they are here; unset: not since the server started.
        confirmed: Option<DateTime>,
        /// Seconds since then; 0 while it follows.
        lag_s: Option<i64>,
        /// How long the last whole read took, in milliseconds.
        read_ms: Option<i64>,
        /// The resources that it keeps.
        resources: Vec<Count>,
        /// What the source does not show.
        hidden: Vec<Hidden>,
        /// Resources of the source that were left alone, since another collector or a link keeps those of the same id.
        left_alone: i64,
        /// Why it failed last, and what to do about it; unset once all is here.
        error: Option<Message>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct CollectorInput = "operation-input" {
        /// The collector's name.
        collector: String,
    }
}

structure! {
    /// The parameters of `delete`.
    pub struct DeleteInput = "operation-input" {
        /// The collector's name.
        collector: String,
        /// Also delete the resources that it keeps; unset: they stay, and are anyone's.
        purge: Option<bool>,
    }
}

operation! {
    /// Makes a collector, and answers its name. The source is reached and logged in to before anything is kept; then everything is read in
    /// the background.
    pub Create = "lockstep.collectors"."create"(CreateInput) -> String,
    errors: [AlreadyExists, Error, InvalidArgument, Unauthenticated, Unauthorized, UnverifiedPeer],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/lockstep/collectors", 201),
}

operation! {
    /// Lists the collectors and how they are doing.
    pub List = "lockstep.collectors"."list"(NoInput) -> Vec<Info>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/collectors", 200),
}

operation! {
    /// A collector and how it is doing.
    pub Get = "lockstep.collectors"."get"(CollectorInput) -> Info,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/collectors/{collector}", 200),
}

operation! {
    /// Ends a collector. The one of a host cannot be ended while the server or an agent keeps it; ended, the host is free for any agent.
    pub Delete = "lockstep.collectors"."delete"(DeleteInput) -> (),
    errors: [NotAllowedInCurrentState, NotFound, ServiceUnavailable, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Delete, "/lockstep/collectors/{collector}", 204),
}
