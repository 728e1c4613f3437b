//! A replication as it is stored, at both of its sites.
//!
//! It has two parts, each owned by one side, which alone changes it and tells the other whenever it did: [`SourcePart`] and
//! [`ReplicaPart`]. A part counts its changes, so that an older one that comes late is known.

use lockstep_contract::services::replication::{DataConnection, RecoveryState, Side};
use lockstep_contract::services::tasks::ApiError;
use lockstep_model::{Document, ResourceId, TypeDef, Value, builtin};
use serde::{Deserialize, Serialize};

/// What a replication is called inside: a UUID.
pub fn resource(id: &str) -> ResourceId {
    ResourceId::new(builtin::VM_REPLICATION, id)
}

/// A replication.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// A UUID.
    pub id: String,
    /// The id of the link to the other site.
    pub link: String,
    /// Which side this site is.
    pub side: Side,
    /// The machine, as it is called here.
    pub vm: String,
    /// What the source owns.
    pub source: SourcePart,
    /// What the destination owns.
    pub replica: ReplicaPart,
}

/// What goes on at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Nothing.
    #[default]
    Idle,
    /// The first sync.
    InitialSync,
    /// A sync.
    Sync,
}

/// What the source owns of a replication.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourcePart {
    /// Counts the changes of this part.
    pub revision: i64,
    /// The machine, as the source calls it.
    pub vm_id: String,
    /// Its name.
    pub vm_name: String,
    /// Its guest's name of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub computer_name: Option<String>,
    /// Its vApp: `C4VAPP-` and this UUID is the vApp's replication.
    pub vapp_id: String,
    /// The source.
    pub site: String,
    /// The destination.
    pub destination_site: String,
    /// `org@site`.
    pub owner: String,
    /// The data centre at the destination that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vdc: Option<String>,
    /// The storage profile that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_profile: Option<String>,
    /// Whether it moves the machine for good.
    pub is_migration: bool,
    /// Whether it rests.
    pub is_paused: bool,
    /// Whether it goes the other way than when it was made.
    pub is_reversed: bool,
    /// How often it was turned around.
    pub turns: i64,
    /// When it was made.
    #[serde(with = "instant")]
    pub created: i64,
    /// What goes on.
    pub activity: Activity,
    /// Since when.
    #[serde(with = "instant")]
    pub activity_since: i64,
    /// Minutes by which the newest instance is older than it may be.
    pub rpo_violation_minutes: i64,
    /// What is needed to tell what changed since the last sync; JSON of [`Cycles`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<String>,
    /// What it was told.
    pub settings: StoredSettings,
    /// What the last sync did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sync: Option<LastSync>,
    /// Why the last sync failed; unset when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<StoredError>,
}

/// What a replication was told.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredSettings {
    /// For people.
    pub description: String,
    /// Minutes that the newest instance may be behind.
    pub rpo_minutes: i64,
    /// Whether the guest's file systems are frozen for the instant of an instance.
    pub quiesced: bool,
    /// How the data travel: a name of [`DataConnection`].
    pub data_connection: String,
    /// Which instances are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub retention: Vec<StoredRule>,
    /// When the first sync was to begin.
    #[serde(with = "instant")]
    pub initial_sync: i64,
    /// Disks that are left out, by key.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_disk_keys: Vec<i64>,
    /// Kept, and shown again.
    pub target_disk_type: String,
    /// Kept, and shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sla_profile: Option<String>,
}

impl StoredSettings {
    /// How the data travel.
    pub fn connection(&self) -> DataConnection {
        DataConnection::from_name(&self.data_connection).unwrap_or(DataConnection::EncryptedCompressed)
    }
}

/// A rule of retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredRule {
    /// How many instances.
    pub instances: i64,
    /// Minutes between two.
    pub distance_minutes: i64,
}

