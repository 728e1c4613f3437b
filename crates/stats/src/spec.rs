//! An acquisition specification: what it says, and its three forms: as asked for, as stored, as shown.

use lockstep_contract::Error;
use lockstep_contract::counters::{Counter, CounterSet, ResourceKind, counter};
use lockstep_contract::services::stats::acq_specs::{CounterSpec, CreateSpec, Info, Status, UpdateSpec};
use lockstep_contract::services::stats::cache::AcqSpec;
use lockstep_contract::services::stats::{CidMid, Predicate, RsrcId, SCHEME};
use lockstep_model::{Document, ID_BYTES_MAX, Value};

/// Seconds between samples unless said otherwise.
pub(crate) const INTERVAL_DEFAULT_S: i64 = 10;

/// Longest interval: a day.
pub(crate) const INTERVAL_MAX_S: i64 = 24 * 3600;

/// How long a specification lasts unless said otherwise: 100 minutes.
pub(crate) const LIFE_DEFAULT_S: i64 = 100 * 60;

/// How far ahead an expiration may be: ten years.
pub(crate) const LIFE_MAX_S: i64 = 3653 * 24 * 3600;

/// Longest memo, in bytes.
pub(crate) const MEMO_BYTES_MAX: usize = 1024;

/// What is sampled.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Counters {
    /// A counter, and the edition of its metadata if one was named.
    One { cid: String, mid: Option<String> },
    /// All counters of a set.
    Set(String),
}

/// An identifier to match, defaults filled in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Identifier {
    pub(crate) key: Option<String>,
    pub(crate) resource_type: String,
    pub(crate) id_value: String,
    pub(crate) predicate: Predicate,
    pub(crate) scheme: String,
}

/// A specification. What the journal holds may have been imported, so reading it never fails: what is missing has its default.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    pub(crate) counters: Counters,
    pub(crate) resources: Vec<Identifier>,
    pub(crate) interval_s: i64,
    pub(crate) expiration_s: i64,
    pub(crate) memo: String,
    pub(crate) status: Status,
    pub(crate) status_reason: String,
}

fn invalid(place: &str, message: impl AsRef<str>) -> Error {
    Error::invalid_argument("lockstep.stats.acq_spec", place, message.as_ref())
}

/// An unset text and an empty one say the same: clients send back what they read.
fn set(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

impl Counters {
    /// Reads what a client asks for.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field.
    fn read(asked: CounterSpec) -> Result<Self, Error> {
        let cid_mid = asked.cid_mid.filter(|c| !c.cid.is_empty() || set(c.mid.clone()).is_some());
        match (cid_mid, set(asked.set_id)) {
            (None, None) => Err(invalid("acq_spec.counters", "one of cid_mid and set_id must be set")),
            (Some(_), Some(_)) => Err(invalid("acq_spec.counters", "only one of cid_mid and set_id may be set")),
            (Some(CidMid { cid, mid }), None) => {
                let known = counter(&cid)
                    .ok_or_else(|| invalid("acq_spec.counters.cid_mid.cid", format!("no counter {cid:?}")))?;
                let mid = set(mid);
                if mid.as_ref().is_some_and(|mid| *mid != known.mid().to_string()) {
                    let message = format!("{cid} has no metadata of that id; its default is {}", known.mid());
                    return Err(invalid("acq_spec.counters.cid_mid.mid", message));
                }
                Ok(Self::One { cid, mid })
            }
            (None, Some(id)) => match CounterSet::find(&id) {
                Some(_) => Ok(Self::Set(id)),
                None => Err(invalid("acq_spec.counters.set_id", format!("no counter set {id:?}"))),
            },
        }
    }

    /// The type of its counters.
    pub(crate) fn kind(&self) -> Option<ResourceKind> {
        match self {
            Self::One { cid, .. } => counter(cid).map(|c| c.kind),
            Self::Set(id) => CounterSet::find(id).map(|set| set.kind),
        }
    }

    /// Its counters.
    pub(crate) fn each(&self) -> Vec<&'static Counter> {
        match self {
            Self::One { cid, .. } => counter(cid).into_iter().collect(),
            Self::Set(id) => CounterSet::find(id).map(|set| set.counters().collect()).unwrap_or_default(),
        }
    }

    fn show(&self) -> CounterSpec {
        match self {
            Self::One { cid, mid } => CounterSpec {
                cid_mid: Some(CidMid { cid: cid.clone(), mid: Some(mid.clone().unwrap_or_default()) }),
                set_id: Some(String::new()),
            },
            Self::Set(id) => CounterSpec { cid_mid: None, set_id: Some(id.clone()) },
        }
    }
}

