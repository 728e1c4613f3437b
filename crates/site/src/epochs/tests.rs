//! Clients that keep copies by net changes, against a model that replays the whole history for every question.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lockstep_journal::{Batch, Change, Clock, Commit, CommitError, Expect, Operation, Retention, redo};
use lockstep_model::{Document, Position, ResourceId, Value};
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::{EpochError, ListKind, NetChange, Place, TOUCHES_MAX};
use crate::sessions::SessionLimits;
use crate::{Config, Site};

/// Two that are tracked, one that is not. Ids are the same in all.
const TYPES: [&str; 3] = ["Folder", "AcqSpec", "Untracked"];

/// What may happen.
#[derive(Debug, Clone)]
enum Deed {
    /// Batches of several writers at once: the type and number of a resource, and what it is to be.
    Commit(Vec<Vec<(u8, u8, Option<i64>)>>),
    /// The clock is set to this many tenths of a second.
    Clock(u16),
    /// The present second, or one beside it, is closed.
    Close(i8),
    /// A client asks for its next page, or begins anew: up to a share of what is closed, in 256ths, or up to the present; in pages of
    /// so many.
    Page(u8, Option<u8>, usize),
    Reopen,
    /// The log is folded, and forgotten up to this share of it, in 256ths.
    Compact(u8),
}

fn deed() -> impl Strategy<Value = Deed> {
    let change = (0u8..3, 0u8..12, prop::option::weighted(0.6, 0i64..4));
    let batch = prop::collection::vec(change, 1..5);
    prop_oneof![
        12 => prop::collection::vec(batch, 1..4).prop_map(Deed::Commit),
        4 => (0u16..400).prop_map(Deed::Clock),
        2 => (-2i8..3).prop_map(Deed::Close),
        16 => (0u8..3, prop::option::weighted(0.3, any::<u8>()), prop_oneof![1usize..5, Just(1000)])
            .prop_map(|(client, end, limit)| Deed::Page(client, end, limit)),
        2 => Just(Deed::Reopen),
        1 => any::<u8>().prop_map(Deed::Compact),
    ]
}

/// The resources of one type, and where each was touched last.
type Resources = BTreeMap<Arc<str>, (Document, Position)>;

/// All commits there ever were.
#[derive(Default)]
struct History(Vec<Arc<Commit>>);

impl History {
    /// The resources of a type after the last commit of an epoch.
    fn at(&self, resource_type: &str, epoch_s: i64) -> Resources {
        let mut resources = Resources::new();
        for commit in self.0.iter().take_while(|commit| commit.time_ms.div_euclid(1000) <= epoch_s) {
            for change in commit.changes.iter().filter(|change| change.id.resource_type.as_str() == resource_type) {
                let id: Arc<str> = (&*change.id.id).into();
                match &change.operation {
                    Operation::Create(document) => {
                        resources.insert(id, (document.clone(), commit.position));
                    }
                    Operation::Update(leaves) => {
                        let known = resources.get_mut(&id).unwrap();
                        redo(&mut known.0, leaves);
                        known.1 = commit.position;
                    }
                    Operation::Delete(_) => drop(resources.remove(&id)),
                }
            }
        }
        resources
    }

    fn count(&self, is_counted: impl Fn(&Change) -> bool) -> usize {
        self.0.iter().flat_map(|commit| &commit.changes).filter(|change| is_counted(change)).count()
    }
}

/// A client with a copy.
#[derive(Default)]
struct Client {
    copy: BTreeMap<Arc<str>, Document>,
    /// What the copy is of; 0 for nothing.
    end_s: i64,
    under_way: Option<UnderWay>,
}

/// A net change that is being fetched.
struct UnderWay {
    end_s: i64,
    next: Option<Place>,
    places: Vec<Place>,
    documents: BTreeMap<Arc<str>, Document>,
}