/// What a sync did.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LastSync {
    /// The instance.
    pub instance: String,
    /// The root of its map, as hex digits; unset when only the destination knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// The point in time.
    #[serde(with = "instant")]
    pub time: i64,
    /// When it ended.
    #[serde(with = "instant")]
    pub ended: i64,
    /// Its number at the destination.
    pub sequence: i64,
    /// As the API says it: `none` or `fileSystemQuiesced`.
    pub quiesced: String,
    /// How the changed blocks were found.
    pub method: String,
    /// Why not by a cheaper way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes that were read.
    pub read_bytes: i64,
    /// Bytes that differ.
    pub changed_bytes: i64,
    /// Bytes that were put.
    pub sent_bytes: i64,
    /// Bytes on the wire.
    pub wire_bytes: i64,
    /// How long it took.
    pub took_ms: i64,
    /// How long the guest stood still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<i64>,
}

/// What is known of the points in time that instances were made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Cycles {
    /// That of the last instance.
    pub committed: Option<Known>,
    /// That of an instance that may have been committed: the answer did not come, or this server ended before.
    pub pending: Option<Pending>,
    /// What the destination has of the machine's disks, before a first instance was made.
    pub seed: Option<Seed>,
}

/// A point in time that an instance was made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Known {
    /// Its number; 0 when sources cannot tell what changed since.
    pub number: u64,
    /// Its disks: index and size in bytes.
    pub disks: Vec<(u32, u64)>,
}

/// A point in time that an instance was to be made of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pending {
    /// The instance.
    pub instance: String,
    /// The point in time.
    pub known: Known,
}

/// An instance that a destination has made itself, of the disks that it had when it was the source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Seed {
    /// The instance.
    pub instance: String,
    /// The root of its map, as hex digits.
    pub root: String,
}

/// What the destination owns of a replication.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaPart {
    /// Counts the changes of this part.
    pub revision: i64,
    /// A name of [`RecoveryState`].
    pub recovery_state: String,
    /// The machine that was recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_vm: Option<String>,
    /// The instance that it was recovered from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_instance: Option<String>,
    /// Whether it is being turned around: the source may be the destination already, and this site will be the source.
    pub is_turning: bool,
    /// Bytes that were stored for its instances.
    pub bytes: i64,
    /// Why the last recovery failed; unset when it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<StoredError>,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredError {
    /// Its name.
    pub code: String,
    /// What happened.
    pub msg: String,
    /// What the message speaks of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
}

impl From<&ApiError> for StoredError {
    fn from(error: &ApiError) -> Self {
        Self { code: error.code.clone(), msg: error.msg.clone(), args: error.args.clone() }
    }
}

impl From<&StoredError> for ApiError {
    fn from(error: &StoredError) -> Self {
        Self { code: error.code.clone(), msg: error.msg.clone(), args: error.args.clone(), stacktrace: String::new() }
    }
}

impl Record {
    /// How far recovery is.
    pub fn recovery(&self) -> RecoveryState {
        RecoveryState::from_name(&self.replica.recovery_state).unwrap_or(RecoveryState::NotStarted)
    }

    /// What is known of the points in time.
    pub fn cycles(&self) -> Cycles {
        self.source.cycle.as_deref().and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }

    /// The id that the API has for it.
    pub fn api_id(&self) -> String {
        format!("C4-{}", self.id)
    }

    /// The id that the API has for its vApp's replication.
    pub fn vapp_api_id(&self) -> String {
        format!("C4VAPP-{}", self.source.vapp_id)
    }

    /// A stored one; `None` for a document that is none.
    pub fn from_document(id: &str, document: &Document) -> Option<Self> {
        let text = |path: &str| document.get(path).and_then(Value::as_str);
        let reference = |path: &str| match document.get(path) {
            Some(Value::Id(id)) => Some(id.id.to_string()),
            _ => None,
        };
        Some(Self {
            id: id.to_owned(),
            link: reference("link")?,
            side: Side::from_name(text("side")?)?,
            vm: reference("vm")?,
            source: part(document, "source")?,
            replica: part(document, "replica")?,
        })
    }

