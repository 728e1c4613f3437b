//! What only the embedded engine does.

use std::sync::mpsc::channel;

use lockstep_model::{Document, ResourceId, Value};

use super::*;
use crate::suite::{Opened, Site};
use crate::{Change, CommitError, Expect, Operation};

fn create(id: &str, value: i64) -> Batch {
    let operation = Operation::Create(Document::new(vec![("n".into(), Value::Long(value))]));
    let change = Change { id: ResourceId::new("T", id), operation, parents: [].into() };
    Batch { author: "test".into(), changes: vec![(change, Expect::Absent)], relies_on: Vec::new() }
}

fn commit(engine: &dyn Engine, batch: Batch) -> Result<Position, CommitError> {
    let (sender, outcome) = channel();
    engine.submit(batch, Box::new(move |result| drop(sender.send(result))));
    outcome.recv().unwrap_or(Err(CommitError::Closed))
}

/// A directory, kept in small pieces so that the suite reaches segments, states and files.
struct Scratch(tempfile::TempDir);

impl Site for Scratch {
    fn open(&self) -> Opened {
        let config = Config { segment_bytes_max: 1000, fold_bytes_min: 5000, ring_bytes_max: 500, ..Config::default() };
        let mut replayed = Vec::new();
        let journal = Embedded::open(self.0.path(), config, &mut |piece| replayed.push(piece)).unwrap();
        Opened { engine: Arc::new(journal), replayed }
    }

    fn is_shared(&self) -> bool {
        false
    }
}

mod suite {
    crate::engine_suite!(super::Scratch(tempfile::tempdir().unwrap()));
}

#[test]
fn the_state_outlives_the_log_that_made_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config { segment_bytes_max: 4096, ..Config::default() };
    let journal = Embedded::open(dir.path(), config.clone(), &mut |_| {}).unwrap();
    for n in 0..100 {
        assert_eq!(commit(&journal, create(&format!("r{n}"), n)), Ok(Position(n as u64 + 1)));
    }
    assert!(matches!(commit(&journal, create("r5", 1)), Err(CommitError::Conflict { found: Some(Position(6)), .. })));
    assert!(matches!(Embedded::open(dir.path(), config.clone(), &mut |_| {}), Err(JournalError::InUse(_))));
    journal.compact(Position(50)).unwrap();
    assert_eq!(journal.oldest(), Position(50));
    assert_eq!(journal.read(Position(60), 1 << 20).unwrap().len(), 40);
    drop(journal);
    let mut replayed = Vec::new();
    let journal = Embedded::open(dir.path(), config, &mut |r| replayed.push(r)).unwrap();
    assert_eq!(replayed.len(), 101);
    assert_eq!(journal.oldest(), Position(50));
    assert!(journal.read(Position(50), 1 << 20).unwrap()[0].position == Position(51));
    assert_eq!(journal.follow(Position(60)).unwrap().next(Duration::ZERO).unwrap()[0].position, Position(61));
}

fn open(dir: &Path, config: &Config) -> Embedded {
    Embedded::open(dir, config.clone(), &mut |_| {}).unwrap()
}

/// Waits until housekeeping has done what is expected of it.
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_directory_is_opened_by_one_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Config::default());
    let again = Embedded::open(dir.path(), Config::default(), &mut |_| {});
    assert!(matches!(again, Err(JournalError::InUse(_))));
    let _follower = journal.follow(Position::ZERO).unwrap();
    journal.close();
    open(dir.path(), &Config::default());
}

#[test]
fn time_stands_still_when_the_clock_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |now_ms| Config { clock: Clock::new(move || now_ms), ..Config::default() };
    for (n, now_ms) in [5_000, 9_000, 7_000, -3, 10_000].into_iter().enumerate() {
        let journal = open(dir.path(), &at(now_ms));
        commit(&journal, create(&format!("r{n}"), 0)).unwrap();
        if n == 1 {
            // Then nothing but the state and the origin know the time.
            journal.compact(journal.head()).unwrap();
        }
    }
    let journal = open(dir.path(), &at(0));
    let times: Vec<i64> = journal.read(Position(2), 1 << 20).unwrap().iter().map(|commit| commit.time_ms).collect();
    assert_eq!(times, [9_000, 9_000, 10_000]);
}

