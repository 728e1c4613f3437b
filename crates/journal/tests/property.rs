//! Random histories of an embedded journal against a model that is nothing but two maps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use lockstep_journal::{
    Batch, Change, Commit, CommitError, Config, Embedded, Engine, Expect, Operation, ReadError, Replayed, Retention,
    redo,
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
        4 => (any::<u8>(), prop_oneof![Just(0), 1usize..2000]).prop_map(|(after, bytes)| Deed::Read(after, bytes)),
    ]
}

#[derive(Default)]
struct Model {
    resources: BTreeMap<ResourceId, (Document, Position, Position)>,
    commits: BTreeMap<Position, Vec<Change>>,
    head: Position,
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
    fn plan(&mut self, wanted: &Wanted) -> Option<(Batch, Result<Position, ()>)> {
        let mut changes = BTreeMap::new();
        for (number, value) in &wanted.values {
            let id = id(*number);
            let planned = match (self.resources.get(&id), value) {
                (None, Some(value)) => (Operation::Create(document(*value)), Expect::Absent),
                (None, None) => continue,
                (Some((before, _, at)), None) => (Operation::Delete(before.clone()), Expect::At(*at)),
                (Some((before, _, at)), Some(value)) => {
                    let leaves = before.diff(&document(*value));
                    if leaves.is_empty() {
                        continue;
                    }
                    (Operation::Update(leaves), Expect::At(*at))
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
        self.apply(position, batch.changes.iter().map(|(change, _)| change.clone()).collect());
        Some((batch, Ok(position)))
    }

    fn apply(&mut self, position: Position, changes: Vec<Change>) {
        for change in &changes {
            match &change.operation {
                Operation::Create(document) => {
                    self.resources.insert(change.id.clone(), (document.clone(), position, position));
                }
                Operation::Update(leaves) => {
                    let known = self.resources.get_mut(&change.id).expect("an update of what exists");
                    redo(&mut known.0, leaves);
                    known.2 = position;
                }
                Operation::Delete(_) => drop(self.resources.remove(&change.id)),
            }
        }
        self.commits.insert(position, changes);
        self.head = position;
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
            found.resources.insert(entry.id, (entry.document, entry.created, entry.modified));
        }
        Replayed::Commit(commit) => found.apply(commit.position, commit.changes.clone()),
    });
    (journal.expect("opens"), found)
}

fn check_commits(model: &Model, commits: &[Arc<Commit>], mut after: Position) -> Position {
    for commit in commits {
        assert_eq!(commit.position.0, after.0 + 1);
        assert_eq!(&commit.changes, &model.commits[&commit.position]);
        after = commit.position;
    }
    after
}

fn run(config: &Config, deeds: Vec<Deed>) {
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
                    let Some((batch, outcome)) = model.plan(wanted) else { continue };
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
    ) {
        let retention = Retention { age: Duration::from_secs(1 << 30), bytes_max, changes_max };
        let config = Config { retention, segment_bytes_max, fold_bytes_min, ring_bytes_max, ..Config::default() };
        run(&config, deeds);
    }
}
