//! The index: who was touched last by which commit, who lived from when to when, and what touched whom.
//!
//! Everything is in positions; only [`Epochs::bounds`] knows seconds. A touch is a create, an update or a delete by a commit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;

use lockstep_journal::{Change, Commit, Complete, Operation, StateEntry, Tombstone};
use lockstep_model::{ResourceId, ResourceType};
use lockstep_query::View;

use super::{EpochError, Interval, ListKind, Place, TOUCHES_MAX, size};

/// Seconds in which something tracked changed, with 30 bytes each. Older starts are expired: that is 48 days of a change every second.
const SECONDS_MAX: usize = size(1 << 22, 20);

/// Ids in the lists that are kept for further pages; beyond, all lists but the last are forgotten. Each takes 24 bytes.
const LISTED_MAX: usize = size(1 << 20, 9);

/// Says of a touch that it is not known which one came before.
const UNKNOWN: u64 = u64::MAX;

/// See the module.
pub(crate) struct Epochs {
    types: Vec<Tracked>,
    /// The last position of each epoch in which something tracked was touched, as far as is known. It is known for every position that
    /// anything here holds, and that is all that is compared with it.
    seconds: BTreeMap<i64, u64>,
    /// Deletions after this epoch are known, all of them.
    deletions_since_s: i64,
    /// The last epoch that is closed and whose commits the view has.
    closed_s: i64,
    known: Known,
    /// In order; for forgetting the oldest.
    touches: VecDeque<Touch>,
    /// Most ended lives of one type that are remembered.
    ended_max: usize,
    listed: VecDeque<(Interval, Arc<[Place]>)>,
}

/// Which touches are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// All after this position.
    pub(super) after: u64,
    /// All after this epoch.
    pub(super) since_s: i64,
}

/// A touch.
#[derive(Debug, Clone)]
pub(super) struct Touch {
    position: u64,
    epoch_s: i64,
    tracked: usize,
    id: Arc<str>,
    is_create: bool,
}

/// What was found in the journal before what is known.
pub(super) struct Found {
    /// The position after which was read.
    pub(super) after: u64,
    /// The epoch of the first commit found.
    pub(super) since_s: Option<i64>,
    /// In order.
    pub(super) touches: Vec<Touch>,
}

/// An interval in positions: what was touched at a bound was touched before the epoch's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// How far a walk through last touches has come: the last one of what exists, and of what has ended.
pub(super) type Cursor = (Option<(u64, Arc<str>)>, Option<(u64, Arc<str>)>);

/// One type.
struct Tracked {
    resource_type: ResourceType,
    /// Each resource that exists, by its last touch.
    living: BTreeSet<(u64, Arc<str>)>,
    /// What is to become `living`, while the journal is being opened: sorting at once is faster, and packs tighter.
    loading: Vec<(u64, Arc<str>)>,
    /// Ended lives, by where they ended; with the epoch of that.
    ended: BTreeMap<(u64, Arc<str>), i64>,
    /// Ended lives, by id and where they ended; with where they began.
    lives: BTreeMap<(Arc<str>, u64), u64>,
    /// Known touches, by id; with the one before in the same life, 0 for a create, or [`UNKNOWN`].
    touches: BTreeMap<(Arc<str>, u64), u64>,
}

impl Epochs {
    /// An index that knows nothing yet, and remembers at most so many deletions of each type.
    pub(crate) fn new(types: &[String], ended_max: usize) -> Self {
        let tracked = |name: &String| Tracked {
            resource_type: name.as_str().into(),
            living: BTreeSet::new(),
            loading: Vec::new(),
            ended: BTreeMap::new(),
            lives: BTreeMap::new(),
            touches: BTreeMap::new(),
        };
        Self {
            types: types.iter().map(tracked).collect(),
            seconds: BTreeMap::new(),
            deletions_since_s: 0,
            closed_s: i64::MIN,
            known: Known { after: 0, since_s: i64::MIN },
            touches: VecDeque::new(),
            ended_max,
            listed: VecDeque::new(),
        }
    }

    /// The last epoch in which anything was touched.
    pub(crate) fn last_touched_s(&self) -> Option<i64> {
        self.seconds.last_key_value().map(|(epoch_s, _)| *epoch_s)
    }

    /// The number of a type, if it is tracked.
    pub(super) fn find(&self, resource_type: &str) -> Option<usize> {
        self.types.iter().position(|tracked| tracked.resource_type.as_str() == resource_type)
    }

    pub(super) fn resource_type(&self, tracked: usize) -> &ResourceType {
        &self.types[tracked].resource_type
    }

