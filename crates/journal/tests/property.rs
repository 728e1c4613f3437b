//! Random histories of an embedded journal against a model that is nothing but some maps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use lockstep_journal::{
    Batch, Change, Clock, Commit, CommitError, Complete, Config, Embedded, Engine, Expect, Operation, ReadError,
    Replayed, Retention, StateEntry, Tombstone, redo,
};
use lockstep_model::{Document, Position, ResourceId, Value};
use proptest::prelude::*;

/// What may be done to a journal.
#[derive(Debug, Clone)]
enum Deed {
    /// Batches that are submitted together.
    Submit(Vec<Wanted>),
    /// Opens the journal again.
    Reopen,
    /// Compacts up to this share of what there is, in 256ths.
    Compact(u8),
    /// Reads after this share of what there is, in 256ths, in pieces of so many bytes.
    Read(u8, usize),
    /// Sets the clock, in hundredths of seconds.
    Clock(u16),
    /// Closes the present second and so many more, or less.
    Close(i8),
}

/// A batch to be.
#[derive(Debug, Clone)]
struct Wanted {
    /// Resources by number, with the value each is to have; `None` for it to go.
    values: Vec<(u8, Option<i64>)>,
    /// The number of a resource that the batch expects to be what it is not.
    lie: Option<u8>,
}

fn deed() -> impl Strategy<Value = Deed> {
    let change = (0u8..12, prop::option::weighted(0.8, -100i64..100));
    let batch = (prop::collection::vec(change, 1..4), prop::option::weighted(0.2, any::<u8>()))
        .prop_map(|(values, lie)| Wanted { values, lie });
    prop_oneof![
        12 => prop::collection::vec(batch, 1..6).prop_map(Deed::Submit),
        1 => Just(Deed::Reopen),
        1 => any::<u8>().prop_map(Deed::Compact),
        2 => (0u16..2000).prop_map(Deed::Clock),
        3 => (-2i8..3).prop_map(Deed::Close),
        4 => (any::<u8>(), prop_oneof![Just(0), 1usize..2000]).prop_map(|(after, bytes)| Deed::Read(after, bytes)),
    ]
}

#[derive(Default)]
struct Model {
    resources: BTreeMap<ResourceId, StateEntry>,
    deletions: BTreeMap<(ResourceId, Position), Tombstone>,
    commits: BTreeMap<Position, (i64, Vec<Change>)>,
    head: Position,
    /// The log's time.
    time_ms: i64,
    /// Of what opening handed out.
    complete: Option<Complete>,
}

fn id(number: u8) -> ResourceId {
    ResourceId::new(if number.is_multiple_of(3) { "Odd" } else { "Even" }, format!("r{number}"))
}

