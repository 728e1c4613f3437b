//! The engine on a disk that loses power, runs full, fails to flush or rots.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use lockstep_model::{Document, ResourceId, Value};

use super::*;
use crate::{Change, CommitError, Expect, Operation};
use lockstep_storage::faulty::{Disk, Random};

/// Submitters at once; each has a pair of resources of its own, which every batch of its changes together.
const SUBMITTERS: usize = 3;

/// Small enough that a few dozen batches make segments, folds and removals.
fn config(retention: u64) -> Config {
    Config {
        retention: Retention {
            age: Duration::MAX,
            bytes_max: retention,
            changes_max: u64::MAX,
            ..Retention::default()
        },
        segment_bytes_max: 900,
        fold_bytes_min: 2_000,
        ring_bytes_max: 300,
        ..Config::default()
    }
}

/// The state as opening hands it out, checked on the way.
#[derive(Default, Debug, PartialEq, Clone)]
struct State {
    resources: BTreeMap<ResourceId, (Document, Position, Position)>,
    /// Where what was deleted had been created.
    deletions: BTreeMap<(ResourceId, Position), Position>,
    complete: crate::Complete,
    last: Position,
}

impl State {
    fn take(&mut self, replayed: Replayed) {
        match replayed {
            Replayed::Entry(entry) => {
                self.last = self.last.max(entry.modified);
                let before = self.resources.insert(entry.id, (entry.document, entry.created, entry.modified));
                assert_eq!(before, None, "a resource came twice");
            }
            Replayed::Tombstone(tombstone) => {
                let before = self.deletions.insert((tombstone.id, tombstone.deleted), tombstone.created);
                assert_eq!(before, None, "a deletion came twice");
            }
            Replayed::Commit(commit) => self.apply(&commit),
            Replayed::Complete(complete) => self.complete = complete,
        }
    }

    fn apply(&mut self, commit: &Commit) {
        assert!(commit.position > self.last, "positions went back");
        self.last = commit.position;
        for change in &commit.changes {
            let id = change.id.clone();
            match &change.operation {
                Operation::Create(document) => {
                    let known = self.resources.insert(id, (document.clone(), commit.position, commit.position));
                    assert_eq!(known, None, "created twice");
                }
                Operation::Update(leaves) => {
                    let known = self.resources.get_mut(&id).expect("an update of something");
                    crate::redo(&mut known.0, leaves);
                    known.2 = commit.position;
                }
                Operation::Delete(document) => {
                    let known = self.resources.remove(&id).expect("a delete of something");
                    assert_eq!(known.0, *document);
                    self.deletions.insert((id, commit.position), known.1);
                }
            }
        }
    }
}

fn open(disk: &Disk, config: Config) -> Result<(Embedded, State), JournalError> {
    let mut state = State::default();
    let journal = Embedded::open_in(Arc::new(disk.clone()), None, config, &mut |replayed| state.take(replayed))?;
    Ok((journal, state))
}

fn commit(journal: &Embedded, batch: Batch) -> Result<Position, CommitError> {
    let (sender, outcome) = channel();
    journal.submit(batch, Box::new(move |result| drop(sender.send(result))));
    outcome.recv().unwrap_or(Err(CommitError::Closed))
}

/// What one submitter knows of its pair: the number in both, and where it was committed.
type Known = Option<(i64, Position)>;

fn pair(submitter: usize) -> [ResourceId; 2] {
    [ResourceId::new("A", format!("s{submitter}")), ResourceId::new("Zed", format!("s{submitter}"))]
}

fn document(number: i64) -> Document {
    // Long enough that a frame spans sectors, and not compressible to nothing.
    let filler: String = (0..40).map(|n| char::from(b'a' + ((number * 7 + n * n) % 26) as u8)).collect();
    Document::new(vec![("n".into(), Value::Long(number)), ("text".into(), Value::String(filler.into()))])
}

/// The next batch of a submitter and what is known when it is committed.
fn next_batch(submitter: usize, known: Known, number: i64, random: &mut Random) -> (Batch, Option<i64>) {
    let (operation, expect, after) = match known {
        None => (Operation::Create(document(number)), Expect::Absent, Some(number)),
        Some((before, at)) if random.below(4) == 0 => (Operation::Delete(document(before)), Expect::At(at), None),
        Some((before, at)) => {
            (Operation::Update(document(before).diff(&document(number))), Expect::At(at), Some(number))
        }
    };
    let change = |id| (Change { id, operation: operation.clone(), parents: [].into() }, expect);
    let changes = pair(submitter).into_iter().map(change).collect();
    (Batch { author: format!("s{submitter}").into(), changes, relies_on: Vec::new() }, after)
}