#[test]
fn retention_drops_what_is_too_old_too_large_or_too_many() {
    let keep = Retention { age: Duration::MAX, bytes_max: u64::MAX, changes_max: u64::MAX, ..Retention::default() };
    let check = |what: &str, retention: Retention, is_kept: &dyn Fn(&Embedded) -> bool| {
        let dir = tempfile::tempdir().unwrap();
        let now_ms = Arc::new(std::sync::atomic::AtomicI64::new(1_000_000));
        let clock = Clock::new({
            let now_ms = now_ms.clone();
            move || now_ms.load(std::sync::atomic::Ordering::Relaxed)
        });
        // No fold is due for its own sake: retention must ask for it.
        let config = Config { retention, segment_bytes_max: 500, fold_bytes_min: u64::MAX, clock, ..Config::default() };
        let journal = open(dir.path(), &config);
        for n in 0..200 {
            now_ms.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
            commit(&journal, create(&format!("r{n}"), n)).unwrap();
        }
        eventually(what, || is_kept(&journal));
        drop(journal);
        let mut resources = 0;
        let journal = Embedded::open(dir.path(), config, &mut |replayed| {
            resources += match replayed {
                Replayed::Entry(_) => 1,
                Replayed::Commit(commit) => commit.changes.len(),
                Replayed::Tombstone(_) | Replayed::Complete(_) => 0,
            }
        });
        assert_eq!((resources, journal.unwrap().head()), (200, Position(200)), "{what}");
    };
    check("kept", keep, &|journal| journal.oldest() == Position::ZERO);
    let age = Retention { age: Duration::from_secs(50), ..keep };
    check("age", age, &|journal| (135..150).contains(&journal.oldest().0));
    let bytes = Retention { bytes_max: 3_000, ..keep };
    check("bytes", bytes, &|journal| journal.disk_bytes().0 <= 3_500 && journal.oldest() < Position(190));
    let changes = Retention { changes_max: 100, ..keep };
    check("changes", changes, &|journal| (90..110).contains(&journal.oldest().0));
}

#[test]
fn a_batch_that_is_too_large_is_refused_and_its_neighbours_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let journal = open(dir.path(), &Config::default());
    let mut large = create("large", 0);
    let text = Value::String("x".repeat(1 << 20).into());
    let items = Value::List(vec![text; 65].into());
    large.changes[0].0.operation = Operation::Create(Document::new(vec![("only here".into(), items)]));
    let (sender, outcomes) = channel();
    for batch in [create("a", 1), large, create("b", 2)] {
        let sender = sender.clone();
        journal.submit(batch, Box::new(move |result| drop(sender.send(result))));
    }
    drop(sender);
    let (committed, refused): (Vec<_>, Vec<_>) = outcomes.iter().partition(Result::is_ok);
    assert_eq!(committed, [Ok(Position(1)), Ok(Position(2))]);
    assert!(matches!(refused[..], [Err(CommitError::TooLarge { bytes, limit })] if bytes > limit), "{refused:?}");
    drop(journal);
    let journal = open(dir.path(), &Config::default());
    let names: Vec<_> =
        journal.read(Position::ZERO, 1000).unwrap().iter().map(|commit| commit.changes[0].id.id.clone()).collect();
    assert_eq!(names, ["a".into(), "b".into()]);
}

#[test]
fn files_of_another_format_are_named() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), &Config::default()));
    // A head as another version would write it: whole, but with another number.
    let path = dir.path().join("origin");
    let mut raw = 7u32.to_le_bytes().to_vec();
    raw.extend([0; 40]);
    let mut bytes = Vec::new();
    let label = crate::frame::Label { kind: crate::frame::Kind::Head, first: 0, count: 1, changes: 0 };
    crate::frame::seal(&mut bytes, 0, label, &raw);
    std::fs::write(&path, bytes).unwrap();
    let opened = Embedded::open(dir.path(), Config::default(), &mut |_| {}).map(drop);
    assert!(matches!(opened, Err(JournalError::Format { found: 7, known: 2, .. })), "{opened:?}");
}

fn delete(id: &str, value: i64, at: Position) -> Batch {
    let mut batch = create(id, value);
    batch.changes[0].0.operation = Operation::Delete(Document::new(vec![("n".into(), Value::Long(value))]));
    batch.changes[0].1 = Expect::At(at);
    batch
}

/// A journal whose clock is set by hand, in seconds.
fn with_clock(config: Config) -> (Config, Arc<std::sync::atomic::AtomicI64>) {
    let now_s = Arc::new(std::sync::atomic::AtomicI64::new(1_000));
    let clock = Clock::new({
        let now_s = now_s.clone();
        move || now_s.load(std::sync::atomic::Ordering::Relaxed) * 1000
    });
    (Config { clock, ..config }, now_s)
}