/// Reads the identifiers that a client asks for, and checks them against what the counters take.
///
/// # Errors
/// `invalid_argument`, naming the field.
fn read_resources(asked: Vec<RsrcId>, kind: ResourceKind) -> Result<Vec<Identifier>, Error> {
    if asked.is_empty() {
        return Err(invalid("acq_spec.resources", "at least one identifier is needed"));
    }
    let mut out: Vec<Identifier> = Vec::new();
    for (i, id) in asked.into_iter().enumerate() {
        let refuse = |field: &str, message: String| invalid(&format!("acq_spec.resources[{i}]{field}"), message);
        let Some(resource_type) = set(id.resource_type) else {
            return Err(refuse(".type", "the type must be set".to_owned()));
        };
        let takes: Vec<&str> = kind.address_types().iter().map(|kind| kind.name()).collect();
        if !takes.contains(&&*resource_type) {
            let message =
                format!("{resource_type:?} is no identifier of these counters: they take {}", takes.join(" and "));
            return Err(refuse(".type", message));
        }
        if out.iter().any(|other| other.resource_type == resource_type) {
            return Err(refuse(".type", format!("there is an identifier of type {resource_type} already")));
        }
        let key = set(id.key);
        if key.as_ref().is_some_and(|key| *key != resource_type) {
            return Err(refuse(".key", format!("the position of type {resource_type} has the key {resource_type}")));
        }
        let scheme = set(id.scheme).unwrap_or_else(|| SCHEME.to_owned());
        if scheme != SCHEME {
            return Err(refuse(".scheme", format!("only {SCHEME} is known: the resource's id in the inventory")));
        }
        let predicate = id.predicate.unwrap_or(Predicate::Equal);
        let fits = match predicate {
            Predicate::Equal => !id.id_value.is_empty() && id.id_value.len() <= ID_BYTES_MAX,
            Predicate::All => id.id_value.is_empty(),
        };
        if !fits || id.id_value.chars().any(char::is_control) {
            let message = match predicate {
                Predicate::Equal => format!("1 to {ID_BYTES_MAX} bytes without control characters"),
                Predicate::All => "empty with the predicate ALL".to_owned(),
            };
            return Err(refuse(".id_value", message));
        }
        out.push(Identifier { key, resource_type, id_value: id.id_value, predicate, scheme });
    }
    if !out.iter().any(|id| id.resource_type == kind.name()) {
        let message = format!("an identifier of type {} is needed: the counters are of that type", kind.name());
        return Err(invalid("acq_spec.resources", message));
    }
    Ok(out)
}

fn read_interval(asked: Option<i64>) -> Result<i64, Error> {
    match asked.unwrap_or(INTERVAL_DEFAULT_S) {
        interval @ 1..=INTERVAL_MAX_S => Ok(interval),
        _ => Err(invalid("acq_spec.interval", format!("1 to {INTERVAL_MAX_S} seconds"))),
    }
}

fn read_expiration(asked: Option<i64>, now_s: i64) -> Result<i64, Error> {
    match asked.unwrap_or(0) {
        0 => Ok(now_s + LIFE_DEFAULT_S),
        at if (1..=now_s + LIFE_MAX_S).contains(&at) => Ok(at),
        at if at < 0 => Err(invalid("acq_spec.expiration", "seconds since 1970: not negative")),
        _ => Err(invalid("acq_spec.expiration", "at most ten years ahead")),
    }
}