/// One submitter's history: what was acknowledged, and what may have happened or not.
#[derive(Default, Clone)]
struct History {
    known: Known,
    /// Where the last acknowledged batch stands.
    last: Position,
    /// A batch without an answer that tells: what is known if it was committed.
    open: Option<Option<i64>>,
    number: i64,
    /// Where acknowledged batches deleted the pair.
    deleted: Vec<Position>,
}

impl History {
    fn work(&mut self, submitter: usize, journal: &Embedded, random: &mut Random, batches: u64) {
        for _ in 0..batches {
            self.number += 1;
            let (batch, after) = next_batch(submitter, self.known, self.number, random);
            match commit(journal, batch) {
                Ok(position) => {
                    assert!(position > self.last, "positions went back");
                    self.last = position;
                    if after.is_none() {
                        self.deleted.push(position);
                    }
                    self.known = after.map(|number| (number, position));
                }
                Err(CommitError::Poisoned(_)) => {
                    self.open = Some(after);
                    return;
                }
                Err(CommitError::Closed) => return,
                Err(error) => panic!("refused: {error}"),
            }
        }
    }

    /// Compares with what was recovered, and goes on from it.
    fn check(&mut self, submitter: usize, state: &State) {
        for deleted in &self.deleted {
            let is_known = |id| state.deletions.get(&(id, *deleted)).is_some_and(|created| created < deleted);
            assert!(pair(submitter).into_iter().all(is_known), "the deletion at {deleted} was forgotten");
        }
        let [one, other] = pair(submitter).map(|id| state.resources.get(&id));
        let found: Known = match (one, other) {
            (None, None) => None,
            (Some(one), Some(other)) => {
                assert_eq!((&one.0, one.2), (&other.0, other.2), "half a batch");
                let Some(Value::Long(number)) = one.0.get("n") else { panic!("no number") };
                assert_eq!(one.0, document(*number));
                Some((*number, one.2))
            }
            halves => panic!("half a batch: {halves:?}"),
        };
        if found != self.known {
            let Some(after) = self.open else { panic!("acknowledged {:?}, found {found:?}", self.known) };
            assert_eq!(found.map(|(number, _)| number), after, "neither the last batch nor the one before");
            assert!(found.is_none_or(|(_, position)| position > self.last));
        }
        self.known = found;
        self.open = None;
    }
}

/// Epochs that were closed, each with the position that the answer gave.
#[derive(Default, Clone)]
struct Closings(Vec<(i64, Position)>);

impl Closings {
    fn work(&mut self, journal: &Embedded, random: &mut Random, closings: u64) {
        for _ in 0..closings {
            let epoch_s = journal.now_ms().div_euclid(1000) + random.below(3) as i64 - 1;
            let (sender, outcome) = channel();
            journal.close_epoch(epoch_s, Box::new(move |result| drop(sender.send(result))));
            match outcome.recv().unwrap_or(Err(CommitError::Closed)) {
                Ok(position) => {
                    assert!(position <= journal.head() && journal.closed_s() >= epoch_s);
                    self.0.push((epoch_s, position));
                }
                Err(CommitError::Poisoned(_) | CommitError::Closed) => return,
                Err(error) => panic!("refused: {error}"),
            }
        }
    }

    /// What was answered holds, whatever was closed since.
    fn check(&self, journal: &Embedded) -> Result<(), ReadError> {
        let Some(last_s) = self.0.iter().map(|(epoch_s, _)| *epoch_s).max() else { return Ok(()) };
        assert!(journal.closed_s() >= last_s, "closed {last_s}, found {}", journal.closed_s());
        let mut after = journal.oldest();
        loop {
            let commits = match journal.read(after, 5_000) {
                Ok(commits) if commits.is_empty() => return Ok(()),
                Err(ReadError::Expired { oldest, .. }) => {
                    after = oldest;
                    continue;
                }
                read => read?,
            };
            for commit in commits {
                after = commit.position;
                let is_in = |(epoch_s, head): &&(i64, Position)| {
                    commit.time_ms.div_euclid(1000) <= *epoch_s && commit.position > *head
                };
                assert_eq!(self.0.iter().find(is_in), None, "{} came at {}", commit.position, commit.time_ms);
            }
        }
    }
}

