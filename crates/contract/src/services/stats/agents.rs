//! Providers of samples: the list that the contract has, and what agents call.
//!
//! Source: `api/vstats.md`, sections 1 and 3; the calls of agents are ours.

use crate::services::NoInput;
use crate::{Binary, Method, Rest, operation, structure};

structure! {
    /// A provider: a source of samples.
    pub struct Summary = "com.vmware.vstats.providers.summary" {
        /// The provider's id.
        id: String,
        /// The id of what it stands on in the inventory, e.g. of a host.
        id_value: String,
        /// The type of that, e.g. `HOST`.
        resource_type as "type": String,
        /// What sort of id it is.
        scheme: Option<String>,
        /// What else it says of itself.
        metadata: Option<String>,
        /// When it last listed its counters, in seconds since 1970.
        tracking_sn: Option<i64>,
    }
}

operation! {
    /// Lists the providers.
    pub List = "com.vmware.vstats.providers"."list"(NoInput) -> Vec<Summary>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/providers", 200),
}

structure! {
    /// A provider with what it does for the site.
    pub struct Provider = "lockstep.stats.providers.provider" {
        /// The provider's id.
        id: String,
        /// The resource that it stands on: a `HostSystem` of the inventory.
        host: String,
        /// What it says of itself, e.g. its version; `generated` for one whose points are made up.
        metadata: String,
        /// How many counters it offers.
        counters: i64,
        /// When it was last heard, in seconds since 1970.
        last_seen: i64,
        /// Whether it was heard lately: what only it offers is DISABLED otherwise.
        is_present: bool,
    }
}

operation! {
    /// Lists the providers with their presence.
    pub ListProviders = "lockstep.stats.providers"."list"(NoInput) -> Vec<Provider>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/stats/providers", 200),
}

structure! {
    /// The parameters of `register`.
    pub struct RegisterInput = "operation-input" {
        /// The id of the host in the inventory.
        host: String,
        /// What the provider says of itself.
        metadata: String,
        /// The counters that it offers.
        counters: Vec<String>,
    }
}

structure! {
    /// What a provider is told.
    pub struct Registered = "lockstep.stats.providers.registered" {
        /// The provider's id.
        id: String,
        /// Seconds after which it is taken for gone unless it registers again or sends points.
        absent_after_s: i64,
    }
}

operation! {
    /// Says that a provider is there, and which counters it offers. Asked again, it says that it is still there.
    pub Register = "lockstep.stats.providers"."register"(RegisterInput) -> Registered,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Sample,
    rest: Rest::new(Method::Post, "/lockstep/stats/providers", 200).action("register"),
}

structure! {
    /// The parameters of `delete`.
    pub struct ProviderInput = "operation-input" {
        /// The provider's id.
        provider: String,
    }
}

operation! {
    /// Forgets a provider. Its points stay.
    pub Delete = "lockstep.stats.providers"."delete"(ProviderInput) -> (),
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Delete, "/lockstep/stats/providers/{provider}", 204),
}

structure! {
    /// The parameters of `write`.
    pub struct WriteInput = "operation-input" {
        /// The provider's id; unset: nobody's presence is refreshed.
        provider: Option<String>,
        /// The points: a `lockstep.points.Batch` of protocol buffers.
        points: Binary,
    }
}

structure! {
    /// What became of a batch.
    pub struct Written = "lockstep.stats.points.written" {
        /// Points that were stored, also those that were there already.
        stored: i64,
        /// Points that were older than what is kept.
        too_old: i64,
        /// Points of the future.
        too_new: i64,
    }
}

operation! {
    /// Stores points: durable when it answers. A point sent twice is stored once, the later value in the place of the earlier.
    pub Write = "lockstep.stats.points"."write"(WriteInput) -> Written,
    errors: [InvalidArgument, ServiceUnavailable, UnableToAllocateResource, Unauthenticated, Unauthorized],
    privilege: Sample,
    rest: Rest::new(Method::Post, "/lockstep/stats/points", 200),
}