fn read_memo(asked: Option<String>) -> Result<String, Error> {
    let memo = asked.unwrap_or_default();
    if memo.len() > MEMO_BYTES_MAX {
        return Err(invalid("acq_spec.memo_", format!("at most {MEMO_BYTES_MAX} bytes")));
    }
    Ok(memo)
}

impl Spec {
    /// Reads a new specification. Its status is still to be found.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field.
    ///
    /// Source: `api/vstats.md`, section 3.
    pub(crate) fn create(asked: CreateSpec, now_s: i64) -> Result<Self, Error> {
        let counters = Counters::read(asked.counters)?;
        // What was read names counters that exist, so it has a kind.
        let kind = counters.kind().ok_or_else(Error::internal)?;
        Ok(Self {
            resources: read_resources(asked.resources, kind)?,
            counters,
            interval_s: read_interval(asked.interval)?,
            expiration_s: read_expiration(asked.expiration, now_s)?,
            memo: read_memo(asked.memo_)?,
            status: Status::Enabled,
            status_reason: String::new(),
        })
    }

    /// The specification with the changes that a client asks for. Its status is still to be found.
    ///
    /// # Errors
    /// `invalid_argument`, naming the field: also when new counters do not take the old resources.
    pub(crate) fn update(&self, asked: UpdateSpec, now_s: i64) -> Result<Self, Error> {
        let mut out = self.clone();
        if let Some(counters) = asked.counters {
            out.counters = Counters::read(counters)?;
        }
        let kind =
            out.counters.kind().ok_or_else(|| invalid("acq_spec.counters", "its counters do not exist any more"))?;
        let resources = asked.resources.unwrap_or_else(|| self.resources.iter().map(Identifier::show).collect());
        out.resources = read_resources(resources, kind)?;
        if asked.interval.is_some() {
            out.interval_s = read_interval(asked.interval)?;
        }
        if asked.expiration.is_some() {
            out.expiration_s = read_expiration(asked.expiration, now_s)?;
        }
        if asked.memo_.is_some() {
            out.memo = read_memo(asked.memo_)?;
        }
        Ok(out)
    }

    /// Reads what is stored.
    pub(crate) fn from_document(document: &Document) -> Self {
        let text = |path: &str| document.get(path).and_then(Value::as_str).map(str::to_owned);
        let long = |path: &str, default: i64| match document.get(path) {
            Some(Value::Long(number)) => *number,
            _ => default,
        };
        let counters = match (text("counters/cid"), text("counters/set_id")) {
            (None, Some(set)) => Counters::Set(set),
            (cid, _) => Counters::One { cid: cid.unwrap_or_default(), mid: text("counters/mid") },
        };
        let resources = match document.get("resources") {
            Some(Value::List(items)) => items.iter().map(Identifier::from_value).collect(),
            _ => Vec::new(),
        };
        Self {
            counters,
            resources,
            interval_s: long("interval", INTERVAL_DEFAULT_S),
            expiration_s: long("expiration", 0),
            memo: text("memo").unwrap_or_default(),
            status: text("status").and_then(|status| Status::from_name(&status)).unwrap_or(Status::Disabled),
            status_reason: text("status_reason").unwrap_or_default(),
        }
    }

    /// The form that is stored.
    pub(crate) fn to_document(&self) -> Document {
        let mut document = Document::default();
        match &self.counters {
            Counters::One { cid, mid } => {
                document.set("counters/cid", Some(Value::from(&**cid)));
                document.set("counters/mid", mid.as_deref().map(Value::from));
            }
            Counters::Set(id) => document.set("counters/set_id", Some(Value::from(&**id))),
        }
        let resources: Vec<Value> = self.resources.iter().map(Identifier::to_value).collect();
        document.set("resources", Some(Value::List(resources.into())));
        document.set("interval", Some(Value::Long(self.interval_s)));
        document.set("expiration", Some(Value::Long(self.expiration_s)));
        document.set("memo", Some(&*self.memo).filter(|memo| !memo.is_empty()).map(Value::from));
        document.set("status", Some(Value::from(self.status.name())));
        document.set("status_reason", Some(&*self.status_reason).filter(|r| !r.is_empty()).map(Value::from));
        document
    }