/// A clock that stands still for one life, wherever it likes.
fn some_clock(random: &mut Random) -> Clock {
    let now_ms = 1_000_000 + random.below(200_000) as i64;
    Clock::new(move || now_ms)
}

/// Reads the whole log from its oldest position and checks that it leads to the state.
fn check_log(journal: &Embedded, state: &State) -> Result<(), ReadError> {
    let mut after = journal.oldest();
    let mut last = BTreeMap::new();
    loop {
        let commits = match journal.read(after, 500) {
            Ok(commits) if commits.is_empty() => break,
            Ok(commits) => commits,
            // Retention works meanwhile.
            Err(ReadError::Expired { asked, oldest }) => {
                assert_eq!(asked, after);
                after = oldest;
                last.clear();
                continue;
            }
            Err(error) => return Err(error),
        };
        for commit in &commits {
            assert_eq!(commit.position.0, after.0 + 1, "a hole in the log");
            after = commit.position;
            assert_eq!(commit.changes.len(), 2, "half a batch");
            last.extend(commit.changes.iter().map(|change| (change.id.clone(), (change.operation.clone(), after))));
        }
    }
    assert_eq!(after, journal.head());
    for (id, (operation, position)) in last {
        let found = state.resources.get(&id);
        match operation {
            Operation::Delete(_) => assert_eq!(found, None),
            Operation::Create(_) | Operation::Update(_) => assert_eq!(found.map(|known| known.2), Some(position)),
        }
    }
    Ok(())
}

/// One life of a disk: again and again the journal is opened, works, and loses power.
fn power_losses(seed: u64, losses: u64) {
    let mut random = Random::new(seed);
    let mut disk = Disk::default();
    let mut histories = vec![History::default(); SUBMITTERS];
    let mut acknowledged = Position::ZERO;
    let mut epoch = None;
    let mut closings = Closings::default();
    for _ in 0..losses {
        let retention = [3_000, 20_000][random.below(2) as usize];
        let calls_max = [20, 200, 200][random.below(3) as usize];
        disk.power_off_after(random.below(calls_max));
        let config = Config { clock: some_clock(&mut random), ..config(retention) };
        if let Ok((journal, state)) = open(&disk, config) {
            assert!(
                journal.head() >= acknowledged,
                "seed {seed}: acknowledged {acknowledged}, head {}",
                journal.head()
            );
            let origin = journal.origin().epoch;
            assert_eq!(
                *epoch.get_or_insert(origin),
                origin,
                "no acknowledged position was lost, yet the epoch changed"
            );
            for (submitter, history) in histories.iter_mut().enumerate() {
                history.check(submitter, &state);
            }
            // The power may go while it is read.
            let checked = check_log(&journal, &state).and_then(|()| closings.check(&journal));
            assert!(checked.is_ok() || disk.is_off(), "seed {seed}: {checked:?}");
            std::thread::scope(|threads| {
                for (submitter, history) in histories.iter_mut().enumerate() {
                    let (journal, mut random) = (&journal, Random::new(random.number()));
                    threads.spawn(move || {
                        let batches = random.below(60);
                        history.work(submitter, journal, &mut random, batches);
                    });
                }
                let (journal, mut closing) = (&journal, Random::new(random.number()));
                let closings = &mut closings;
                threads.spawn(move || {
                    let count = closing.below(10);
                    closings.work(journal, &mut closing, count);
                });
                if random.below(3) == 0 {
                    // Fails when the power goes.
                    let _ = journal.compact(journal.head());
                }
            });
            acknowledged = histories.iter().map(|history| history.last).max().unwrap_or_default().max(acknowledged);
            if random.below(2) == 0 {
                journal.close();
            }
            drop(journal);
        } else {
            assert!(disk.is_off(), "seed {seed}: refused to open though the power is on");
        }
        // Or the process was killed, and the power goes some other time.
        disk = if random.below(4) > 0 { disk.after_power_loss(&mut random) } else { disk.after_kill() };
    }
    match open(&disk, config(1 << 30)) {
        Ok((journal, state)) => {
            assert!(journal.head() >= acknowledged);
            histories.iter_mut().enumerate().for_each(|(submitter, history)| history.check(submitter, &state));
            assert_eq!(check_log(&journal, &state), Ok(()), "seed {seed}");
            assert_eq!(closings.check(&journal), Ok(()), "seed {seed}");
        }
        Err(error) => panic!("seed {seed}: {error}"),
    }
}

