//! Stamps: what makes the edits of tagging at several sites come to the same end.
//!
//! # The rule
//! Categories, tags and attachments are sets of *registers*: a register for each property of a category or tag, one for whether it is there, and
//! one for each tag of an object. A register holds a value and the stamp of the edit that gave it: a hybrid logical clock's tick, and the
//! site of the edit. **The later stamp wins**, whichever order edits arrive in and however often: merging is the greatest of both, register by
//! register. Ticks are the site's time in milliseconds, shifted by 16 bits, but always greater than every tick that the edited resource has
//! seen; so an edit beats all that its author could see, also at a site whose clock is behind.
//!
//! Two registers say whether a category or tag is there: `+`, whether it is, and `-`, its last deletion. An edit of a property does not
//! touch them, so *a deletion wins over concurrent edits*; one that is created again with the same id is created by a later stamp and is
//! there again, without its former attachments. So a tag is *attached* when the object's register says so and the tag is there, and the
//! register is not older than the tag's return: a function of the registers alone, which deletions need not touch on every object.
//!
//! # What was lost
//! Beside its registers, a resource has seen edits: the last tick of each site ([`Stamps::has_seen`]). Of two stamps one of which the
//! other side has seen, the later overwrote the earlier, as edits do. Of two that nobody had seen together, one is *lost*, and
//! [`Stamps::merge`] says so.
//!
//! # Where they are
//! In resources of type `TagStamps`, beside the edited resource and written by the same commit (`track`), by whatever way the edit came: service,
//! plain write, import, deletion. Deleted categories and tags leave theirs behind for good, some hundred bytes each: a site that was away
//! for a year must not bring them back; an object of the site's own leaves a mark for a month, a copy nothing. A site without links keeps none; a resource without them has its present
//! values at tick 0, which any edit beats, and which two sites may have different: then the greater text wins.

mod track;

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_journal::{Change, Expect};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAG_STAMPS, TAGS, is_taggable};
use lockstep_model::{Document, ID_BYTES_MAX, ResourceId, Value};
use lockstep_query::View;
use serde::{Deserialize, Serialize};

use crate::inventory::change_to;

pub(crate) use track::track;

/// The register that says whether a category or tag is there.
pub const EXISTS: &str = "+";

/// The register of the last deletion.
pub const DELETED: &str = "-";

/// The register of an object's last deletion: attachments that are older are void, should an object of the id be there again. No id of a
/// tag holds a control character.
pub const GONE: &str = "\u{7f}";

/// Greatest tick that is taken from another site: what is beyond leaves no room for later ones.
pub const TICK_MAX: u64 = 1 << 62;

/// Bits of a tick below its milliseconds.
const TICK_BITS: u32 = 16;

/// When and where an edit was made: later is greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The tick; 0 for what was there before anybody looked.
    pub tick: u64,
    /// The site, by the epoch of its log.
    pub site: Arc<str>,
}

impl Stamp {
    /// When that was, in milliseconds since 1970, as good as the site's clock.
    pub fn time_ms(&self) -> i64 {
        i64::try_from(self.tick >> TICK_BITS).unwrap_or(i64::MAX)
    }
}

/// A value and the edit that gave it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u64, Arc<str>, serde_json::Value)", into = "(u64, Arc<str>, serde_json::Value)")]
pub struct Register {
    /// The edit.
    pub stamp: Stamp,
    /// What it made of it.
    pub value: serde_json::Value,
}

impl From<(u64, Arc<str>, serde_json::Value)> for Register {
    fn from((tick, site, value): (u64, Arc<str>, serde_json::Value)) -> Self {
        Self { stamp: Stamp { tick, site }, value }
    }
}

impl From<Register> for (u64, Arc<str>, serde_json::Value) {
    fn from(register: Register) -> Self {
        (register.stamp.tick, register.stamp.site, register.value)
    }
}

impl Register {
    fn is_later_than(&self, other: &Self) -> bool {
        match self.stamp.cmp(&other.stamp) {
            std::cmp::Ordering::Equal => {
                let (own, their) = (self.value.to_string(), other.value.to_string());
                own > their
            }
            order => order.is_gt(),
        }
    }
}

