//! Replication of machines to another site, as Cloud Director Availability tells it, and what stands around it.
//!
//! Names of fields and codes of errors are that API's. The same operations are served at its paths and, like all others, under `/api`;
//! what only Lockstep has is served there alone.
//!
//! Source: `api/vcda.md`.

pub mod codes;
pub mod peer;
pub mod sessions;
pub mod sites;
pub mod vapp;
pub mod vm;

use crate::services::tasks::ApiError;
use crate::{Map, Opaque, enumeration, structure};

/// Answers of a list unless said otherwise.
pub const PAGE_ITEMS_DEFAULT: i64 = 100;

/// Most answers of a list at a time.
pub const PAGE_ITEMS_MAX: i64 = 1000;

/// Least minutes that a replica may fall behind.
pub const RPO_MINUTES_MIN: i64 = 1;

/// Most minutes that a replica may fall behind.
pub const RPO_MINUTES_MAX: i64 = 1440;

/// Most instances that all retention rules of a replication keep together.
pub const INSTANCES_MAX: i64 = 24;

enumeration! {
    /// How a replication is, at a glance.
    pub enum Health = "lockstep.replication.health" {
        /// As it should be.
        Green = "GREEN",
        /// It has fallen behind, or rests.
        Yellow = "YELLOW",
        /// The last sync failed.
        Red = "RED",
    }
}

enumeration! {
    /// What goes on between the sites.
    pub enum ConnectionState = "lockstep.replication.connection_state" {
        /// Nothing; all is well.
        Ok = "OK",
        /// A sync.
        Syncing = "SYNCING",
        /// The first sync.
        InitialSyncing = "INITIAL_SYNCING",
        /// Old instances are merged.
        Pruning = "PRUNING",
        /// Nothing: it was paused.
        Paused = "PAUSED",
        /// Nothing: the machine is off.
        PoweredOff = "POWERED_OFF",
        /// Nothing any more: the machine was recovered.
        Finished = "FINISHED",
        /// The last sync failed.
        Error = "ERROR",
        /// It is not known.
        Unknown = "UNKNOWN",
    }
}

enumeration! {
    /// What the destination does.
    pub enum ReplicaState = "lockstep.replication.replica_state" {
        /// It waits.
        Idle = "idle",
        /// It waits for the first sync.
        Passive = "passive",
        /// It has opened an image for somebody.
        Opened = "opened",
        /// It receives everything.
        FullSync = "fullsync",
        /// It receives what changed.
        Lwd = "lwd",
        /// It merges old instances.
        Prune = "prune",
        /// It was paused.
        Paused = "paused",
        /// It is not known.
        Unknown = "unknown",
    }
}

enumeration! {
    /// How far a replication is with bringing its machine to life at the destination.
    pub enum RecoveryState = "lockstep.replication.recovery_state" {
        /// It replicates.
        NotStarted = "NOT_STARTED",
        /// It is being recovered.
        InProgress = "IN_PROGRESS",
        /// A copy runs for a test.
        Test = "TEST",
        /// It was recovered: nothing is replicated any more.
        Complete = "COMPLETE",
    }
}

enumeration! {
    /// How the data travel.
    pub enum DataConnection = "lockstep.replication.data_connection" {
        /// In the clear, where the link has no TLS.
        Plain = "PLAIN",
        /// By TLS.
        Encrypted = "ENCRYPTED",
        /// Packed, by TLS.
        EncryptedCompressed = "ENCRYPTED_COMPRESSED",
    }
}

enumeration! {
    /// Which side of a replication a site is.
    pub enum Side = "lockstep.replication.side" {
        /// It has the machine.
        Source = "SOURCE",
        /// It has the instances.
        Destination = "DESTINATION",
    }
}

structure! {
    /// Keep so many instances with so much time between.
    pub struct RetentionRule = "lockstep.replication.retention_rule" {
        /// How many.
        number_of_instances as "numberOfInstances": i64,
        /// Minutes between two.
        distance: i64,
    }
}