#[test]
fn power_loss_at_any_moment_loses_nothing_acknowledged_and_keeps_nothing_half() {
    for seed in 0..300 {
        power_losses(seed, 10);
    }
}

/// A closed journal of some segments with a state below them, and the state at its end.
fn filled(seed: u64) -> (Disk, State) {
    let disk = Disk::default();
    let mut random = Random::new(seed);
    let mut histories = vec![History::default(); SUBMITTERS];
    let (journal, _) = open(&disk, config(8_000)).expect("opens");
    for _ in 0..20 {
        for (submitter, history) in histories.iter_mut().enumerate() {
            history.work(submitter, &journal, &mut random, 2);
        }
    }
    // So that there is a state, some segments that it covers and some that it does not.
    let middle = Position(journal.head().0 / 2);
    journal.compact(Position(middle.0 / 2)).expect("compacts");
    journal.compact(middle).expect("compacts");
    for (submitter, history) in histories.iter_mut().enumerate() {
        history.work(submitter, &journal, &mut random, 1);
    }
    Closings::default().work(&journal, &mut random, 2);
    drop(journal);
    let (journal, state) = open(&disk, config(1 << 30)).expect("opens");
    drop(journal);
    (disk, state)
}

#[test]
fn a_flipped_bit_is_reported_and_never_served() {
    let (mut reported, mut unread) = (0, 0);
    for seed in 0..40 {
        let (disk, state) = filled(seed);
        let mut random = Random::new(seed);
        for _ in 0..25 {
            let disk = disk.copy();
            let names = disk.list().expect("listed");
            let name = &names[random.below(names.len() as u64) as usize];
            disk.tamper(name, |bytes| {
                let bit = random.below(bytes.len() as u64 * 8);
                bytes[bit as usize / 8] ^= 1 << (bit % 8);
            });
            match open(&disk, config(1 << 30)) {
                Err(JournalError::Damaged { path, .. }) => {
                    assert_eq!(path, *name, "seed {seed}");
                    reported += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
                Ok((journal, found)) => {
                    // A segment that the state covers is looked at when it is read.
                    assert_eq!(found, state, "seed {seed}: {name}");
                    match check_log(&journal, &state) {
                        Err(ReadError::Broken(reason)) => {
                            assert!(reason.contains(name.as_str()), "seed {seed}: {reason}")
                        }
                        other => panic!("seed {seed}: a flipped bit in {name} was not noticed: {other:?}"),
                    }
                    unread += 1;
                }
            }
        }
    }
    assert!(reported > 100 && unread > 10, "{reported} reported, {unread} in segments that nobody reads at first");
}

#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    for seed in 0..60 {
        let disk = Disk::default();
        let mut random = Random::new(seed);
        let (journal, _) = open(&disk, config(1 << 30)).expect("opens");
        let mut known = None;
        let mut full = 0;
        let mut not_closed = 0;
        for number in 0..80 {
            // Sometimes not even a frame's header fits, sometimes all but its last byte.
            let space = (number % 3 == 0).then(|| random.below(250));
            disk.set_space(space);
            let (batch, after) = next_batch(0, known, number, &mut random);
            match commit(&journal, batch) {
                Ok(position) => known = after.map(|number| (number, position)),
                Err(CommitError::Full) => {
                    assert!(space.is_some());
                    full += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
            disk.set_space((number % 4 == 0).then(|| random.below(100)));
            let (epoch_s, time_ms) = (journal.now_ms().div_euclid(1000), journal.now_ms());
            let (sender, outcome) = channel();
            journal.close_epoch(epoch_s, Box::new(move |result| drop(sender.send(result))));
            match outcome.recv().expect("an answer") {
                Ok(_) => assert!(journal.closed_s() >= epoch_s),
                Err(CommitError::Full) => {
                    assert!(number % 4 == 0 && journal.now_ms() - time_ms < 10_000);
                    not_closed += 1;
                }
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert!(not_closed > 1, "{not_closed}");
        assert!(full > 5, "{full}");
        // Power loss or not: what was cut back does not come again.
        let found = disk.after_power_loss(&mut random);
        drop(journal);
        let (journal, state) = open(&found, config(1 << 30)).expect("opens");
        let mut history = History { known, ..History::default() };
        history.check(0, &state);
        assert_eq!(check_log(&journal, &state), Ok(()));
    }
}

#[test]
fn a_failed_flush_poisons_for_good() {
    for (breaks, seed) in [(false, 1), (true, 2)] {
        let disk = Disk::default();
        let mut random = Random::new(seed);
        let (journal, _) = open(&disk, config(1 << 30)).expect("opens");
        let (batch, _) = next_batch(0, None, 1, &mut random);
        assert_eq!(commit(&journal, batch), Ok(Position(1)));
        if breaks {
            // A write that does not fit and a cut that fails.
            disk.set_space(Some(30));
            disk.fail_truncates();
        } else {
            disk.fail_flushes_after(0);
        }
        let (batch, _) = next_batch(1, None, 2, &mut random);
        let refused = commit(&journal, batch.clone());
        assert!(matches!(refused, Err(CommitError::Poisoned(_))), "{refused:?}");
        disk.set_space(None);
        disk.fail_flushes_after(1000);
        // Also refused, though the disk would do it: the flush that failed may have lost what was before.
        assert_eq!(commit(&journal, batch), refused);
        assert_eq!(journal.head(), Position(1));
        assert_eq!(journal.read(Position::ZERO, 1).map(|commits| commits.len()), Ok(1));
        assert!(matches!(journal.compact(Position(1)), Err(ReadError::Broken(_))));
    }
}

#[test]
fn a_log_that_lost_its_end_goes_on_above_it_under_a_new_epoch() {
    let disk = Disk::default();
    let mut random = Random::new(7);
    let mut history = History::default();
    let big = Config { segment_bytes_max: 1 << 20, ..config(1 << 30) };
    let (journal, _) = open(&disk, big.clone()).expect("opens");
    history.work(0, &journal, &mut random, 10);
    let (epoch, kept) = (journal.origin().epoch, journal.disk_bytes().0);
    history.work(0, &journal, &mut random, 10);
    assert_eq!(journal.head(), Position(20));
    let last_s = journal.read(Position(9), 1).expect("readable")[0].time_ms.div_euclid(1000);
    drop(journal);

    // As if the disk had forgotten ten acknowledged commits.
    disk.tamper(&segment::name(1), |bytes| bytes.truncate(kept as usize));
    for _ in 0..2 {
        let (journal, state) = open(&disk, big.clone()).expect("opens");
        assert_eq!((journal.head(), state.last), (Position(20), Position(10)));
        assert_ne!(journal.origin().epoch, epoch);
        // Whoever knows what was lost is not told that nothing was deleted.
        assert_eq!((state.complete.since, state.complete.since_ms), (Position(20), journal.now_ms()));
        assert!(journal.closed_s() >= last_s);
        let mut follower = journal.follow(Position(10)).expect("follows");
        assert_eq!(follower.next(Duration::ZERO), Ok(Vec::new()));
        assert_eq!(journal.read(Position(3), 1).map(|commits| commits[0].position), Ok(Position(4)));
    }
    let (journal, state) = open(&disk, big.clone()).expect("opens");
    let mut follower = journal.follow(Position(12)).expect("follows");
    let known = state.resources.get(&pair(0)[0]).map(|(_, _, modified)| (10, *modified));
    let mut history = History { known, number: 30, ..History::default() };
    history.work(0, &journal, &mut random, 1);
    assert_eq!(history.last, Position(21));
    assert_eq!(follower.next(Duration::from_secs(9)).map(|commits| commits[0].position), Ok(Position(21)));
    let epoch = journal.origin().epoch;
    drop(journal);
    let (journal, state) = open(&disk, big).expect("opens");
    assert_eq!((journal.origin().epoch, state.last, journal.head()), (epoch, Position(21), Position(21)));

    // A bad end, where the end is known to have been good, is not cut.
    drop(journal);
    disk.tamper(&segment::name(21), |bytes| bytes.pop());
    assert!(matches!(open(&disk, config(1 << 30)), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_missing_file_is_reported() {
    for seed in 0..4 {
        let (disk, state) = filled(seed);
        let names = disk.list().expect("listed");
        let segments = names.iter().filter(|name| segment::parse_name(name).is_some()).count();
        assert!(segments > 4 && names.len() == segments + 2, "{names:?}");
        for name in &names {
            let disk = disk.copy();
            disk.remove(name).expect("removed");
            match open(&disk, config(1 << 30)) {
                Err(JournalError::Damaged { .. }) => {}
                // The oldest may go: that is what retention does.
                Ok((_, found)) => assert!(Some(name) == names.first() && found == state, "{name}"),
                Err(error) => panic!("{name}: {error}"),
            }
        }
    }
}
