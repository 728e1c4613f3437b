//! Replications of single machines.
//!
//! Whatever changes something answers a task. What cannot be done in the present state is refused at once, without one.
//!
//! Source: `api/vcda.md`, sections 7 and 8.

use super::{DataConnection, Instance, Replication, RetentionPolicy};
use crate::services::tasks::Task;
use crate::{Method, Rest, operation, structure};

structure! {
    /// What to replicate.
    pub struct CreateSource = "lockstep.replication.vm.create_source" {
        /// `vm`; `vapp` and `vcVm` mean the same here.
        kind as "type": Option<String>,
        /// The site; this one unless said otherwise.
        site: Option<String>,
        /// The machine.
        vm_id as "vmId": Option<String>,
        /// The machine, by its vApp.
        vapp_id as "vappId": Option<String>,
        /// The machine, as clients of vCenter name it.
        mo_id as "moId": Option<String>,
    }
}

structure! {
    /// Where to.
    pub struct CreateDestination = "lockstep.replication.vm.create_destination" {
        /// `vcloud` and others: they mean the same here.
        kind as "type": Option<String>,
        /// The linked site.
        site: String,
        /// The data centre there; kept, and shown again.
        vdc: Option<String>,
        /// Kept, and shown again.
        storage_profile as "storageProfile": Option<String>,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// What.
        source: CreateSource,
        /// Where to.
        destination: CreateDestination,
        /// For people.
        description: Option<String>,
        /// Minutes that the newest instance may be behind: 1 to 1440. An hour unless said otherwise; a day for a migration.
        rpo: Option<i64>,
        /// Kept, and shown again.
        sla_profile_id as "slaProfileId": Option<String>,
        /// How the data travel.
        data_connection_type as "dataConnectionType": Option<DataConnection>,
        /// Whether the guest's file systems are frozen for the instant of an instance.
        quiesced: Option<bool>,
        /// Which instances are kept; the latest alone unless said otherwise.
        retention_policy as "retentionPolicy": Option<RetentionPolicy>,
        /// Kept, and shown again.
        target_disk_type as "targetDiskType": Option<String>,
        /// When the first sync is to begin, in milliseconds since 1970; at once for what is past.
        initial_sync_time as "initialSyncTime": Option<i64>,
        /// Disks to leave out, by key: 2000 is the first.
        excluded_disk_keys as "excludedDiskKeys": Option<Vec<i64>>,
        /// Whether it is to move the machine for good.
        is_migration as "isMigration": Option<bool>,
    }
}

structure! {
    /// Some of many.
    pub struct Page = "lockstep.replication.vm.page" {
        /// The replications, by id.
        items: Vec<Replication>,
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
        /// From this data centre.
        source_vdc_id as "sourceVdcId": Option<String>,
        /// From the data centre of this name.
        source_vdc_name as "sourceVdcName": Option<String>,
        /// From this site.
        source_site as "sourceSite": Option<String>,
        /// `vcloud` or `vcenter`: Lockstep is both.
        source_site_type as "sourceSiteType": Option<String>,
        /// From this organization.
        source_org as "sourceOrg": Option<String>,
        /// Of this machine.
        vm_id as "vmId": Option<String>,
        /// Of machines whose name holds this; `%` stands for anything.
        vm_name as "vmName": Option<String>,
        /// To this site.
        destination_site as "destinationSite": Option<String>,
        /// To this organization.
        destination_org as "destinationOrg": Option<String>,
        /// To this data centre.
        destination_vdc_id as "destinationVdcId": Option<String>,
        /// To the data centre of this name.
        destination_vdc_name as "destinationVdcName": Option<String>,
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
        /// The id: `C4-` or `H4-` and a UUID.
        replication_id as "replicationId": String,
    }
}

structure! {
    /// An instance by its key.
    pub struct InstanceInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// The instance.
        key: String,
    }
}

structure! {
    /// The parameters of `update`: what is not there stays as it is.
    pub struct UpdateInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// For people.
        description: Option<String>,
        /// Minutes that the newest instance may be behind: 1 to 1440.
        rpo: Option<i64>,
        /// Whether the guest's file systems are frozen for the instant of an instance.
        quiesced: Option<bool>,
        /// How the data travel.
        data_connection_type as "dataConnectionType": Option<DataConnection>,
        /// Which instances are kept.
        retention_policy as "retentionPolicy": Option<RetentionPolicy>,
        /// Kept, and shown again. One that is not named again is dropped by any other change.
        sla_profile_id as "slaProfileId": Option<String>,
        /// Disks to leave out, by key.
        excluded_disk_keys as "excludedDiskKeys": Option<Vec<i64>>,
    }
}

