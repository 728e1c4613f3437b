//! A copy of the inventory that is kept by the change feed, and what the feed does wrong.
//!
//! # When an event is wrong
//! What is loaded is from different moments, all after the token that the feed is followed from. So the *first* event of a
//! resource may tell what the load has seen already: until [`Replica::end_overlap`] it is taken as it is. From the second on the
//! feed's own account must be consistent: nothing is created that is there, nothing updated or deleted that is not. Afterwards that holds
//! for first events too.
//!
//! # When a change has no event
//! A resource is read after its events, at that moment or later. A property that has changed between two readings must be
//! named by an event before or after; one that is never named has changed in silence.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use lockstep_contract::services::change_log::ChangeKind;
use serde_json::Value;

use crate::output::reference;

/// The identity of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) resource_type: Box<str>,
    pub(crate) id: Box<str>,
}

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Create,
    Update,
    Delete,
}

impl From<ChangeKind> for Change {
    fn from(kind: ChangeKind) -> Self {
        match kind {
            ChangeKind::Create => Self::Create,
            ChangeKind::Update => Self::Update,
            ChangeKind::Delete => Self::Delete,
        }
    }
}

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// An event tells what had happened already.
    Repeat,
    /// An event is missing before this one.
    Gap,
    /// A property changed and no event names it.
    Silent,
    /// The copy is not what the inventory is.
    Different,
}

impl What {
    /// The name that is printed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Gap => "gap",
            Self::Silent => "silent change",
            Self::Different => "difference",
        }
    }
}

/// Something that is wrong with a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) id: Id,
    pub(crate) what: What,
    pub(crate) detail: String,
}

/// What is known of a resource that is there.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// Its properties, as [`canonical`] text.
    Properties(Box<str>),
    /// It had ended when it was read; the event must follow.
    Ended,
}

/// A copy of the inventory.
#[derive(Debug, Default)]
pub(crate) struct Replica {
    known: HashMap<Id, Known>,
    /// Resources that have had an event during the overlap.
    told: HashSet<Id>,
    is_past_overlap: bool,
    /// Paths that were seen to change and have not been named.
    unexplained: HashMap<Id, BTreeSet<String>>,
    /// Paths that were named since the resource was read.
    named: HashMap<Id, BTreeSet<String>>,
    findings: Vec<Finding>,
}

impl Replica {
    /// How many resources there are.
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    /// Whether the resource is there.
    pub(crate) fn has(&self, id: &Id) -> bool {
        self.known.contains_key(id)
    }

    /// Takes a resource of the state that the feed goes on from.
    pub(crate) fn load(&mut self, id: Id, properties: &Value) {
        self.known.insert(id, Known::Properties(canonical(properties)));
    }

    /// From here on nothing that an event tells is in the load already.
    pub(crate) fn end_overlap(&mut self) {
        self.is_past_overlap = true;
        self.told = HashSet::new();
    }

    /// Applies an event; `paths` are the properties that an update names.
    pub(crate) fn apply(&mut self, id: &Id, change: Change, paths: &[String]) {
        let is_strict = self.is_past_overlap || !self.told.insert(id.clone());
        let is_there = self.known.contains_key(id);
        let wrong = match (change, is_there) {
            (Change::Create, true) => Some((What::Repeat, "CREATE of a resource that is there")),
            (Change::Update, false) => Some((What::Gap, "UPDATE of a resource that is not there")),
            (Change::Delete, false) => Some((What::Repeat, "DELETE of a resource that is not there")),
            (Change::Create, false) | (Change::Update | Change::Delete, true) => None,
        };
        if let Some((what, detail)) = wrong.filter(|_| is_strict) {
            self.findings.push(Finding { id: id.clone(), what, detail: detail.to_owned() });
        }
        match change {
            Change::Delete => {
                self.known.remove(id);
                self.unexplained.remove(id);
                self.named.remove(id);
            }
            Change::Create => {
                // A new life: what the old one had says nothing about it.
                self.known.insert(id.clone(), Known::Ended);
                self.unexplained.remove(id);
            }
            Change::Update => {
                self.known.entry(id.clone()).or_insert(Known::Ended);
                if let Some(unexplained) = self.unexplained.get_mut(id) {
                    paths.iter().for_each(|path| {
                        unexplained.remove(path);
                    });
                }
                self.named.entry(id.clone()).or_default().extend(paths.iter().cloned());
            }
        }
    }