    /// The form of the specification service.
    pub(crate) fn info(&self, id: &str) -> Info {
        Info {
            counters: self.counters.show(),
            resources: self.resources.iter().map(Identifier::show).collect(),
            interval: Some(self.interval_s),
            expiration: Some(self.expiration_s),
            memo_: self.memo.clone(),
            id: id.to_owned(),
            status: self.status,
        }
    }

    /// The form that caches keep.
    pub(crate) fn cached(&self, id: &str) -> AcqSpec {
        AcqSpec {
            endpoints: Vec::new(),
            counters: self.counters.show(),
            resources: self.resources.iter().map(Identifier::show).collect(),
            interval: self.interval_s,
            expiration: self.expiration_s,
            memo_: self.memo.clone(),
            id: id.to_owned(),
            status_reason: self.status_reason.clone(),
            status: self.status,
        }
    }
}

impl Identifier {
    fn show(&self) -> RsrcId {
        RsrcId {
            key: self.key.clone(),
            resource_type: Some(self.resource_type.clone()),
            id_value: self.id_value.clone(),
            predicate: Some(self.predicate),
            scheme: Some(self.scheme.clone()),
        }
    }

    fn from_value(value: &Value) -> Self {
        let text = |name: &str| value.field(name).and_then(Value::as_str).map(str::to_owned);
        Self {
            key: text("key"),
            resource_type: text("type").unwrap_or_default(),
            id_value: text("id_value").unwrap_or_default(),
            predicate: text("predicate").and_then(|p| Predicate::from_name(&p)).unwrap_or(Predicate::Equal),
            scheme: text("scheme").unwrap_or_else(|| SCHEME.to_owned()),
        }
    }