/// An edit that another one beat without either having seen the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Lost {
    /// The register.
    pub key: String,
    /// What was lost.
    pub lost: Register,
    /// What won: the register's other value, or the deletion.
    pub kept: Register,
    /// Whether it lost against the deletion of what it edited.
    pub is_deleted: bool,
}

/// The registers of one category, tag or object.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Stamps {
    /// The last tick of each site that has been seen.
    #[serde(default)]
    pub seen: BTreeMap<Arc<str>, u64>,
    /// The registers: by property, or by the tag's id.
    #[serde(default)]
    pub is: BTreeMap<String, Register>,
}

impl Stamps {
    /// What is known of a category, a tag, or a taggable object: as stored, or its present values at tick 0. Empty for what never was.
    pub fn of(view: &View, id: &ResourceId) -> Self {
        let stored = stamps_id(id).and_then(|id| view.get(&id));
        let mut stamps = stored.as_ref().map(|stored| Self::read(&stored.document)).unwrap_or_default();
        if is_edited_whole(id) {
            if stamps.is.is_empty()
                && let Some(resource) = view.get(id)
            {
                stamps.base(EXISTS, serde_json::Value::Bool(true));
                fields(id, &resource.document).for_each(|(name, value)| stamps.base(name, value));
            }
        } else if let Some(resource) = view.get(id) {
            for tag in listed(&resource.document) {
                if !stamps.is.contains_key(&*tag.id) {
                    stamps.base(&tag.id, serde_json::Value::Bool(true));
                }
            }
        }
        stamps
    }

    fn base(&mut self, key: &str, value: serde_json::Value) {
        let stamp = Stamp { tick: 0, site: Arc::from("") };
        self.is.insert(key.to_owned(), Register { stamp, value });
    }

