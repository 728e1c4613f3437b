//! Acquisition specifications: what is sampled, how often, and until when.
//!
//! Source: `api/vstats.md`, sections 2 to 4.

use crate::services::stats::{CidMid, RsrcId};
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// What becomes of a specification.
    pub enum Status = "com.vmware.vstats.acq_specs.status" {
        /// It is sampled.
        Enabled = "ENABLED",
        /// It waits for a provider of its counters.
        Disabled = "DISABLED",
        /// Its time is over; an update that moves the expiration ahead revives it.
        Expired = "EXPIRED",
    }
}

structure! {
    /// What is sampled: a counter, or all counters of a set. Exactly one of the two.
    pub struct CounterSpec = "com.vmware.vstats.acq_specs.counter_spec" {
        /// A counter.
        cid_mid: Option<CidMid>,
        /// A set of counters.
        set_id: Option<String>,
    }
}

structure! {
    /// A new specification.
    pub struct CreateSpec = "com.vmware.vstats.acq_specs.create_spec" {
        /// What is sampled.
        counters: CounterSpec,
        /// Of which resources: together they describe one pattern of resource addresses.
        resources: Vec<RsrcId>,
        /// Seconds between samples; unset: 10.
        interval: Option<i64>,
        /// When it ends, in seconds since 1970; unset or 0: in 100 minutes.
        expiration: Option<i64>,
        /// For people.
        memo_: Option<String>,
    }
}

structure! {
    /// Changes of a specification; what is unset stays.
    pub struct UpdateSpec = "com.vmware.vstats.acq_specs.update_spec" {
        /// What is sampled.
        counters: Option<CounterSpec>,
        /// Of which resources.
        resources: Option<Vec<RsrcId>>,
        /// Seconds between samples.
        interval: Option<i64>,
        /// When it ends, in seconds since 1970; 0: in 100 minutes.
        expiration: Option<i64>,
        /// For people.
        memo_: Option<String>,
    }
}

structure! {
    /// A specification.
    pub struct Info = "com.vmware.vstats.acq_specs.info" {
        /// What is sampled.
        counters: CounterSpec,
        /// Of which resources, defaults filled in.
        resources: Vec<RsrcId>,
        /// Seconds between samples.
        interval: Option<i64>,
        /// When it ends, in seconds since 1970.
        expiration: Option<i64>,
        /// For people.
        memo_: String,
        /// The specification's id.
        id: String,
        /// What becomes of it.
        status: Status,
    }
}

structure! {
    /// Which page of the list.
    pub struct FilterSpec = "com.vmware.vstats.acq_specs.filter_spec" {
        /// The `next` of the page before; unset: the first page.
        page: Option<String>,
    }
}

structure! {
    /// A page of the list.
    pub struct ListResult = "com.vmware.vstats.acq_specs.list_result" {
        /// The specifications, by id.
        acq_specs: Vec<Info>,
        /// Names the next page; unset: there is none.
        next: Option<String>,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// The specification.
        acq_spec: CreateSpec,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which page.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// The parameters of `get` and `delete`.
    pub struct IdInput = "operation-input" {
        /// The specification's id.
        id: String,
    }
}

structure! {
    /// The parameters of `update`.
    pub struct UpdateInput = "operation-input" {
        /// The specification's id.
        id: String,
        /// What changes.
        acq_spec: UpdateSpec,
    }
}

operation! {
    /// Asks for samples. Answers the specification's id.
    pub Create = "com.vmware.vstats.acq_specs"."create"(CreateInput) -> String,
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/stats/acq-specs", 201).body("acq_spec"),
}

operation! {
    /// Lists the specifications.
    pub List = "com.vmware.vstats.acq_specs"."list"(ListInput) -> ListResult,
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest { query: &[("page", "filter.page")], ..Rest::new(Method::Get, "/stats/acq-specs", 200) },
}

operation! {
    /// A specification.
    pub Get = "com.vmware.vstats.acq_specs"."get"(IdInput) -> Info,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/acq-specs/{id}", 200),
    id: "id",
}

operation! {
    /// Changes a specification.
    pub Update = "com.vmware.vstats.acq_specs"."update"(UpdateInput) -> (),
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Patch, "/stats/acq-specs/{id}", 204).body("acq_spec"),
    id: "id",
}

operation! {
    /// Ends a specification. The samples that were taken stay.
    pub Delete = "com.vmware.vstats.acq_specs"."delete"(IdInput) -> (),
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Delete, "/stats/acq-specs/{id}", 204),
    id: "id",
}