    fn to_value(&self) -> Value {
        let mut fields = Vec::with_capacity(5);
        let mut set = |name: &str, text: &str| fields.push((name.into(), Value::from(text)));
        if let Some(key) = &self.key {
            set("key", key);
        }
        set("type", &self.resource_type);
        set("id_value", &self.id_value);
        set("predicate", self.predicate.name());
        set("scheme", &self.scheme);
        Value::Struct(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use lockstep_model::Registry;

    use super::*;

    const NOW_S: i64 = 1_795_000_000;

    fn identifier(resource_type: &str, id: &str) -> RsrcId {
        let predicate = id.is_empty().then_some(Predicate::All);
        let resource_type = Some(resource_type.to_owned());
        RsrcId { key: None, resource_type, id_value: id.to_owned(), predicate, scheme: None }
    }

    fn counters(cid: &str, set_id: &str) -> CounterSpec {
        CounterSpec {
            cid_mid: Some(CidMid { cid: cid.to_owned(), mid: Some(String::new()) }),
            set_id: Some(set_id.to_owned()),
        }
    }

    fn asked(cid: &str, set_id: &str, resources: Vec<RsrcId>) -> CreateSpec {
        CreateSpec { counters: counters(cid, set_id), resources, interval: None, expiration: None, memo_: None }
    }

    fn host_spec() -> CreateSpec {
        asked("cpu.capacity.demand.HOST", "", vec![identifier("HOST", "host-16")])
    }

    #[test]
    fn a_specification_gets_its_defaults_and_survives_being_stored() {
        let spec = Spec::create(host_spec(), NOW_S).unwrap();
        assert_eq!((spec.interval_s, spec.expiration_s, &*spec.memo), (10, NOW_S + 6000, ""));
        let document = spec.to_document();
        let registry = Registry::new();
        let def = registry.type_def(lockstep_model::builtin::ACQ_SPEC).unwrap();
        let json = serde_json::to_string(&document).unwrap();
        assert_eq!(def.read_document(&json).unwrap(), document, "what is stored fits the model");
        assert_eq!(Spec::from_document(&document), spec);
        let info = spec.info("17");
        assert_eq!(info.resources[0].predicate, Some(Predicate::Equal));
        assert_eq!(info.resources[0].scheme.as_deref(), Some("moid"));
        assert_eq!(info.counters, counters("cpu.capacity.demand.HOST", ""));
    }

    #[test]
    fn a_set_a_predicate_and_a_pair_of_identifiers_are_taken() {
        let pair = vec![identifier("VM", ""), identifier("HOST", "host-22")];
        let spec = Spec::create(asked("disk.throughput.usage.VM", "", pair.clone()), NOW_S).unwrap();
        assert_eq!(spec.resources.len(), 2);
        let spec = Spec::create(asked("", "disk.VM", pair), NOW_S).unwrap();
        assert_eq!(spec.counters.each().len(), 7);
        assert_eq!(spec.info("1").counters, CounterSpec { cid_mid: None, set_id: Some("disk.VM".to_owned()) });
        assert_eq!(Spec::from_document(&spec.to_document()), spec);
    }

    #[test]
    fn what_cannot_be_is_refused_by_field() {
        let refused = |change: &dyn Fn(&mut CreateSpec), place: &str| {
            let mut spec = host_spec();
            change(&mut spec);
            let error = Spec::create(spec, NOW_S).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{place}: ")), "{error}");
        };
        refused(&|s| s.counters = counters("", ""), "acq_spec.counters");
        refused(&|s| s.counters = CounterSpec { cid_mid: None, set_id: None }, "acq_spec.counters");
        refused(&|s| s.counters = counters("cpu.capacity.demand.HOST", "cpu.HOST"), "acq_spec.counters");
        refused(&|s| s.counters = counters("cpu.none.HOST", ""), "acq_spec.counters.cid_mid.cid");
        refused(&|s| s.counters = counters("", "none"), "acq_spec.counters.set_id");
        refused(&|s| s.counters.cid_mid.as_mut().unwrap().mid = Some("1".into()), "acq_spec.counters.cid_mid.mid");
        refused(&|s| s.resources.clear(), "acq_spec.resources");
        refused(&|s| s.resources[0].resource_type = None, "acq_spec.resources[0].type");
        refused(&|s| s.resources[0].resource_type = Some("VM".into()), "acq_spec.resources[0].type");
        refused(&|s| s.resources.push(identifier("HOST", "b")), "acq_spec.resources[1].type");
        refused(&|s| s.resources[0].key = Some("x".into()), "acq_spec.resources[0].key");
        refused(&|s| s.resources[0].scheme = Some("uuid".into()), "acq_spec.resources[0].scheme");
        refused(&|s| s.resources[0].id_value.clear(), "acq_spec.resources[0].id_value");
        refused(&|s| s.resources[0].predicate = Some(Predicate::All), "acq_spec.resources[0].id_value");
        refused(&|s| s.resources[0].id_value = "a\nb".into(), "acq_spec.resources[0].id_value");
        refused(&|s| s.counters = counters("disk.throughput.usage.VM", ""), "acq_spec.resources");
        for interval in [0, -1, INTERVAL_MAX_S + 1, i64::MAX, i64::MIN] {
            refused(&|s| s.interval = Some(interval), "acq_spec.interval");
        }
        for expiration in [-1, i64::MIN, i64::MAX] {
            refused(&|s| s.expiration = Some(expiration), "acq_spec.expiration");
        }
        refused(&|s| s.memo_ = Some("x".repeat(MEMO_BYTES_MAX + 1)), "acq_spec.memo_");
    }

    #[test]
    fn an_update_changes_what_it_names() {
        let spec = Spec::create(host_spec(), NOW_S).unwrap();
        let nothing = UpdateSpec { counters: None, resources: None, interval: None, expiration: None, memo_: None };
        assert_eq!(spec.update(nothing.clone(), NOW_S + 9).unwrap(), spec);
        let changed = spec.update(UpdateSpec { expiration: Some(0), interval: Some(60), ..nothing.clone() }, NOW_S + 9);
        let changed = changed.unwrap();
        assert_eq!((changed.expiration_s, changed.interval_s), (NOW_S + 9 + 6000, 60));
        let other = UpdateSpec { counters: Some(counters("mem.capacity.usage.VM", "")), ..nothing };
        assert!(spec.update(other, NOW_S).is_err(), "the old resources do not fit the new counter");
    }
}