    fn read(document: &Document) -> Self {
        let text = document.get("stamps").and_then(Value::as_str).unwrap_or_default();
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The change that stores them beside `id`; `None` when they are stored like that, or when there is no room for the id.
    pub fn store(&self, view: &View, id: &ResourceId) -> Option<(Change, Expect)> {
        let mut document = Document::default();
        // Maps of texts and numbers can always be written.
        let text = serde_json::to_string(self).unwrap_or_default();
        document.set("stamps", Some(Value::from(&*text)));
        change_to(view, stamps_id(id)?, document, Arc::from([]))
    }

    /// Whether nothing was ever edited: then they need not be stored.
    pub fn is_base(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether an edit has gone into this.
    pub fn has_seen(&self, stamp: &Stamp) -> bool {
        stamp.tick == 0 || self.seen.get(&stamp.site).is_some_and(|seen| *seen >= stamp.tick)
    }

    /// The tick of an edit that is made now, having seen this and `above`.
    pub fn tick(&self, now_ms: i64, above: u64) -> u64 {
        let clock = u64::try_from(now_ms).unwrap_or(0) << TICK_BITS;
        let seen = self.seen.values().chain(self.is.values().map(|is| &is.stamp.tick)).max();
        clock.max(seen.map_or(0, |tick| tick + 1)).max(above + 1)
    }

    pub(crate) fn set(&mut self, key: &str, value: serde_json::Value, stamp: &Stamp) {
        self.seen.insert(stamp.site.clone(), stamp.tick);
        self.is.insert(key.to_owned(), Register { stamp: stamp.clone(), value });
    }

    /// Whether the category or tag is there.
    pub fn exists(&self) -> bool {
        self.is.get(EXISTS).is_some_and(|is| is.value == true)
    }

    /// The tick of the last deletion; 0 without one.
    pub fn deleted(&self) -> u64 {
        self.is.get(DELETED).map_or(0, |is| is.stamp.tick)
    }

    /// The tick of an object's last deletion; 0 without one.
    pub fn gone(&self) -> u64 {
        self.is.get(GONE).map_or(0, |is| is.stamp.tick)
    }

    /// Forgets the attachments of an object that is deleted.
    pub fn bury(&mut self, stamp: &Stamp) {
        self.is.clear();
        self.set(GONE, serde_json::Value::Bool(true), stamp);
    }

    /// The least tick of attachments of this tag that count.
    pub fn counts_from(&self) -> u64 {
        match self.is.get(EXISTS) {
            Some(exists) if exists.value == true && self.deleted() > 0 => exists.stamp.tick,
            Some(exists) if exists.value == false => u64::MAX,
            Some(_) | None => 0,
        }
    }

    /// Takes in what another site knows; what was lost by it, here or there.
    pub fn merge(&mut self, theirs: &Self) -> Vec<Lost> {
        let mut lost = self.lost_to_deletion(theirs);
        lost.extend(theirs.lost_to_deletion(self));
        for (key, their) in &theirs.is {
            let Some(own) = self.is.get(key) else {
                self.is.insert(key.clone(), their.clone());
                continue;
            };
            if own.stamp == their.stamp && own.value == their.value {
                continue;
            }
            let takes = their.is_later_than(own);
            let is_base = own.stamp.tick == 0 && their.stamp.tick == 0;
            let is_apart = is_base || !(theirs.has_seen(&own.stamp) || self.has_seen(&their.stamp));
            if is_apart && own.value != their.value {
                let (won, beaten) = if takes { (their, own) } else { (own, their) };
                let (key, lost_one) = (key.clone(), beaten.clone());
                if !lost.iter().any(|one| one.key == key && one.lost == lost_one) {
                    lost.push(Lost { key, lost: lost_one, kept: won.clone(), is_deleted: false });
                }
            }
            if takes {
                self.is.insert(key.clone(), their.clone());
            }
        }
        for (site, tick) in &theirs.seen {
            let seen = self.seen.entry(site.clone()).or_default();
            *seen = (*seen).max(*tick);
        }
        lost
    }

    /// Edits of properties here of which the other side, where the resource is deleted, had not seen anything.
    fn lost_to_deletion(&self, other: &Self) -> Vec<Lost> {
        let (Some(exists), Some(deleted)) = (self.is.get(EXISTS), other.is.get(DELETED)) else { return Vec::new() };
        if !self.exists() || other.exists() || exists.stamp > deleted.stamp {
            return Vec::new();
        }
        let edits = self.is.iter().filter(|(key, is)| *key != DELETED && *key != EXISTS && !other.has_seen(&is.stamp));
        edits
            .map(|(key, is)| Lost { key: key.clone(), lost: is.clone(), kept: deleted.clone(), is_deleted: true })
            .collect()
    }
}

/// Whether a resource is edited as one, a category or a tag; of others only the list of tags is.
pub fn is_edited_whole(id: &ResourceId) -> bool {
    matches!(id.resource_type.as_str(), TAG | TAG_CATEGORY)
}

/// Where the stamps of a resource are; `None` for an id that leaves no room.
pub fn stamps_id(id: &ResourceId) -> Option<ResourceId> {
    let text = format!("{}/{}", id.resource_type, id.id);
    (text.len() <= ID_BYTES_MAX).then(|| ResourceId::new(TAG_STAMPS, text))
}

/// Whose stamps a resource of type `TagStamps` holds.
pub fn stamped(stamps: &str) -> Option<ResourceId> {
    let (resource_type, id) = stamps.split_once('/')?;
    Some(ResourceId::new(resource_type, id))
}

/// The registers of a type of [`is_edited_whole`], by property.
pub fn properties(resource_type: &str) -> &'static [&'static str] {
    match resource_type {
        TAG => &["category", "description", "name", "used_by"],
        TAG_CATEGORY => &["associable_types", "cardinality", "description", "name", "used_by"],
        _ => &[],
    }
}

fn fields<'d>(
    id: &ResourceId,
    document: &'d Document,
) -> impl Iterator<Item = (&'static str, serde_json::Value)> + use<'d> {
    properties(id.resource_type.as_str()).iter().map(|name| (*name, json(document.get(name))))
}

/// A property as a register holds it.
fn json(value: Option<&Value>) -> serde_json::Value {
    match value {
        None => serde_json::Value::Null,
        Some(Value::Id(id)) => serde_json::Value::from(&*id.id),
        Some(value) => serde_json::to_value(value).unwrap_or_default(),
    }
}

/// Gives a category or tag what its registers say. Properties that are no registers stay.
pub fn fill(stamps: &Stamps, document: &mut Document, resource_type: &str) {
    for name in properties(resource_type) {
        let Some(register) = stamps.is.get(*name) else { continue };
        let value = match &register.value {
            serde_json::Value::String(text) if *name == "category" => {
                Some(Value::from(ResourceId::new(TAG_CATEGORY, &**text)))
            }
            serde_json::Value::String(text) => Some(Value::from(&**text)),
            serde_json::Value::Array(texts) => {
                let texts: Box<[Value]> = texts.iter().filter_map(|text| text.as_str().map(Value::from)).collect();
                Some(Value::List(texts))
            }
            _ => None,
        };
        document.set(name, value);
    }
}

/// The tags in an object's list, each once, whether they exist or not.
pub fn listed(document: &Document) -> Vec<ResourceId> {
    let Some(Value::List(items)) = document.get(TAGS) else { return Vec::new() };
    let mut tags: Vec<ResourceId> = Vec::with_capacity(items.len());
    for item in items {
        if let Value::Id(id) = item
            && !tags.contains(id)
        {
            tags.push((**id).clone());
        }
    }
    tags
}

/// The list of tags that an object with these registers has, `before` having been its list: what stays keeps its place.
pub fn attached(view: &View, stamps: &Stamps, before: &[ResourceId]) -> Vec<ResourceId> {
    let from = stamps.gone();
    let is_on = |tag: &ResourceId| match stamps.is.get(&*tag.id) {
        Some(register) => {
            let tick = register.stamp.tick;
            register.value == true && tick >= from && !is_void(view, tag, tick)
        }
        None => true,
    };
    let mut tags: Vec<ResourceId> = before.iter().filter(|tag| is_on(tag)).cloned().collect();
    for key in stamps.is.keys().filter(|key| *key != GONE) {
        let tag = ResourceId::new(TAG, &**key);
        if !tags.contains(&tag) && is_on(&tag) {
            tags.push(tag);
        }
    }
    tags
}

/// Whether an attachment of that tick is void, as the tag was deleted.
fn is_void(view: &View, tag: &ResourceId, tick: u64) -> bool {
    stamps_id(tag).is_some_and(|id| view.modified(&id).is_some()) && tick < Stamps::of(view, tag).counts_from()
}

/// Sets an object's list of tags.
pub fn set_list(document: &mut Document, tags: &[ResourceId]) {
    let list = Value::List(tags.iter().cloned().map(Value::from).collect());
    document.set(TAGS, (!tags.is_empty()).then_some(list));
}

/// Whether resources of a type have a list of tags.
pub fn has_list(view: &View, resource_type: &str) -> bool {
    view.registry().type_def(resource_type).is_some_and(|def| is_taggable(def))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn stamp(tick: u64, site: &str) -> Stamp {
        Stamp { tick, site: site.into() }
    }

    #[test]
    fn an_edit_that_saw_the_other_overwrites_it_and_one_that_did_not_wins_or_is_lost() {
        let mut a = Stamps::default();
        a.set("name", json!("x"), &stamp(a.tick(1, 0), "a"));
        let mut b = a.clone();
        b.set("name", json!("y"), &stamp(b.tick(0, 0), "b"));
        assert!(b.is["name"].stamp.tick > a.is["name"].stamp.tick, "its clock is behind, and it comes later");
        let mut seen = a.clone();
        assert_eq!(seen.merge(&b), []);
        assert_eq!(seen, b);
        assert_eq!(b.clone().merge(&a), []);
        // Meanwhile, at another site.
        a.set("name", json!("z"), &stamp(a.tick(9, 0), "a"));
        let lost = b.clone().merge(&a);
        assert_eq!(lost.len(), 1);
        assert_eq!((&lost[0].lost.value, &lost[0].kept.value), (&json!("y"), &json!("z")));
        assert_eq!(a.clone().merge(&b), lost, "both sites say the same");
    }

    #[test]
    fn a_deletion_beats_an_edit_it_has_not_seen_and_a_creation_revives() {
        let mut a = Stamps::default();
        a.set(EXISTS, json!(true), &stamp(5, "a"));
        let mut b = a.clone();
        let gone = stamp(7, "b");
        b.set(EXISTS, json!(false), &gone);
        b.set(DELETED, json!(true), &gone);
        a.set("name", json!("late"), &stamp(9, "a"));
        for (mut own, theirs) in [(a.clone(), b.clone()), (b.clone(), a.clone())] {
            let lost = own.merge(&theirs);
            assert_eq!(lost.len(), 1);
            assert!(lost[0].is_deleted && lost[0].lost.value == json!("late"));
            assert!(!own.exists() && own.deleted() == 7);
            own.set(EXISTS, json!(true), &stamp(own.tick(0, 0), "a"));
            assert!(own.exists() && own.deleted() == 7);
        }
    }

    #[test]
    fn stamps_survive_being_written() {
        let mut a = Stamps::default();
        a.set("t\"ag", json!(false), &stamp(u64::MAX >> 2, "00ff"));
        let text = serde_json::to_string(&a).unwrap();
        assert_eq!(serde_json::from_str::<Stamps>(&text).unwrap(), a);
        assert_eq!(stamped(&stamps_id(&ResourceId::new("T", "a/b")).unwrap().id), Some(ResourceId::new("T", "a/b")));
    }

    /// Edits at three sites, which merge what others have had at some time.
    fn history() -> impl Strategy<Value = Vec<(usize, usize, u8, u8)>> {
        proptest::collection::vec((0..3usize, 0..3usize, 0..4u8, 0..4u8), 1..60)
    }

    proptest! {
        #[test]
        fn merging_ends_equal_in_any_order_and_loses_nothing_in_silence(steps in history()) {
            let names: [Arc<str>; 3] = ["a".into(), "b".into(), "c".into()];
            let mut sites = vec![Stamps::default(); 3];
            let mut past: Vec<Stamps> = Vec::new();
            let (mut edits, mut overwritten, mut lost) = (Vec::new(), Vec::new(), Vec::new());
            for (n, (site, other, kind, key)) in steps.into_iter().enumerate() {
                let key = format!("k{key}");
                match kind {
                    0 | 1 => {
                        let tick = sites[site].tick(i64::try_from(n).unwrap() % 7, 0);
                        overwritten.extend(sites[site].is.get(&key).cloned().map(|is| (key.clone(), is)));
                        sites[site].set(&key, json!(n), &stamp(tick, &names[site]));
                        edits.push((key.clone(), sites[site].is[&key].clone()));
                    }
                    2 => {
                        let theirs = sites[other].clone();
                        lost.extend(sites[site].merge(&theirs));
                    }
                    _ => {
                        let old = past.get(n % past.len().max(1)).cloned().unwrap_or_default();
                        lost.extend(sites[site].merge(&old));
                    }
                }
                past.push(sites[other].clone());
            }
            for _ in 0..2 {
                for (a, b) in [(0, 1), (1, 2), (2, 0)] {
                    let theirs = sites[b].clone();
                    lost.extend(sites[a].merge(&theirs));
                }
            }
            prop_assert_eq!(&sites[0], &sites[1]);
            prop_assert_eq!(&sites[1], &sites[2]);
            for (key, edit) in edits {
                let is_known = sites[0].is[&key] == edit
                    || overwritten.contains(&(key.clone(), edit.clone()))
                    || lost.iter().any(|one| one.key == key && one.lost == edit);
                prop_assert!(is_known, "{key} {edit:?} is gone without a word");
            }
        }
    }
}