    /// As it is stored.
    ///
    /// # Errors
    /// Why it does not fit the model: what the other site told is not checked otherwise.
    pub fn to_document(&self, type_def: &TypeDef) -> Result<Document, String> {
        let json = serde_json::json!({
            "vm": {"type": "VirtualMachine", "id": self.vm},
            "link": {"type": builtin::LINK, "id": self.link},
            "side": self.side.name(),
            "source": self.source,
            "replica": self.replica,
        });
        type_def.read_document(&json.to_string()).map_err(|misfit| misfit.to_string())
    }
}

fn part<T: Default + for<'de> Deserialize<'de>>(document: &Document, name: &str) -> Option<T> {
    match document.get(name) {
        None => Some(T::default()),
        Some(value) => serde_json::from_str(&serde_json::to_string(value).ok()?).ok(),
    }
}

/// Instants: milliseconds here, text where they are stored.
mod instant {
    use lockstep_site::times;
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(ms: &i64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&times::text(*ms))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
        let text = String::deserialize(d)?;
        times::read_ms(&text).ok_or_else(|| de::Error::custom("no instant"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use lockstep_model::Registry;

    use super::*;

    pub(crate) fn record() -> Record {
        let instance = "h4replica-0b54fb28-1a3e-4d27-9a6e-1d5d0ad6c3d1".to_owned();
        let known = Known { number: 7, disks: vec![(0, 1 << 30)] };
        let cycles = Cycles {
            committed: Some(known.clone()),
            pending: Some(Pending { instance: instance.clone(), known }),
            seed: Some(Seed { instance: instance.clone(), root: "00".into() }),
        };
        let error = StoredError { code: "X".into(), msg: "y".into(), args: vec!["z".into()] };
        Record {
            id: "ec991bd5-af9d-446a-8599-5b693842c4a3".into(),
            link: "l".into(),
            side: Side::Source,
            vm: "vm-1".into(),
            source: SourcePart {
                revision: 3,
                vm_id: "vm-1".into(),
                vm_name: "web".into(),
                computer_name: Some("web.local".into()),
                vapp_id: "ccbe771e-b685-46c7-8c7a-4ed36915d963".into(),
                site: "site1".into(),
                destination_site: "site2".into(),
                owner: "System@site1".into(),
                vdc: Some("v".into()),
                storage_profile: None,
                is_paused: true,
                created: 1_714_557_600_120,
                activity: Activity::InitialSync,
                activity_since: 1_714_557_600_121,
                cycle: Some(serde_json::to_string(&cycles).unwrap()),
                settings: StoredSettings {
                    rpo_minutes: 15,
                    data_connection: "PLAIN".into(),
                    retention: vec![StoredRule { instances: 3, distance_minutes: 60 }],
                    excluded_disk_keys: vec![2001],
                    target_disk_type: "THIN".into(),
                    ..StoredSettings::default()
                },
                last_sync: Some(LastSync { instance, time: 1_714_557_600_000, ..LastSync::default() }),
                last_error: Some(error.clone()),
                ..SourcePart::default()
            },
            replica: ReplicaPart {
                revision: 1,
                recovery_state: "TEST".into(),
                recovered_vm: Some("vm-9".into()),
                bytes: 5,
                last_error: Some(error),
                ..ReplicaPart::default()
            },
        }
    }

    #[test]
    fn a_replication_survives_being_stored_and_fits_its_model() {
        let registry = Registry::new();
        let def = registry.type_def(builtin::VM_REPLICATION).unwrap();
        let full = record();
        let document = full.to_document(def).unwrap();
        assert_eq!(Record::from_document(&full.id, &document), Some(full.clone()));
        assert_eq!((full.recovery(), full.cycles().committed.unwrap().number), (RecoveryState::Test, 7));
        let empty = Record { source: SourcePart::default(), replica: ReplicaPart::default(), ..full };
        let document = empty.to_document(def).unwrap();
        assert_eq!(Record::from_document(&empty.id, &document), Some(empty));
    }
}