    /// Takes what a resource is, read after its events: `None` when there is none.
    pub(crate) fn refresh(&mut self, id: &Id, properties: Option<&Value>) {
        let named = self.named.remove(id).unwrap_or_default();
        let new = properties.map_or(Known::Ended, |properties| Known::Properties(canonical(properties)));
        let Some(old) = self.known.insert(id.clone(), new) else { return };
        if let (Known::Properties(old), Some(Known::Properties(new))) = (&old, self.known.get(id)) {
            let silent: Vec<String> =
                changed_paths(old, new).into_iter().filter(|path| !named.contains(path)).collect();
            if !silent.is_empty() {
                self.unexplained.entry(id.clone()).or_default().extend(silent);
            }
        }
    }

    /// Whether a resource is as it was read.
    pub(crate) fn is_as(&self, id: &Id, properties: Option<&Value>) -> bool {
        match (self.known.get(id), properties) {
            (None, None) => true,
            (Some(Known::Properties(ours)), Some(theirs)) => **ours == *canonical(theirs),
            (Some(Known::Ended), _) | (Some(Known::Properties(_)), None) | (None, Some(_)) => false,
        }
    }

    /// The resources that are not the same in both.
    pub(crate) fn differing(&self, other: &Self) -> Vec<Id> {
        let ours = self.known.iter().filter(|(id, known)| other.known.get(*id) != Some(known)).map(|(id, _)| id);
        let theirs = other.known.keys().filter(|id| !self.known.contains_key(*id));
        let mut ids: Vec<Id> = ours.chain(theirs).cloned().collect();
        ids.sort();
        ids
    }

    /// Notes that a resource is not as it was read in the end.
    pub(crate) fn report_difference(&mut self, id: &Id, actual: Option<&Value>) {
        let detail = match (self.known.get(id), actual) {
            (None, None) => return,
            (Some(_), None) => "it is gone, and no event told".to_owned(),
            (None, Some(_)) => "it is there, and no event told".to_owned(),
            (Some(Known::Ended), Some(_)) => {
                "it was gone when an event told of it, and is there again without one".to_owned()
            }
            (Some(Known::Properties(ours)), Some(theirs)) => {
                let paths = changed_paths(ours, &canonical(theirs));
                if paths.is_empty() {
                    return;
                }
                format!("no event told of {}", paths.into_iter().collect::<Vec<_>>().join(", "))
            }
        };
        self.findings.push(Finding { id: id.clone(), what: What::Different, detail });
    }

    /// Notes the changes that no event named.
    pub(crate) fn report_unexplained(&mut self) {
        let mut unexplained: Vec<_> = self.unexplained.drain().filter(|(_, paths)| !paths.is_empty()).collect();
        unexplained.sort();
        for (id, paths) in unexplained {
            let detail = format!("no event names {}", paths.into_iter().collect::<Vec<_>>().join(", "));
            self.findings.push(Finding { id, what: What::Silent, detail });
        }
    }

    /// All that is wrong, in the order in which it was found.
    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.findings
    }
}

/// The leaves of an object by path, as JSON text: the same properties are the same text, whatever order they came in.
fn canonical(properties: &Value) -> Box<str> {
    let mut leaves = BTreeMap::new();
    collect(String::new(), properties, &mut leaves);
    // A map of strings to JSON is JSON.
    serde_json::to_string(&leaves).unwrap_or_default().into()
}

fn collect<'v>(path: String, value: &'v Value, leaves: &mut BTreeMap<String, &'v Value>) {
    match value {
        Value::Object(fields) if reference(value).is_none() => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                collect(path, value, leaves);
            }
        }
        value => {
            leaves.insert(path, value);
        }
    }
}