#[test]
fn a_state_forgets_the_oldest_deletions_and_says_since_when_it_knows_all() {
    let check = |retention: Retention, expected: std::ops::RangeInclusive<u64>, since: u64, since_ms: i64| {
        let dir = tempfile::tempdir().unwrap();
        let (config, now_s) = with_clock(Config { retention, segment_bytes_max: 500, ..Config::default() });
        let journal = open(dir.path(), &config);
        for n in 1..=40u64 {
            now_s.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let at = commit(&journal, create("r", n as i64)).unwrap();
            assert_eq!(commit(&journal, delete("r", n as i64, at)), Ok(Position(2 * n)));
            // Some folds, each of which takes up what the one before remembered.
            if n % 10 == 0 {
                journal.compact(journal.head()).unwrap();
            }
        }
        drop(journal);
        let mut found = Vec::new();
        let mut complete = None;
        let each = &mut |replayed| match replayed {
            Replayed::Tombstone(tombstone) => found.push(tombstone.deleted.0 / 2),
            Replayed::Complete(known) => complete = Some(known),
            other => panic!("{other:?}"),
        };
        drop(Embedded::open(dir.path(), config, each).unwrap());
        found.sort_unstable();
        assert_eq!(found, expected.collect::<Vec<_>>());
        assert_eq!(complete, Some(crate::Complete { since: Position(since), since_ms }));
    };
    let keep = Retention { deletions_age: Duration::MAX, deletions_max: u64::MAX, ..Retention::default() };
    check(keep, 1..=40, 0, 0);
    check(Retention { deletions_max: 40, ..keep }, 1..=40, 0, 0);
    check(Retention { deletions_max: 15, ..keep }, 26..=40, 50, 1_025_000);
    check(Retention { deletions_max: 5, ..keep }, 36..=40, 70, 1_035_000);
    #[allow(clippy::reversed_empty_ranges, reason = "none are kept")]
    check(Retention { deletions_max: 0, ..keep }, 41..=40, 80, 1_040_000);
    check(Retention { deletions_age: Duration::from_secs(12), ..keep }, 29..=40, 56, 1_028_000);
    check(Retention { deletions_age: Duration::from_secs(12), deletions_max: 3, ..keep }, 38..=40, 74, 1_037_000);
}

#[test]
fn a_closed_epoch_stays_closed_when_the_clock_goes_back_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (config, now_s) = with_clock(Config::default());
    let mut closed_s = 0;
    for (n, clock_s) in [1_000, 1_000, 400, 1_001, 5_000, 0].into_iter().enumerate() {
        now_s.store(clock_s, std::sync::atomic::Ordering::Relaxed);
        let journal = open(dir.path(), &config);
        assert_eq!(journal.closed_s().max(0), closed_s);
        assert_eq!(journal.now_ms() / 1000, clock_s.max(closed_s));
        let head = journal.head();
        commit(&journal, create(&format!("r{n}"), 0)).unwrap();
        let time_ms = journal.read(head, 1).unwrap()[0].time_ms;
        assert_eq!(time_ms, (clock_s * 1000).max((closed_s + 1) * 1000));
        closed_s = journal.now_ms() / 1000 + n as i64 % 2 * 30;
        let (sender, outcome) = channel();
        journal.close_epoch(closed_s, Box::new(move |result| drop(sender.send(result))));
        assert_eq!(outcome.recv().unwrap(), Ok(Position(n as u64 + 1)));
        if n == 2 {
            journal.compact(journal.head()).unwrap();
        }
    }
}

#[test]
fn closing_epochs_for_long_does_not_fill_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (config, now_s) = with_clock(Config { segment_bytes_max: 4_000, ..Config::default() });
    let mut journal = open(dir.path(), &config);
    for round in 0..3 {
        for _ in 0..500 {
            let epoch_s = now_s.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (sender, outcome) = channel();
            journal.close_epoch(epoch_s, Box::new(move |result| drop(sender.send(result))));
            assert_eq!(outcome.recv().unwrap(), Ok(journal.head()));
        }
        assert!(journal.disk_bytes().0 < 2 * 4_200, "{:?}", journal.disk_bytes());
        let closed_s = journal.closed_s();
        drop(journal);
        journal = open(dir.path(), &config);
        assert_eq!(journal.closed_s(), closed_s);
        if round == 1 {
            commit(&journal, create("a", 1)).unwrap();
        }
        assert_eq!(journal.read(Position::ZERO, 1 << 20).unwrap().len() as u64, journal.head().0);
    }
}
