//! Replications of vApps. Each machine is a vApp of its own here, so these are the same replications by another name.
//!
//! Source: `api/vcda.md`, sections 7 and 8.

use super::vm::{CreateInput, UpdateInput};
use super::{Destination, Health, Replication, Settings, Source};
use crate::services::NoInput;
use crate::services::tasks::Task;
use crate::{Map, Method, Rest, operation, structure};

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

structure! {
    /// The parameters of `failover`, `failover_test` and `migrate`.
    pub struct RecoverInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// For the machine's replication, the instance; the latest unless said otherwise.
        instance_map as "instanceMap": Option<Map<String>>,
        /// Whether the machine is started.
        power_on as "powerOn": Option<bool>,
        /// Whether the recovered disks stand on their own; they always do.
        consolidate: Option<bool>,
        /// Whether a sync goes before it; not together with an instance.
        sync: Option<bool>,
    }
}

structure! {
    /// How all replications of vApps are.
    pub struct Summary = "lockstep.replication.vapp.summary" {
        /// How many there are.
        total: i64,
        /// Those from this site.
        outgoing: i64,
        /// Those to this site.
        incoming: i64,
        /// Those that are as they should be.
        green: i64,
        /// Those that have fallen behind or rest.
        yellow: i64,
        /// Those whose last sync failed.
        red: i64,
        /// Those that rest.
        paused: i64,
        /// Those that have fallen behind further than they may.
        rpo_violations as "rpoViolations": i64,
        /// Those of which a test's copy is there.
        in_test as "inTest": i64,
        /// Those that were recovered.
        recovered: i64,
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

operation! {
    /// Changes what it was told.
    pub Update = "lockstep.replication.vapp"."update"(UpdateInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Patch, "/lockstep/replication/vapp-replications/{replicationId}", 202),
    availability: Rest::new(Method::Patch, "/vapp-replications/{replicationId}", 202),
}

operation! {
    /// Brings the machine to life at the destination.
    pub Failover = "lockstep.replication.vapp"."failover"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/failover", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/failover", 202),
}

operation! {
    /// Brings a copy of the machine to life at the destination, while the replication goes on.
    pub FailoverTest = "lockstep.replication.vapp"."failover_test"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/failover-test", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/failover-test", 202),
}

operation! {
    /// Removes what a test has brought to life.
    pub FailoverTestCleanup = "lockstep.replication.vapp"."failover_test_cleanup"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Delete, "/lockstep/replication/vapp-replications/{replicationId}/failover-test", 202),
    availability: Rest::new(Method::Delete, "/vapp-replications/{replicationId}/failover-test", 202),
}

operation! {
    /// Moves the machine: switched off here, synced a last time, brought to life there.
    pub Migrate = "lockstep.replication.vapp"."migrate"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/migrate", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/migrate", 202),
}

operation! {
    /// Turns a replication that was recovered around: the recovered machine is replicated back, over the old one.
    pub Reverse = "lockstep.replication.vapp"."reverse"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vapp-replications/{replicationId}/reverse", 202),
    availability: Rest::new(Method::Post, "/vapp-replications/{replicationId}/reverse", 202),
}

operation! {
    /// How all replications of vApps are.
    pub GetSummary = "lockstep.replication.vapp"."summary"(NoInput) -> Summary,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vapp-summary", 200),
    availability: Rest::new(Method::Get, "/vapp-replications/summary", 200),
}