structure! {
    /// Which instances are kept besides the latest.
    pub struct RetentionPolicy = "lockstep.replication.retention_policy" {
        /// The rules; what any of them keeps is kept.
        rules: Vec<RetentionRule>,
    }
}

structure! {
    /// What a replication was told.
    pub struct Settings = "lockstep.replication.settings" {
        /// For people.
        description: String,
        /// Minutes that the newest instance may be behind.
        rpo: i64,
        /// Whether the guest's file systems are frozen for the instant of an instance.
        quiesced: bool,
        /// How the data travel.
        data_connection_type as "dataConnectionType": DataConnection,
        /// Which instances are kept.
        retention_policy as "retentionPolicy": RetentionPolicy,
        /// When the first sync was to begin, in milliseconds since 1970; 0 for at once.
        initial_sync_time as "initialSyncTime": i64,
        /// Disks that are left out, by key: 2000 is the first.
        excluded_disk_keys as "excludedDiskKeys": Vec<i64>,
        /// What the disks are made as at the destination.
        target_disk_type as "targetDiskType": String,
        /// A profile that was named; Lockstep has none, and keeps the name.
        sla_profile_id as "slaProfileId": Option<String>,
    }
}

structure! {
    /// Where a machine comes from.
    pub struct Source = "lockstep.replication.source" {
        /// The site.
        site: String,
        /// The organization.
        org: String,
        /// Its data centre there.
        vdc_id as "vdcId": Option<String>,
        /// The name of that.
        vdc_name as "vdcName": Option<String>,
        /// The vApp.
        vapp_id as "vappId": Option<String>,
        /// The name of that: the machine's, as each has a vApp of its own.
        vapp_name as "vappName": Option<String>,
        /// The machine.
        vm_id as "vmId": String,
        /// The machine's name.
        vm_name as "vmName": String,
    }
}

structure! {
    /// Where a machine goes to.
    pub struct Destination = "lockstep.replication.destination" {
        /// The site.
        site: String,
        /// The organization.
        org: String,
        /// The data centre there.
        vdc_id as "vdcId": Option<String>,
        /// The name of that.
        vdc_name as "vdcName": Option<String>,
        /// What it was recovered as.
        recovered_vapp_id as "recoveredVappId": Option<String>,
    }
}

structure! {
    /// How far recovery is.
    pub struct RecoveryInfo = "lockstep.replication.recovery_info" {
        /// The state.
        recovery_state as "recoveryState": RecoveryState,
        /// The vApp that runs.
        vapp_id as "vAppId": Option<String>,
        /// The machine that runs.
        vcd_vm_id as "vcdVmId": Option<String>,
    }
}

structure! {
    /// An instance: the machine's disks at one point in time.
    pub struct Instance = "lockstep.replication.instance" {
        /// Its name: `h4replica-` and a UUID.
        key: String,
        /// Whether it is kept whatever the rules say.
        is_pinned as "isPinned": bool,
        /// What was done to make it whole: `none`, `applicationQuiesced` or `fileSystemQuiesced`.
        quiesced_type as "quiescedType": String,
        /// Its number among the replication's.
        sequence_number as "sequenceNumber": i64,
        /// The point in time, in milliseconds since 1970.
        timestamp: i64,
        /// Bytes that were transferred for it.
        transfer_bytes as "transferBytes": i64,
        /// How long that took.
        transfer_seconds as "transferSeconds": i64,
        /// Its disks; where a single one was asked for.
        disks_info as "disksInfo": Option<Vec<DiskInfo>>,
    }
}

structure! {
    /// A disk of an instance.
    pub struct DiskInfo = "lockstep.replication.disk_info" {
        /// Its key: 2000 for the first.
        disk_key as "diskKey": i64,
        /// Its size in bytes.
        bytes: i64,
    }
}