fn document(value: i64) -> Document {
    let fields =
        [("value", Value::Long(value)), ("text", Value::String("x".repeat(value.unsigned_abs() as usize).into()))];
    Document::new(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
}

impl Model {
    /// A batch that fits the model, but for the lie; and what must come of it.
    fn plan(&mut self, wanted: &Wanted, clock_ms: i64) -> Option<(Batch, Result<Position, ()>)> {
        let mut changes = BTreeMap::new();
        for (number, value) in &wanted.values {
            let id = id(*number);
            let planned = match (self.resources.get(&id), value) {
                (None, Some(value)) => (Operation::Create(document(*value)), Expect::Absent),
                (None, None) => continue,
                (Some(before), None) => (Operation::Delete(before.document.clone()), Expect::At(before.modified)),
                (Some(before), Some(value)) => {
                    let leaves = before.document.diff(&document(*value));
                    if leaves.is_empty() {
                        continue;
                    }
                    (Operation::Update(leaves), Expect::At(before.modified))
                }
            };
            changes.insert(id, planned);
        }
        let mut relies_on = Vec::new();
        if let Some(lie) = wanted.lie {
            // A position that never was anybody's, of a resource that may exist or not.
            relies_on.push((id(lie % 12), Expect::At(Position(u64::from(lie) << 40))));
        }
        let parents: Arc<[ResourceId]> = [id(1), id(2)].into();
        let changes: Vec<_> = changes
            .into_iter()
            .map(|(id, (operation, expect))| (Change { id, operation, parents: parents.clone() }, expect))
            .collect();
        if changes.is_empty() {
            return None;
        }
        let batch = Batch { author: "property".into(), changes, relies_on };
        if wanted.lie.is_some() {
            return Some((batch, Err(())));
        }
        let position = Position(self.head.0 + 1);
        // Clocks here never tell a last millisecond, so one that the log has come to is that of a closed second.
        let is_closed = self.time_ms % 1000 == 999;
        let time_ms = clock_ms.max(self.time_ms + i64::from(is_closed));
        self.apply(position, time_ms, batch.changes.iter().map(|(change, _)| change.clone()).collect());
        Some((batch, Ok(position)))
    }

    fn apply(&mut self, position: Position, time_ms: i64, changes: Vec<Change>) {
        for change in &changes {
            match &change.operation {
                Operation::Create(document) => {
                    let (id, document) = (change.id.clone(), document.clone());
                    let (created, modified, created_ms, modified_ms) = (position, position, time_ms, time_ms);
                    let entry = StateEntry { id, document, created, modified, created_ms, modified_ms };
                    self.resources.insert(change.id.clone(), entry);
                }
                Operation::Update(leaves) => {
                    let known = self.resources.get_mut(&change.id).expect("an update of what exists");
                    redo(&mut known.document, leaves);
                    (known.modified, known.modified_ms) = (position, time_ms);
                }
                Operation::Delete(_) => {
                    let known = self.resources.remove(&change.id).expect("a delete of what exists");
                    let StateEntry { id, created, created_ms, .. } = known;
                    self.bury(Tombstone { id, created, deleted: position, created_ms, deleted_ms: time_ms });
                }
            }
        }
        self.commits.insert(position, (time_ms, changes));
        (self.head, self.time_ms) = (position, time_ms);
    }

    fn bury(&mut self, tombstone: Tombstone) {
        let before = self.deletions.insert((tombstone.id.clone(), tombstone.deleted), tombstone);
        assert_eq!(before, None, "a deletion twice");
    }

    /// Whether these are this model's deletions, but for some that may be forgotten.
    fn check_deletions(&self, found: &Self, deletions_max: u64) {
        assert!(found.deletions.iter().all(|(key, tombstone)| self.deletions.get(key) == Some(tombstone)));
        let complete = found.complete.expect("said at the end");
        let forgotten: Vec<_> = self.deletions.iter().filter(|(key, _)| !found.deletions.contains_key(*key)).collect();
        for (_, tombstone) in &forgotten {
            assert!(tombstone.deleted <= complete.since && tombstone.deleted_ms <= complete.since_ms, "{tombstone:?}");
        }
        assert!(forgotten.is_empty() || self.deletions.len() as u64 > deletions_max);
        assert!(complete.since_ms <= self.time_ms && complete.since <= self.head);
    }

    /// The position at a share of all, in 256ths.
    fn at(&self, share: u8) -> Position {
        Position(self.head.0 * u64::from(share) / 255)
    }
}

fn open(dir: &std::path::Path, config: &Config) -> (Embedded, Model) {
    let mut found = Model::default();
    let journal = Embedded::open(dir, config.clone(), &mut |replayed| match replayed {
        Replayed::Entry(entry) => {
            found.head = found.head.max(entry.modified);
            found.resources.insert(entry.id.clone(), entry);
        }
        Replayed::Tombstone(tombstone) => found.bury(tombstone),
        Replayed::Commit(commit) => found.apply(commit.position, commit.time_ms, commit.changes.clone()),
        Replayed::Complete(complete) => found.complete = Some(complete),
    });
    (journal.expect("opens"), found)
}

fn check_commits(model: &Model, commits: &[Arc<Commit>], mut after: Position) -> Position {
    for commit in commits {
        assert_eq!(commit.position.0, after.0 + 1);
        assert_eq!((commit.time_ms, &commit.changes), {
            let (time_ms, changes) = &model.commits[&commit.position];
            (*time_ms, changes)
        });
        after = commit.position;
    }
    after
}

fn run(config: Config, deeds: Vec<Deed>) {
    let clock_ms = Arc::new(AtomicI64::new(7_000));
    let clock = Clock::new({
        let clock_ms = clock_ms.clone();
        move || clock_ms.load(Ordering::Relaxed)
    });
    let config = &Config { clock, ..config };
    let dir = tempfile::tempdir().expect("a directory");
    let (mut journal, _) = open(dir.path(), config);
    let mut model = Model::default();
    let mut follower = journal.follow(Position::ZERO).expect("follows");
    let mut followed = Position::ZERO;
    let mut compacted = Position::ZERO;
    for deed in deeds {
        match deed {
            Deed::Submit(batches) => {
                // All at once, so that they form groups in which later batches see what earlier ones did.
                let (sender, outcomes) = channel();
                let mut expected = Vec::new();
                for wanted in &batches {
                    let Some((batch, outcome)) = model.plan(wanted, clock_ms.load(Ordering::Relaxed)) else { continue };
                    let (sender, nth) = (sender.clone(), expected.len());
                    expected.push(outcome);
                    journal.submit(batch, Box::new(move |result| drop(sender.send((nth, result)))));
                }
                drop(sender);
                let mut outcomes: Vec<_> = outcomes.iter().collect();
                outcomes.sort_by_key(|(nth, _)| *nth);
                let outcomes = outcomes.into_iter().map(|(_, outcome)| match outcome {
                    Err(CommitError::Conflict { .. }) => Err(()),
                    other => Ok(other.expect("committed or refused")),
                });
                assert_eq!(outcomes.collect::<Vec<_>>(), expected);
            }
            Deed::Reopen => {
                journal.close();
                let (opened, found) = open(dir.path(), config);
                assert_eq!(found.resources, model.resources);
                model.check_deletions(&found, config.retention.deletions_max);
                journal = opened;
                followed = followed.max(journal.oldest());
                follower = loop {
                    match journal.follow(followed) {
                        Ok(follower) => break follower,
                        // Housekeeping began at once.
                        Err(error) => followed = expired(error, followed),
                    }
                };
            }
            Deed::Clock(hundredths) => clock_ms.store(i64::from(hundredths) * 10, Ordering::Relaxed),
            Deed::Close(ahead) => {
                let epoch_s = journal.now_ms() / 1000 + i64::from(ahead);
                let (sender, outcome) = channel();
                journal.close_epoch(epoch_s, Box::new(move |result| drop(sender.send(result))));
                assert_eq!(outcome.recv(), Ok(Ok(model.head)));
                model.time_ms = model.time_ms.max(epoch_s * 1000 + 999);
            }
            Deed::Compact(share) => {
                compacted = model.at(share).max(compacted);
                journal.compact(compacted).expect("compacted");
                assert!(journal.oldest() >= compacted);
            }
            Deed::Read(share, bytes_max) => {
                let mut after = model.at(share);
                loop {
                    match journal.read(after, bytes_max) {
                        Ok(commits) if commits.is_empty() => break,
                        Ok(commits) => after = check_commits(&model, &commits, after),
                        Err(error) => after = expired(error, after),
                    }
                }
                assert_eq!(after, model.head);
                match follower.next(Duration::ZERO) {
                    Ok(commits) => followed = check_commits(&model, &commits, followed),
                    Err(error) => {
                        followed = expired(error, followed);
                        follower = journal.follow(journal.head()).expect("follows");
                        followed = followed.max(journal.head());
                    }
                }
            }
        }
        assert_eq!(journal.head(), model.head);
        assert_eq!(journal.now_ms(), model.time_ms.max(clock_ms.load(Ordering::Relaxed)));
        assert_eq!(journal.closed_s(), (model.time_ms + 1) / 1000 - 1);
        assert!(journal.oldest() <= model.head);
    }
}

/// The position to go on from.
fn expired(error: ReadError, after: Position) -> Position {
    match error {
        ReadError::Expired { asked, oldest } if asked == after && oldest > after => oldest,
        other => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_journal_is_its_model(
        deeds in prop::collection::vec(deed(), 1..60),
        segment_bytes_max in prop_oneof![Just(300u64), Just(3000), Just(1 << 20)],
        fold_bytes_min in prop_oneof![Just(1000u64), Just(1 << 20)],
        ring_bytes_max in prop_oneof![Just(0usize), Just(200), Just(1 << 20)],
        bytes_max in prop_oneof![Just(2000u64), Just(u64::MAX)],
        changes_max in prop_oneof![Just(30u64), Just(u64::MAX)],
        deletions_max in prop_oneof![Just(3u64), Just(20), Just(u64::MAX)],
    ) {
        let age = Duration::from_secs(1 << 30);
        let retention = Retention { age, bytes_max, changes_max, deletions_age: age, deletions_max };
        let config = Config { retention, segment_bytes_max, fold_bytes_min, ring_bytes_max, ..Config::default() };
        run(config, deeds);
    }
}