    /// Takes a resource of the journal's state.
    pub(crate) fn load(&mut self, entry: &StateEntry) {
        let Some(tracked) = self.find(entry.id.resource_type.as_str()) else { return };
        self.types[tracked].loading.push((entry.modified.0, (&*entry.id.id).into()));
        self.date(entry.created_ms.div_euclid(1000), entry.created.0);
        self.date(entry.modified_ms.div_euclid(1000), entry.modified.0);
        self.forget_touches_through(entry.modified.0, entry.modified_ms.div_euclid(1000));
    }

    /// Takes a deletion that the journal's state remembers.
    pub(crate) fn load_tombstone(&mut self, tombstone: &Tombstone) {
        let Some(tracked) = self.find(tombstone.id.resource_type.as_str()) else { return };
        let deleted_s = tombstone.deleted_ms.div_euclid(1000);
        self.types[tracked].end(&(&*tombstone.id.id).into(), tombstone.created.0, tombstone.deleted.0, deleted_s);
        self.date(tombstone.created_ms.div_euclid(1000), tombstone.created.0);
        self.date(deleted_s, tombstone.deleted.0);
        self.forget_touches_through(tombstone.deleted.0, deleted_s);
    }

    /// The journal is open, and said since when deletions are known and what is closed.
    pub(crate) fn settle(&mut self, complete: Complete, closed_s: i64) {
        self.types.iter_mut().for_each(Tracked::settle);
        self.deletions_since_s = self.deletions_since_s.max(complete.since_ms.div_euclid(1000));
        self.closed_s = closed_s;
        self.forget();
    }

    /// The epoch is closed, and the view has all its commits.
    pub(super) fn close(&mut self, epoch_s: i64) {
        self.closed_s = self.closed_s.max(epoch_s);
    }

    /// Goes one commit further; `view` is as it was before.
    pub(crate) fn apply(&mut self, commit: &Commit, view: &View) {
        let (position, epoch_s) = (commit.position.0, commit.time_ms.div_euclid(1000));
        let mut is_touched = false;
        for change in &commit.changes {
            let Some(nth) = self.find(change.id.resource_type.as_str()) else { continue };
            is_touched = true;
            let tracked = &mut self.types[nth];
            tracked.settle();
            let (created, before) = view.lifetime(&change.id).map_or((0, 0), |(created, at)| (created.0, at.0));
            let mut id: Arc<str> = (&*change.id.id).into();
            if before > 0
                && let Some((_, known)) = tracked.living.take(&(before, id.clone()))
            {
                // One allocation for all that know it.
                id = known;
            }
            let is_create = match &change.operation {
                Operation::Create(_) => tracked.living.insert((position, id.clone())),
                Operation::Update(_) => {
                    tracked.living.insert((position, id.clone()));
                    false
                }
                Operation::Delete(_) => {
                    tracked.end(&id, created, position, epoch_s);
                    false
                }
            };
            tracked.touches.insert((id.clone(), position), before);
            self.touches.push_back(Touch { position, epoch_s, tracked: nth, id, is_create });
        }
        if is_touched {
            self.date(epoch_s, position);
            self.forget();
        }
    }

    /// The commit at a position belongs to an epoch.
    fn date(&mut self, epoch_s: i64, position: u64) {
        let last = self.seconds.entry(epoch_s).or_default();
        *last = position.max(*last);
    }

    /// Touches up to here are not known, or not any more.
    fn forget_touches_through(&mut self, position: u64, epoch_s: i64) {
        self.known = Known { after: self.known.after.max(position), since_s: self.known.since_s.max(epoch_s) };
    }

    /// Keeps the limits.
    fn forget(&mut self) {
        while self.touches.len() > TOUCHES_MAX
            && let Some(Touch { position, epoch_s, tracked, id, .. }) = self.touches.pop_front()
        {
            self.types[tracked].touches.remove(&(id, position));
            self.forget_touches_through(position, epoch_s);
        }
        for tracked in &mut self.types {
            while tracked.ended.len() > self.ended_max
                && let Some(((position, id), epoch_s)) = tracked.ended.pop_first()
            {
                tracked.lives.remove(&(id, position));
                self.deletions_since_s = self.deletions_since_s.max(epoch_s);
            }
        }
        while self.seconds.len() > SECONDS_MAX && self.seconds.pop_first().is_some() {
            // What was before the first second that is left is before it in positions, too: from there on, all bounds are right.
            let first_s = self.seconds.first_key_value().map_or(0, |(first_s, _)| *first_s);
            self.deletions_since_s = self.deletions_since_s.max(first_s);
        }
    }

