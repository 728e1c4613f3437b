//! Replications of vApps. Each machine is a vApp of its own here, so these are the same replications by another name.
//!
//! Source: `api/vcda.md`, sections 7 and 8.

use super::vm::CreateInput;
use super::{Destination, Health, Replication, Settings, Source};
use crate::services::tasks::Task;
use crate::{Method, Rest, operation, structure};

structure! {
    /// What a vApp is called.
    pub struct Descriptor = "lockstep.replication.vapp.descriptor" {
        /// Its name.
        name: String,
        /// For people.
        description: String,
        /// None.
        networks: Vec<String>,
    }
}

structure! {
    /// A replication of a vApp.
    pub struct VappReplication = "lockstep.replication.vapp.info" {
        /// `C4VAPP-` and a UUID.
        id: String,
        /// `org@site`.
        owner: String,
        /// Whether it moves the vApp for good.
        is_migration as "isMigration": bool,
        /// When it was last changed, in milliseconds since 1970.
        last_updated as "lastUpdated": i64,
        /// How it is.
        overall_health as "overallHealth": Health,
        /// What it is called.
        descriptor: Descriptor,
        /// Where it is.
        source: Source,
        /// Where the instances are.
        destination: Destination,
        /// What it was told.
        settings: Settings,
        /// The one of its machine.
        vm_replications as "vmReplications": Vec<Replication>,
    }
}

structure! {
    /// Some of many.
    pub struct Page = "lockstep.replication.vapp.page" {
        /// The replications, by the id of their machine's.
        items: Vec<VappReplication>,
        /// How many were passed over.
        offset: i64,
        /// Most that were asked for.
        limit: i64,
        /// How many there are in all.
        total: i64,
    }
}

structure! {
    /// The parameters of `list`. All conditions hold together.
    pub struct ListInput = "operation-input" {
        /// Of this owner.
        owner: Option<String>,
        /// From this site.
        source_site as "sourceSite": Option<String>,
        /// To this site.
        destination_site as "destinationSite": Option<String>,
        /// Of vApps whose name holds this; `%` stands for anything.
        vapp_name as "vappName": Option<String>,
        /// These replications: ids with commas between.
        ids: Option<String>,
        /// How many to pass over.
        offset: Option<i64>,
        /// How many to answer at most; 100 unless said otherwise.
        limit: Option<i64>,
    }
}

structure! {
    /// A replication by its id.
    pub struct Input = "operation-input" {
        /// The id: `C4VAPP-` and a UUID.
        replication_id as "replicationId": String,
    }
}

operation! {
    /// Begins to replicate a vApp.
    pub Create = "lockstep.replication.vapp"."create"(CreateInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, AlreadyExists],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications", 202),
    availability: Rest::new(Method::Post, "/vapp-replications", 202),
}

operation! {
    /// Replications of vApps.
    pub List = "lockstep.replication.vapp"."list"(ListInput) -> Page,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vapp-replications", 200),
    availability: Rest::new(Method::Get, "/vapp-replications", 200),
}

operation! {
    /// A replication of a vApp.
    pub Get = "lockstep.replication.vapp"."get"(Input) -> VappReplication,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vapp-replications/{replicationId}", 200),
    availability: Rest::new(Method::Get, "/vapp-replications/{replicationId}", 200),
}

operation! {
    /// Ends a replication.
    pub Delete = "lockstep.replication.vapp"."delete"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Delete, "/lockstep/replication/vapp-replications/{replicationId}", 202),
    availability: Rest::new(Method::Delete, "/vapp-replications/{replicationId}", 202),
}

operation! {
    /// Brings what changed to the destination now.
    pub Sync = "lockstep.replication.vapp"."sync"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/sync", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/sync", 202),
}

operation! {
    /// Lets a replication rest.
    pub Pause = "lockstep.replication.vapp"."pause"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/pause", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/pause", 202),
}

operation! {
    /// Lets a replication go on.
    pub Resume = "lockstep.replication.vapp"."resume"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/resume", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/resume", 202),
}