/// The paths whose values differ between two canonical texts.
fn changed_paths(old: &str, new: &str) -> BTreeSet<String> {
    if old == new {
        return BTreeSet::new();
    }
    let read = |text: &str| serde_json::from_str::<BTreeMap<String, Value>>(text).unwrap_or_default();
    let (old, new) = (read(old), read(new));
    old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn id() -> Id {
        Id { resource_type: "VM".into(), id: "1".into() }
    }

    fn loaded(properties: &Value) -> Replica {
        let mut replica = Replica::default();
        replica.load(id(), properties);
        replica
    }

    /// An update that names these paths, then a reading.
    fn update(replica: &mut Replica, paths: &[&str], properties: Option<&Value>) {
        replica.apply(&id(), Change::Update, &paths.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>());
        replica.refresh(&id(), properties);
    }

    fn findings(mut replica: Replica, actual: Option<&Value>) -> Vec<What> {
        if !replica.is_as(&id(), actual) {
            replica.report_difference(&id(), actual);
        }
        replica.report_unexplained();
        replica.into_findings().into_iter().map(|finding| finding.what).collect()
    }

    #[test]
    fn a_feed_that_tells_everything_leaves_nothing_to_tell() {
        let mut replica = loaded(&json!({"a": 1, "s": {"x": 1}}));
        replica.end_overlap();
        update(&mut replica, &["a", "s/x"], Some(&json!({"s": {"x": 2}, "a": 2})));
        replica.apply(&id(), Change::Delete, &[]);
        replica.apply(&id(), Change::Create, &[]);
        replica.refresh(&id(), Some(&json!({"b": 1})));
        assert_eq!(findings(replica, Some(&json!({"b": 1}))), []);
    }

    #[test]
    fn the_overlap_forgives_first_events_only() {
        for (change, is_there) in [(Change::Create, true), (Change::Update, false), (Change::Delete, false)] {
            let new = || if is_there { loaded(&json!({})) } else { Replica::default() };
            let mut within = new();
            within.apply(&id(), change, &[]);
            assert_eq!(within.into_findings(), [], "{change:?}");
            let mut past = new();
            past.end_overlap();
            past.apply(&id(), change, &[]);
            assert_eq!(past.into_findings().len(), 1, "{change:?}");
        }
        let mut replica = Replica::default();
        replica.apply(&id(), Change::Create, &[]);
        replica.apply(&id(), Change::Create, &[]);
        assert_eq!(replica.into_findings()[0].what, What::Repeat);
    }

    #[test]
    fn a_change_is_explained_by_an_event_before_or_after() {
        let mut replica = loaded(&json!({"a": 1, "b": 1}));
        replica.end_overlap();
        // Read a moment later: b has changed too, and its own event follows.
        update(&mut replica, &["a"], Some(&json!({"a": 2, "b": 2})));
        update(&mut replica, &["b"], Some(&json!({"a": 2, "b": 2})));
        assert_eq!(findings(replica, Some(&json!({"a": 2, "b": 2}))), []);

        let mut replica = loaded(&json!({"a": 1, "b": 1}));
        replica.end_overlap();
        update(&mut replica, &["a"], Some(&json!({"a": 2, "b": 2})));
        assert_eq!(findings(replica, Some(&json!({"a": 2, "b": 2}))), [What::Silent]);
    }

    #[test]
    fn what_no_event_told_is_different_in_the_end() {
        let state = json!({"a": 1});
        assert_eq!(findings(loaded(&state), Some(&json!({"a": 2}))), [What::Different]);
        assert_eq!(findings(loaded(&state), None), [What::Different]);
        assert_eq!(findings(Replica::default(), Some(&state)), [What::Different]);
        let mut ended = loaded(&state);
        update(&mut ended, &["a"], None);
        assert_eq!(findings(ended, None), [What::Different]);
    }

    #[test]
    fn replicas_are_compared_whatever_the_order_of_members() {
        let ours = loaded(&json!({"a": 1, "b": {"c": 1}}));
        assert_eq!(ours.differing(&loaded(&json!({"b": {"c": 1}, "a": 1}))), []);
        assert_eq!(ours.differing(&loaded(&json!({"b": {"c": 2}, "a": 1}))), [id()]);
        assert_eq!(ours.differing(&Replica::default()), [id()]);
        assert_eq!(Replica::default().differing(&ours), [id()]);
    }
}