structure! {
    /// How the destination is.
    pub struct DestinationState = "lockstep.replication.destination_state" {
        /// What it does.
        state: ReplicaState,
        /// For how long it has, in milliseconds.
        state_age as "stateAge": i64,
        /// Minutes by which the newest instance is older than it may be; 0 when it is not.
        current_rpo_violation as "currentRpoViolation": i64,
        /// Always false: a replica stays where it is.
        is_moving_replica as "isMovingReplica": bool,
        /// Why the last sync or recovery failed.
        last_error as "lastError": Option<ApiError>,
        /// The newest instance.
        latest_instance as "latestInstance": Option<Instance>,
        /// How far recovery is.
        recovery_info as "recoveryInfo": RecoveryInfo,
        /// Bytes that the instances take.
        space_requirement as "spaceRequirement": i64,
    }
}

structure! {
    /// What the last sync did; Lockstep's own.
    pub struct SyncReport = "lockstep.replication.sync_report" {
        /// The instance that it made.
        instance: String,
        /// The point in time, in milliseconds since 1970.
        timestamp: i64,
        /// How the changed blocks were found: `LIVE_BITMAP`, `STOPPED_BITMAP`, `COMPARE` or `FULL`.
        method: String,
        /// Why not by a cheaper way.
        reason: Option<String>,
        /// Bytes of the disks that were read.
        read_bytes as "readBytes": i64,
        /// Bytes that differ from the instance before.
        changed_bytes as "changedBytes": i64,
        /// Of these, bytes that the destination lacked.
        sent_bytes as "sentBytes": i64,
        /// Bytes on the wire.
        wire_bytes as "wireBytes": i64,
        /// How long it took, in milliseconds.
        took_ms as "tookMs": i64,
        /// How long the guest stood still for its point in time, in milliseconds; nothing where none ran.
        pause_ms as "pauseMs": Option<i64>,
    }
}

structure! {
    /// How the running sync gets on; Lockstep's own.
    pub struct SyncProgress = "lockstep.replication.sync_progress" {
        /// Bytes of the disks that there are to read.
        total_bytes as "totalBytes": i64,
        /// Of these, those that are done with.
        done_bytes as "doneBytes": i64,
        /// Bytes that differ from the instance before.
        changed_bytes as "changedBytes": i64,
        /// Of these, bytes that the destination lacked.
        sent_bytes as "sentBytes": i64,
        /// Bytes on the wire.
        wire_bytes as "wireBytes": i64,
    }
}

structure! {
    /// A replication of one machine.
    pub struct Replication = "lockstep.replication.info" {
        /// `C4-` and a UUID; `H4-` and the same is another name.
        id: String,
        /// `C4VAPP-` and a UUID.
        vapp_replication_id as "vappReplicationId": String,
        /// `org@site`.
        owner: String,
        /// Whether it moves the machine for good.
        is_migration as "isMigration": bool,
        /// Whether it rests.
        is_paused as "isPaused": bool,
        /// Whether it goes the other way than when it was made.
        is_reversed as "isReversed": bool,
        /// How it is.
        overall_health as "overallHealth": Health,
        /// What goes on.
        data_connection_state as "dataConnectionState": ConnectionState,
        /// When it was last changed, in milliseconds since 1970.
        last_updated as "lastUpdated": i64,
        /// The guest's name of itself.
        computer_name as "computerName": Option<String>,
        /// Empty.
        metadata: Map<Opaque>,
        /// Empty.
        guest_customization as "guestCustomization": Map<Opaque>,
        /// Where the machine is.
        source: Source,
        /// Where the instances are.
        destination: Destination,
        /// What it was told.
        settings: Settings,
        /// How the destination is.
        destination_state as "destinationState": DestinationState,
        /// Which side this site is; Lockstep's own.
        side: Side,
        /// The link to the other site; Lockstep's own.
        link: String,
        /// What the last sync did; Lockstep's own.
        last_sync as "lastSync": Option<SyncReport>,
        /// The task that works on it; Lockstep's own.
        task: Option<String>,
        /// How the running sync gets on, as its source knows it; Lockstep's own.
        sync_progress as "syncProgress": Option<SyncProgress>,
        /// When the next sync is due, in milliseconds since 1970; Lockstep's own.
        next_sync as "nextSync": Option<i64>,
    }
}