struct House {
    runtime: Runtime,
    config: Config,
    site: Arc<Site>,
    clock_ms: Arc<AtomicI64>,
    history: History,
    /// Whether all touches since the beginning are known to the site, and may be.
    is_reopened: bool,
    is_compacted: bool,
    is_generous: bool,
    pages: usize,
    expired: usize,
    _dir: TempDir,
}

fn document(value: i64) -> Document {
    let mut fields = vec![("name".into(), Value::String(format!("n{value}").into()))];
    if value % 2 == 0 {
        fields.push(("description".into(), Value::from("even")));
    }
    Document::new(fields)
}

fn is_same(a: &Document, b: &Document) -> bool {
    a.diff(b).is_empty()
}

impl House {
    fn new(retention: Retention, fold_bytes_min: u64) -> Self {
        let clock_ms = Arc::new(AtomicI64::new(10_000));
        let clock = Clock::new({
            let clock_ms = clock_ms.clone();
            move || clock_ms.load(Ordering::Relaxed)
        });
        let dir = TempDir::new().unwrap();
        let config = Config {
            name: "test".to_owned(),
            data_dir: dir.path().to_owned(),
            journal: lockstep_journal::Config {
                retention,
                segment_bytes_max: 400,
                fold_bytes_min,
                ring_bytes_max: 300,
                clock,
                ..Default::default()
            },
            query_limits: Default::default(),
            sessions: SessionLimits::default(),
            epoch_types: TYPES[..2].iter().map(|name| (*name).to_owned()).collect(),
        };
        let is_generous = retention.changes_max == u64::MAX && retention.deletions_max == u64::MAX;
        let site = Site::open(config.clone(), &mut |_| {}).unwrap();
        Self {
            runtime: tokio::runtime::Builder::new_current_thread().build().unwrap(),
            config,
            site,
            clock_ms,
            history: History::default(),
            is_reopened: false,
            is_compacted: false,
            is_generous,
            pages: 0,
            expired: 0,
            _dir: dir,
        }
    }

    fn reopen(&mut self) {
        self.site.close();
        self.site = Site::open(self.config.clone(), &mut |_| {}).unwrap();
        self.is_reopened = true;
    }