structure! {
    /// The parameters of `failover`, `failover_test` and `migrate`.
    pub struct RecoverInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// The instance; the latest unless said otherwise.
        instance_id as "instanceId": Option<String>,
        /// Whether the machine is started.
        power_on as "powerOn": Option<bool>,
        /// Whether the recovered disks come to stand on their own; those of a failover always do.
        consolidate: Option<bool>,
        /// Whether a sync goes before it; not together with an instance.
        sync: Option<bool>,
    }
}

structure! {
    /// The parameters of `chown`.
    pub struct ChownInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// `org@site`; the caller's own unless said otherwise.
        owner: Option<String>,
    }
}

structure! {
    /// The parameters of `traffic`.
    pub struct TrafficInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// From when on, in milliseconds since 1970.
        start: Option<i64>,
        /// Until when, in milliseconds since 1970.
        end: Option<i64>,
        /// Seconds of a sample.
        resolution: Option<i64>,
    }
}

structure! {
    /// Bytes at a time.
    pub struct TrafficSample = "lockstep.replication.vm.traffic_sample" {
        /// When, in milliseconds since 1970.
        timestamp: i64,
        /// Bytes that were transferred.
        value: i64,
    }
}

structure! {
    /// Bytes over time.
    pub struct Traffic = "lockstep.replication.vm.traffic" {
        /// What was counted.
        label: String,
        /// Seconds of a sample; 0 for a sample an instance.
        resolution: i64,
        /// From when on.
        start: i64,
        /// Until when.
        end: i64,
        /// A sample an instance.
        samples: Vec<TrafficSample>,
    }
}

structure! {
    /// The parameters of `storage_profile`.
    pub struct StorageProfileInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// Kept, and shown again.
        storage_profile_id as "storageProfileId": String,
    }
}

structure! {
    /// The parameters of `export`.
    pub struct ExportInput = "operation-input" {
        /// The replication.
        replication_id as "replicationId": String,
        /// The instance; the latest unless said otherwise.
        instance_id as "instanceId": Option<String>,
        /// `raw` or `qcow2`.
        format: Option<String>,
        /// A directory of the destination's server, below the one that it was told to export to.
        directory: String,
    }
}

structure! {
    /// A disk of an instance that can be read.
    pub struct ServedDisk = "lockstep.replication.vm.served_disk" {
        /// Its key.
        disk_key as "diskKey": i64,
        /// Its size, in bytes.
        bytes: i64,
        /// Where programs of the destination's host read it over NBD.
        url: String,
    }
}

operation! {
    /// Begins to replicate a machine to a linked site.
    pub Create = "lockstep.replication.vm"."create"(CreateInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable, AlreadyExists],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications", 202),
    availability: Rest::new(Method::Post, "/vm-replications", 202),
}

operation! {
    /// Replications, incoming and outgoing, by id.
    pub List = "lockstep.replication.vm"."list"(ListInput) -> Page,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications", 200),
    availability: Rest::new(Method::Get, "/vm-replications", 200),
}

operation! {
    /// A replication.
    pub Get = "lockstep.replication.vm"."get"(Input) -> Replication,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications/{replicationId}", 200),
    availability: Rest::new(Method::Get, "/vm-replications/{replicationId}", 200),
}

operation! {
    /// Changes what a replication was told.
    pub Update = "lockstep.replication.vm"."update"(UpdateInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Patch, "/lockstep/replication/vm-replications/{replicationId}", 202),
    availability: Rest::new(Method::Patch, "/vm-replications/{replicationId}", 202),
}

operation! {
    /// Ends a replication, and removes its instances unless the machine was recovered from them.
    pub Delete = "lockstep.replication.vm"."delete"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Delete, "/lockstep/replication/vm-replications/{replicationId}", 202),
    availability: Rest::new(Method::Delete, "/vm-replications/{replicationId}", 202),
}

operation! {
    /// Brings what changed to the destination now, as a new instance. Asked while a sync runs, it answers that one's task.
    ///
    /// Source: seed 004, `POST /vm-replications/{replicationId}/sync`.
    pub Sync = "lockstep.replication.vm"."sync"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/sync", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/sync", 202),
}

operation! {
    /// Lets a replication rest.
    pub Pause = "lockstep.replication.vm"."pause"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/pause", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/pause", 202),
}

operation! {
    /// Lets a replication go on.
    pub Resume = "lockstep.replication.vm"."resume"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/resume", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/resume", 202),
}