    /// Checks that an interval can be told, as far as deletions go and what is closed. A start of 0 asks for a full copy.
    pub(super) fn check(&self, start_s: i64, end_s: i64) -> Result<(), EpochError> {
        if end_s > self.closed_s {
            return Err(EpochError::Open { asked: end_s, closed: self.closed_s });
        }
        let asked = if start_s == 0 { end_s } else { start_s };
        if asked < self.deletions_since_s {
            return Err(EpochError::Expired { asked, oldest: self.deletions_since_s });
        }
        Ok(())
    }

    /// The interval in positions; every touch after the end is known.
    pub(super) fn bounds(&self, interval: Interval) -> Result<Bounds, EpochError> {
        let Interval { start_s, end_s, .. } = interval;
        self.check(start_s, end_s)?;
        if end_s < self.known.since_s {
            return Err(EpochError::Expired { asked: end_s, oldest: self.known.since_s });
        }
        let bound = |epoch_s| self.seconds.range(..=epoch_s).next_back().map_or(0, |(_, last)| *last);
        let start = if start_s == 0 { 0 } else { bound(start_s) };
        Ok(Bounds { start, end: bound(end_s) })
    }

    /// The least epoch after which all that was touched was touched after `position`.
    pub(super) fn epoch_of(&self, position: lockstep_model::Position) -> i64 {
        let after = self.seconds.iter().rev().take_while(|(_, last)| **last >= position.0);
        after.last().map_or(self.closed_s, |(epoch_s, _)| *epoch_s)
    }

    pub(super) fn known(&self) -> Known {
        self.known
    }

    /// What of a commit touches something tracked.
    pub(super) fn touches_of(&self, commit: &Commit) -> Vec<Touch> {
        let (position, epoch_s) = (commit.position.0, commit.time_ms.div_euclid(1000));
        let touch = |change: &Change| {
            let tracked = self.find(change.id.resource_type.as_str())?;
            let is_create = matches!(change.operation, Operation::Create(_));
            Some(Touch { position, epoch_s, tracked, id: (&*change.id.id).into(), is_create })
        };
        commit.changes.iter().filter_map(touch).collect()
    }

    /// Takes touches from before those that are known. False when that are too many.
    pub(super) fn prepend(&mut self, known: Known, found: Found) -> bool {
        if known != self.known {
            // Somebody else was faster, or touches were forgotten: that is seen in the next round.
            return true;
        }
        if self.touches.len() + found.touches.len() > TOUCHES_MAX {
            return false;
        }
        // Newest first: each tells the next one of its resource what came before.
        for touch in found.touches.into_iter().rev() {
            let Touch { position, epoch_s, tracked, is_create, .. } = touch;
            self.date(epoch_s, position);
            let touches = &mut self.types[tracked].touches;
            let key = |position| (touch.id.clone(), position);
            let next = touches.range_mut((Excluded(key(position)), Included(key(u64::MAX)))).next();
            if let Some((_, before)) = next
                && *before == UNKNOWN
            {
                *before = position;
            }
            touches.insert(key(position), if is_create { 0 } else { UNKNOWN });
            self.touches.push_front(touch);
        }
        let since_s = if found.after == 0 { i64::MIN } else { found.since_s.unwrap_or(known.since_s) };
        self.known = Known { after: found.after, since_s };
        true
    }