    fn commit(&mut self, batches: &[Vec<(u8, u8, Option<i64>)>]) {
        let made = batches.iter().filter_map(|wanted| self.batch(wanted)).collect::<Vec<_>>();
        let head = self.site.journal().head();
        let outcomes: Vec<_> = made.into_iter().map(|batch| self.site.begin_commit(batch)).collect();
        for outcome in outcomes {
            match self.runtime.block_on(outcome) {
                Ok(_) | Err(CommitError::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        let mut after = head;
        loop {
            // Retention may be faster than this test: what it dropped, the test cannot know, so it asks in time and often.
            let commits = self.site.journal().read(after, 1 << 20).unwrap();
            let Some(last) = commits.last() else { break };
            after = last.position;
            self.history.0.extend(commits);
        }
    }

    fn batch(&self, wanted: &[(u8, u8, Option<i64>)]) -> Option<Batch> {
        let view = self.site.view();
        let mut changes = BTreeMap::new();
        for (resource_type, number, value) in wanted {
            let id = ResourceId::new(TYPES[usize::from(*resource_type)], format!("r{number}"));
            let (operation, expect) = match (view.get(&id), value) {
                (None, None) => continue,
                (None, Some(value)) => (Operation::Create(document(*value)), Expect::Absent),
                (Some(stored), None) => (Operation::Delete(stored.document), Expect::At(stored.modified)),
                (Some(stored), Some(value)) => {
                    let leaves = stored.document.diff(&document(*value));
                    if leaves.is_empty() {
                        continue;
                    }
                    (Operation::Update(leaves), Expect::At(stored.modified))
                }
            };
            changes.insert(id.clone(), (Change { id, operation, parents: [].into() }, expect));
        }
        let changes: Vec<_> = changes.into_values().collect();
        (!changes.is_empty()).then(|| Batch { author: "test".into(), changes, relies_on: Vec::new() })
    }

    fn close_epoch(&self, epoch_s: i64) {
        self.runtime.block_on(self.site.close_epoch(epoch_s)).unwrap();
    }

    /// Fetches one page for a client, and compares the copy when it was the last.
    fn page(&mut self, client: &mut Client, resource_type: &str, share: Option<u8>, limit: usize) {
        let start_s = client.end_s;
        let under_way = client.under_way.get_or_insert_with(|| {
            let now_s = self.site.log_now_s();
            let end_s = share.map_or(now_s, |share| start_s + (now_s - start_s) * i64::from(share) / 255);
            self.close_epoch(end_s);
            UnderWay { end_s, next: None, places: Vec::new(), documents: BTreeMap::new() }
        });
        let end_s = under_way.end_s;
        match self.site.net_change(resource_type, start_s, end_s, under_way.next.take(), limit) {
            Ok(page) => {
                self.pages += 1;
                under_way.take(page, limit);
            }
            Err(EpochError::Expired { asked, oldest }) => {
                assert!((asked == start_s || asked == end_s) && oldest > asked, "{asked}, {oldest}");
                let touches = self.history.count(|change| change.id.resource_type.as_str() != TYPES[2]);
                assert!(
                    self.is_compacted || !self.is_generous || touches > TOUCHES_MAX,
                    "({start_s}, {end_s}] expired: {oldest}"
                );
                self.expired += 1;
                *client = Client::default();
                return;
            }
            Err(error) => panic!("{error}"),
        }
        if under_way.next.is_some() {
            return;
        }
        let UnderWay { places, documents, .. } = client.under_way.take().unwrap();
        self.check(resource_type, start_s, end_s, &places);
        if start_s == 0 {
            // A full copy takes the place of whatever there was.
            client.copy.clear();
        }
        for (kind, id) in places {
            match kind {
                ListKind::Created => {
                    let before = client.copy.insert(id.clone(), documents[&id].clone());
                    assert_eq!(before, None, "{id} was created twice");
                }
                ListKind::Updated => {
                    assert!(client.copy.insert(id.clone(), documents[&id].clone()).is_some(), "{id} was not known");
                }
                ListKind::Deleted => assert!(client.copy.remove(&id).is_some(), "{id} was not known"),
            }
        }
        let expected = self.history.at(resource_type, end_s);
        assert!(
            client.copy.keys().eq(expected.keys())
                && client.copy.values().zip(expected.values()).all(|(a, (b, _))| is_same(a, b)),
            "({start_s}, {end_s}]: {:?}, not {expected:?}",
            client.copy
        );
        client.end_s = end_s;
    }

    /// Whether the lists are what they must be.
    fn check(&self, resource_type: &str, start_s: i64, end_s: i64, places: &[Place]) {
        assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        let start = if start_s == 0 { Resources::new() } else { self.history.at(resource_type, start_s) };
        let end = self.history.at(resource_type, end_s);
        let listed = |wanted| -> BTreeSet<&Arc<str>> {
            places.iter().filter(|(kind, _)| *kind == wanted).map(|(_, id)| id).collect()
        };
        assert_eq!(listed(ListKind::Created), end.keys().filter(|id| !start.contains_key(*id)).collect());
        assert_eq!(listed(ListKind::Deleted), start.keys().filter(|id| !end.contains_key(*id)).collect());
        let updated = listed(ListKind::Updated);
        let is_touched = |id: &&Arc<str>| start.get(*id).is_some_and(|before| before.1 != end[*id].1);
        let touched: BTreeSet<_> = end.keys().filter(is_touched).collect();
        let touches = self.history.count(|change| change.id.resource_type.as_str() != TYPES[2]);
        if self.is_reopened || touches > TOUCHES_MAX {
            // Then what was touched before the end and after may be listed without a touch in between.
            assert!(updated.is_superset(&touched) && updated.iter().all(|id| start.contains_key(*id)));
        } else {
            assert_eq!(updated, touched);
        }
    }
}

impl UnderWay {
    fn take(&mut self, page: NetChange, limit: usize) {
        let NetChange { created, updated, deleted, next } = page;
        let items = created.len() + updated.len() + deleted.len();
        assert!(items <= limit && (items == limit || next.is_none()), "{items} of {limit}");
        let with = |kind, some: Vec<(Arc<str>, Document)>| some.into_iter().map(move |(id, d)| (kind, id, Some(d)));
        let deleted = deleted.into_iter().map(|id| (ListKind::Deleted, id, None));
        for (kind, id, document) in
            with(ListKind::Created, created).chain(with(ListKind::Updated, updated)).chain(deleted)
        {
            self.places.push((kind, id.clone()));
            self.documents.extend(document.map(|document| (id, document)));
        }
        self.next = next;
    }
}

fn run(deeds: &[Deed], retention: Retention, fold_bytes_min: u64) {
    let mut house = House::new(retention, fold_bytes_min);
    let mut clients: [Client; 3] = Default::default();
    for deed in deeds {
        match deed {
            Deed::Commit(batches) => house.commit(batches),
            Deed::Clock(tenths) => house.clock_ms.store(i64::from(*tenths) * 100, Ordering::Relaxed),
            Deed::Close(ahead) => house.close_epoch(house.site.log_now_s() + i64::from(*ahead)),
            Deed::Page(client, share, limit) => {
                let nth = usize::from(*client);
                house.page(&mut clients[nth], TYPES[nth % 2], *share, *limit);
            }
            Deed::Reopen => house.reopen(),
            Deed::Compact(share) => {
                let head = house.site.journal().head().0;
                house.site.journal().compact(Position(head * u64::from(*share) / 255)).unwrap();
                house.is_compacted |= *share > 0;
            }
        }
    }
    // Whatever happened, a client comes to the present.
    for (nth, client) in clients.iter_mut().enumerate() {
        for _ in 0..1000 {
            let now_s = house.site.log_now_s();
            if client.under_way.is_none() && client.end_s == now_s {
                break;
            }
            house.page(client, TYPES[nth % 2], None, 3);
        }
        assert!(client.under_way.is_none() && client.end_s == house.site.log_now_s());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_copy_is_what_was_there_at_its_end(
        deeds in prop::collection::vec(deed(), 1..100),
        changes_max in prop_oneof![2 => Just(u64::MAX), 1 => Just(60u64)],
        deletions_max in prop_oneof![2 => Just(u64::MAX), 1 => 0u64..8],
        fold_bytes_min in prop_oneof![Just(500u64), Just(1 << 20)],
    ) {
        let retention = Retention {
            age: Duration::from_secs(1 << 30),
            bytes_max: u64::MAX,
            changes_max,
            deletions_age: Duration::from_secs(1 << 30),
            deletions_max,
        };
        run(&deeds, retention, fold_bytes_min);
    }
}

/// Keeps everything, in a state and a log.
fn keep() -> Retention {
    let age = Duration::from_secs(1 << 30);
    Retention { age, bytes_max: u64::MAX, changes_max: u64::MAX, deletions_age: age, deletions_max: u64::MAX }
}

#[test]
fn an_old_end_is_told_from_the_journal_when_the_index_was_made_anew() {
    let mut house = House::new(keep(), 500);
    for n in 0..40i64 {
        house.clock_ms.fetch_add(1000, Ordering::Relaxed);
        // Ids are touched at distances that are longer and shorter than what is read at once.
        let number = [0, 1, 0, 2, 1, 0, 3, 0][n as usize % 8];
        let value = if n % 13 == 12 { None } else { Some(n) };
        house.commit(&[vec![(1, number, value), (2, number, Some(n))]]);
    }
    let now_s = house.site.log_now_s();
    house.close_epoch(now_s);
    let begun = std::time::Instant::now();
    while house.site.journal().disk_bytes().1 == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30), "no state was written");
        std::thread::sleep(Duration::from_millis(1));
    }
    // How much of the log the state covers is housekeeping's affair: where it lags, the seconds that the index remembers (few, in tests)
    // may not reach back to the oldest starts, which is told.
    let (mut told, mut expired) = (0, 0);
    for ends_at_once in [1, 7] {
        for first_end_s in (11..=now_s).rev().step_by(ends_at_once) {
            house.reopen();
            for end_s in first_end_s..=now_s.min(first_end_s + 1) {
                for start_s in [0, 10, end_s - 9, end_s - 4, end_s - 1] {
                    let page = match house.site.net_change(TYPES[1], start_s, end_s, None, 1000) {
                        Ok(page) => page,
                        Err(EpochError::Expired { asked, oldest }) if asked == start_s && oldest > start_s => {
                            expired += 1;
                            continue;
                        }
                        Err(error) => panic!("{start_s} to {end_s}: {error}"),
                    };
                    told += 1;
                    let mut under_way = UnderWay { end_s, next: None, places: Vec::new(), documents: BTreeMap::new() };
                    under_way.take(page, 1000);
                    house.check(TYPES[1], start_s, end_s, &under_way.places);
                    let then = house.history.at(TYPES[1], end_s);
                    for (id, document) in &under_way.documents {
                        assert!(is_same(document, &then[id].0), "{id} at {end_s}: {document:?}");
                    }
                }
            }
        }
    }
    assert!(told > 3 * expired, "{told} told, {expired} expired");
}

#[test]
fn what_is_not_tracked_or_not_closed_is_refused() {
    let house = House::new(keep(), 1 << 20);
    let now_s = house.site.log_now_s();
    let ask = |resource_type, end_s| house.site.net_change(resource_type, 0, end_s, None, 9);
    assert_eq!(ask("Untracked", 0), Err(EpochError::Untracked("Untracked".to_owned())));
    assert_eq!(ask("AcqSpec", now_s), Err(EpochError::Open { asked: now_s, closed: -1 }));
    house.close_epoch(now_s);
    assert_eq!(ask("AcqSpec", now_s), Ok(NetChange::default()));
    assert_eq!(ask("AcqSpec", now_s + 1), Err(EpochError::Open { asked: now_s + 1, closed: now_s }));
}

#[test]
fn a_start_before_the_deletions_that_are_known_is_expired() {
    let mut house = House::new(Retention { deletions_max: 2, ..keep() }, 1 << 20);
    for n in 0..4 {
        house.clock_ms.fetch_add(1000, Ordering::Relaxed);
        house.commit(&[vec![(1, n, Some(1))]]);
        house.clock_ms.fetch_add(1000, Ordering::Relaxed);
        house.commit(&[vec![(1, n, None)]]);
    }
    let now_s = house.site.log_now_s();
    house.close_epoch(now_s);
    for _ in 0..2 {
        // Two of four deletions are known, at the end and two seconds before; the last one that is not, four seconds before.
        let oldest = now_s - 4;
        let asked = oldest - 1;
        assert_eq!(house.site.net_change("AcqSpec", asked, now_s, None, 9), Err(EpochError::Expired { asked, oldest }));
        let none = house.site.net_change("AcqSpec", oldest, now_s, None, 9).unwrap();
        assert_eq!(none, NetChange::default(), "what came and went is in no list");
        let gone = house.site.net_change("AcqSpec", now_s - 1, now_s, None, 9).unwrap();
        assert_eq!(gone.deleted, [Arc::from("r3")]);
        house.site.journal().compact(house.site.journal().head()).unwrap();
        house.reopen();
    }
}

#[test]
fn what_was_deleted_is_known_after_a_fold_and_a_restart() {
    let mut house = House::new(keep(), 1 << 20);
    house.commit(&[vec![(2, 1, Some(1)), (2, 2, Some(1))]]);
    house.commit(&[vec![(2, 2, None)]]);
    house.commit(&[vec![(2, 1, None)]]);
    let gone = |house: &House, after| {
        let deleted = house.site.deleted_since(&house.site.view(), Position(after));
        deleted.map(|ids| ids.into_iter().map(|id| id.id.to_string()).collect::<Vec<_>>())
    };
    for _ in 0..2 {
        assert_eq!(gone(&house, 0), Some(vec!["r2".to_owned(), "r1".to_owned()]));
        assert_eq!(gone(&house, 2), Some(vec!["r1".to_owned()]));
        assert_eq!(gone(&house, 3), Some(Vec::new()));
        house.site.journal().compact(house.site.journal().head()).unwrap();
        assert_eq!(house.site.journal().oldest(), Position(3));
        house.reopen();
    }
}

#[test]
fn copies_are_right_while_others_write_all_the_time() {
    let mut house = House::new(keep(), 1 << 20);
    let (site, is_over) = (house.site.clone(), std::sync::atomic::AtomicBool::new(false));
    let (house_of_writers, site_of_client) = (&house, &site);
    let batches_of = |seed: u8| {
        let step = move |n: u32| {
            let mixed = n.wrapping_mul(2_654_435_761).rotate_left(u32::from(seed)) >> 8;
            vec![(1, (mixed % 9) as u8, (mixed % 5 > 1).then_some(i64::from(n % 50)))]
        };
        (0u32..).map(step)
    };
    let copies = std::thread::scope(|threads| {
        for seed in 1..3 {
            let is_over = &is_over;
            let site = site_of_client;
            threads.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for wanted in batches_of(seed) {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    let Some(batch) = house_of_writers.batch(&wanted) else { continue };
                    match runtime.block_on(site.commit(batch)) {
                        Ok(_) | Err(CommitError::Conflict { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut copies: Vec<(i64, BTreeMap<Arc<str>, Document>)> = vec![(0, BTreeMap::new())];
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let (start_s, mut copy) = copies.last().unwrap().clone();
            let end_s = site.log_now_s();
            runtime.block_on(site.close_epoch(end_s)).unwrap();
            let mut next = None;
            loop {
                let page = match site.net_change(TYPES[1], start_s, end_s, next, 2) {
                    Ok(page) => page,
                    // More was touched since the end than the index remembers in tests, and only that may be the reason.
                    Err(EpochError::Expired { asked, .. }) if asked == end_s => break,
                    Err(error) => panic!("{error}"),
                };
                copy.extend(page.created.into_iter().chain(page.updated));
                page.deleted.iter().for_each(|id| assert!(copy.remove(id).is_some()));
                next = page.next;
                if next.is_none() {
                    copies.push((end_s, copy));
                    break;
                }
            }
        }
        is_over.store(true, Ordering::Relaxed);
        copies
    });
    house.history.0 = Vec::new();
    loop {
        let after = house.history.0.last().map_or(Position::ZERO, |last| last.position);
        let commits = house.site.journal().read(after, 1 << 20).unwrap();
        if commits.is_empty() {
            break;
        }
        house.history.0.extend(commits);
    }
    assert!(copies.len() > 5, "{} copies of {} commits", copies.len(), house.history.0.len());
    // Replaying all for each takes its time.
    for (end_s, copy) in copies.iter().skip(1).step_by(1 + copies.len() / 40) {
        let expected = house.history.at(TYPES[1], *end_s);
        let is_right = copy.keys().eq(expected.keys())
            && copy.values().zip(expected.values()).all(|(found, (expected, _))| is_same(found, expected));
        assert!(is_right, "at {end_s}: {copy:?}, not {expected:?}");
    }
}