operation! {
    /// The instances of a replication, the oldest first.
    pub Instances = "lockstep.replication.vm"."instances"(Input) -> Vec<Instance>,
    errors: [NotFound, ServiceUnavailable],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications/{replicationId}/instances", 200),
    availability: Rest::new(Method::Get, "/vm-replications/{replicationId}/instances", 200),
}

operation! {
    /// An instance, with its disks.
    pub GetInstance = "lockstep.replication.vm"."instance"(InstanceInput) -> Instance,
    errors: [NotFound, ServiceUnavailable],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications/{replicationId}/instances/{key}", 200),
    availability: Rest::new(Method::Get, "/vm-replications/{replicationId}/instances/{key}", 200),
}

operation! {
    /// Brings the machine to life at the destination.
    pub Failover = "lockstep.replication.vm"."failover"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/failover", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/failover", 202),
}

operation! {
    /// Brings a copy of the machine to life at the destination, while the replication goes on.
    pub FailoverTest = "lockstep.replication.vm"."failover_test"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/failover-test", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/failover-test", 202),
}

operation! {
    /// Removes what a test has brought to life.
    pub FailoverTestCleanup = "lockstep.replication.vm"."failover_test_cleanup"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Delete, "/lockstep/replication/vm-replications/{replicationId}/failover-test", 202),
    availability: Rest::new(Method::Delete, "/vm-replications/{replicationId}/failover-test", 202),
}

operation! {
    /// Moves the machine: switched off here, synced a last time, brought to life there.
    pub Migrate = "lockstep.replication.vm"."migrate"(RecoverInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/migrate", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/migrate", 202),
}

operation! {
    /// Turns a replication that was recovered around: the recovered machine is replicated back, with the same id. The old machine is
    /// switched off, and its disks are what the first sync differs from. Both sites need a store for instances.
    pub Reverse = "lockstep.replication.vm"."reverse"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/reverse", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/reverse", 202),
}

operation! {
    /// Gives a replication to somebody else.
    pub Chown = "lockstep.replication.vm"."chown"(ChownInput) -> Replication,
    errors: [InvalidArgument, NotFound],
    privilege: Accounts,
    rest: Rest::new(Method::Patch, "/lockstep/replication/vm-replications/{replicationId}/chown", 200),
    availability: Rest::new(Method::Patch, "/vm-replications/{replicationId}/chown", 200),
}

operation! {
    /// Bytes that were transferred, an instance a sample.
    pub GetTraffic = "lockstep.replication.vm"."traffic"(TrafficInput) -> Traffic,
    errors: [InvalidArgument, NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications/{replicationId}/traffic", 200),
    availability: Rest::new(Method::Get, "/vm-replications/{replicationId}/traffic", 200),
}

operation! {
    /// Bytes that the running sync has transferred so far.
    pub GetRealTimeTraffic = "lockstep.replication.vm"."real_time_traffic"(Input) -> TrafficSample,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vm-replications/{replicationId}/rt-traffic", 200),
    availability: Rest::new(Method::Get, "/vm-replications/{replicationId}/rt-traffic", 200),
}

operation! {
    /// Names a storage profile: kept, and shown again.
    pub SetStorageProfile = "lockstep.replication.vm"."storage_profile"(StorageProfileInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/storage-profile", 202),
    availability: Rest::new(Method::Post, "/vm-replications/{replicationId}/storage-profile", 202),
}

operation! {
    /// Reads every block of a replication's instances at the destination, and tells what is damaged.
    pub Verify = "lockstep.replication.vm"."verify"(Input) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/verify", 202),
}

operation! {
    /// Lets the disks of an instance be read over NBD at the destination, at once and without a copy, until it is told otherwise or its
    /// server ends. What is read is checked; the instance is pinned meanwhile. One that is served already is served once.
    pub Serve = "lockstep.replication.vm"."serve"(InstanceInput) -> Vec<ServedDisk>,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/instances/{key}/serve", 200),
}

operation! {
    /// Lets an instance be read no longer; who reads it already reads on. One that is not served is no error.
    pub StopServing = "lockstep.replication.vm"."stop_serving"(InstanceInput) -> (),
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Delete, "/lockstep/replication/vm-replications/{replicationId}/instances/{key}/serve", 204),
}

operation! {
    /// Writes the disks of an instance as files at the destination.
    pub Export = "lockstep.replication.vm"."export"(ExportInput) -> Task,
    errors: [InvalidArgument, NotFound, NotAllowedInCurrentState, ResourceBusy, ServiceUnavailable],
    privilege: Protect,
    rest: Rest::new(Method::Post, "/lockstep/replication/vm-replications/{replicationId}/export", 202),
}