    /// Ids of what exists or has ended, after `after`, in order. Some may come twice in a row.
    pub(super) fn ids<'a>(
        &'a self,
        tracked: usize,
        view: &'a View,
        after: Option<&str>,
    ) -> impl Iterator<Item = Arc<str>> + 'a {
        let tracked = &self.types[tracked];
        let mut living = view.ids(tracked.resource_type.as_str(), after).map(|id| Arc::<str>::from(id.id)).peekable();
        let from = after.map_or(Unbounded, |after| Excluded((after.into(), u64::MAX)));
        let mut ended = tracked.lives.range((from, Unbounded)).map(|((id, _), _)| id).peekable();
        std::iter::from_fn(move || {
            let next = match (living.peek(), ended.peek()) {
                (Some(living), Some(ended)) => living.min(ended).clone(),
                (Some(living), None) => living.clone(),
                (None, Some(ended)) => (*ended).clone(),
                (None, None) => return None,
            };
            living.next_if_eq(&next);
            while ended.next_if(|id| **id == next).is_some() {}
            Some(next)
        })
    }

    /// Whether a resource existed right after the commit at `bound`.
    pub(super) fn was_there(&self, tracked: usize, view: &View, id: &Arc<str>, bound: u64) -> bool {
        self.types[tracked].was_there(self.types[tracked].lifetime(view, id), id, bound)
    }

    /// Which list a resource belongs to.
    pub(super) fn kind_of(&self, tracked: usize, view: &View, id: &Arc<str>, bounds: Bounds) -> Option<ListKind> {
        let tracked = &self.types[tracked];
        let life = tracked.lifetime(view, id);
        match (tracked.was_there(life, id, bounds.start), tracked.was_there(life, id, bounds.end)) {
            (false, false) => None,
            (false, true) => Some(ListKind::Created),
            (true, false) => Some(ListKind::Deleted),
            (true, true) => {
                // The last touch up to the end is what the first one after it came after.
                let later = tracked.touches_after(id, bounds.end).next();
                let last = later.map_or(life.map(|(_, modified)| modified), |(_, before)| Some(before));
                last.is_some_and(|last| last > bounds.start).then_some(ListKind::Updated)
            }
        }
    }

    /// Where a resource was touched after `bound`.
    pub(super) fn touches_after(&self, tracked: usize, id: &Arc<str>, bound: u64) -> impl Iterator<Item = u64> + '_ {
        self.types[tracked].touches_after(id, bound).map(|(position, _)| position)
    }

    /// Some of what was touched last after `bound`, beginning at a cursor, and the cursor to go on from; `None` at the end.
    pub(super) fn touched_last_after(
        &self,
        tracked: usize,
        bound: u64,
        cursor: Option<Cursor>,
        some: usize,
    ) -> (Vec<Arc<str>>, Option<Cursor>) {
        let tracked = &self.types[tracked];
        let (living_at, ended_at) = cursor.unwrap_or_default();
        let from =
            |at: Option<(u64, Arc<str>)>| at.map_or_else(|| Included((bound.saturating_add(1), "".into())), Excluded);
        let living: Vec<_> = tracked.living.range((from(living_at.clone()), Unbounded)).take(some / 2).collect();
        let ended: Vec<_> =
            tracked.ended.range((from(ended_at.clone()), Unbounded)).map(|(key, _)| key).take(some / 2).collect();
        let is_done = living.len() < some / 2 && ended.len() < some / 2;
        let last = |of: &[&(u64, Arc<str>)], at| of.last().map(|last| (*last).clone()).or(at);
        let cursor = (!is_done).then(|| (last(&living, living_at), last(&ended, ended_at)));
        (living.into_iter().chain(ended).map(|(_, id)| id.clone()).collect(), cursor)
    }

    /// A list that was kept.
    pub(super) fn listed(&self, interval: Interval) -> Option<Arc<[Place]>> {
        self.listed.iter().find(|(known, _)| *known == interval).map(|(_, listed)| listed.clone())
    }

    /// Keeps a list: both of its ends are closed, so it never changes.
    pub(super) fn keep_listed(&mut self, interval: Interval, listed: Arc<[Place]>) {
        if self.listed(interval).is_none() {
            self.listed.push_back((interval, listed));
        }
        while self.listed.len() > 1 && self.listed.iter().map(|(_, listed)| listed.len()).sum::<usize>() > LISTED_MAX {
            self.listed.pop_front();
        }
    }
}

impl Tracked {
    fn settle(&mut self) {
        if !self.loading.is_empty() {
            let mut loaded = std::mem::take(&mut self.loading);
            loaded.sort_unstable();
            self.living = loaded.into_iter().collect();
        }
    }

    fn end(&mut self, id: &Arc<str>, created: u64, deleted: u64, deleted_s: i64) {
        self.ended.insert((deleted, id.clone()), deleted_s);
        self.lives.insert((id.clone(), deleted), created);
    }

    /// Where the resource that exists was created and last touched.
    fn lifetime(&self, view: &View, id: &Arc<str>) -> Option<(u64, u64)> {
        let id = ResourceId::new(self.resource_type.clone(), &**id);
        view.lifetime(&id).map(|(created, modified)| (created.0, modified.0))
    }

    fn was_there(&self, life: Option<(u64, u64)>, id: &Arc<str>, bound: u64) -> bool {
        // The first life that ends after the bound is the only one that can contain it, but for the one that has not ended.
        let ended = self.lives.range((Excluded((id.clone(), bound)), Included((id.clone(), u64::MAX)))).next();
        ended.is_some_and(|(_, created)| *created <= bound) || life.is_some_and(|(created, _)| created <= bound)
    }

    fn touches_after(&self, id: &Arc<str>, bound: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        let range = (Excluded((id.clone(), bound)), Included((id.clone(), u64::MAX)));
        self.touches.range(range).map(|((_, position), before)| (*position, *before))
    }
}
