//! What every engine must do, as tests.
//!
//! An engine's crate calls [`engine_suite!`](crate::engine_suite) with an expression that makes a new, empty [`Site`]; each test of
//! the suite becomes a test of that crate. Nothing here assumes that positions are dense, nor that one process writes: a test
//! that needs the log for itself says so by what it asks of its own resources only.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use lockstep_model::{Document, Position, ResourceId, Value};

use crate::{
    Batch, Change, Commit, CommitError, Complete, Engine, Expect, Follower, Operation, ReadError, Replayed, StateEntry,
    Tombstone, redo,
};

/// A log that tests open, close and open again.
pub trait Site {
    /// Opens an engine on the log, with all that opening hands out.
    fn open(&self) -> Opened;

    /// Whether several engines may have the log open at once, as the nodes of a cluster do.
    fn is_shared(&self) -> bool;
}

/// An engine and what its opening handed out.
pub struct Opened {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// In order.
    pub replayed: Vec<Replayed>,
}

/// Makes a test of each part of the suite. The argument is evaluated in each test and gives a new, empty [`Site`].
#[macro_export]
macro_rules! engine_suite {
    ($site:expr) => {
        $crate::engine_suite!(@tests $site;
            commits_are_ordered_and_read_back,
            a_batch_is_atomic,
            malformed_batches_change_nothing,
            preconditions_hold,
            preconditions_hold_among_concurrent_writers,
            relied_on_resources_are_checked,
            followers_see_every_commit_once_and_in_order,
            followers_see_commits_of_before_and_after,
            a_follower_waits_no_longer_than_asked,
            positions_beyond_the_head_are_refused,
            compaction_expires_and_keeps_the_state,
            the_state_and_the_commits_after_it_are_replayed,
            time_never_goes_back,
            deletions_outlive_the_log,
            a_closed_epoch_gets_no_more_commits,
            epochs_close_among_concurrent_writers,
            what_is_closed_is_closed_at_once,
            reading_in_pieces_skips_nothing,
            closing_wakes_followers_and_refuses_batches,
            engines_on_one_log_agree,
        );
    };
    (@tests $site:expr; $($test:ident,)*) => {
        $(
            #[test]
            fn $test() {
                $crate::suite::$test(&$site);
            }
        )*
    };
}

/// Long enough for any engine to do what it promises; a test that waits so long fails.
const PATIENCE: Duration = Duration::from_secs(30);

fn id(name: &str) -> ResourceId {
    ResourceId::new("Suite", name)
}

fn document(number: i64) -> Document {
    Document::new(vec![("number".into(), Value::Long(number)), ("name".into(), Value::from("x"))])
}

fn change(name: &str, operation: Operation) -> Change {
    Change { id: id(name), operation, parents: [ResourceId::new("Parent", "p1")].into() }
}

fn create(name: &str, number: i64) -> (Change, Expect) {
    (change(name, Operation::Create(document(number))), Expect::Absent)
}

fn update(name: &str, from: i64, to: i64, at: Position) -> (Change, Expect) {
    (change(name, Operation::Update(document(from).diff(&document(to)))), Expect::At(at))
}

fn delete(name: &str, number: i64, at: Position) -> (Change, Expect) {
    (change(name, Operation::Delete(document(number))), Expect::At(at))
}

fn batch(changes: impl Into<Vec<(Change, Expect)>>) -> Batch {
    Batch { author: "suite".into(), changes: changes.into(), relies_on: Vec::new() }
}

fn submit(engine: &dyn Engine, batch: Batch) -> Receiver<Result<Position, CommitError>> {
    let (sender, outcome) = channel();
    engine.submit(batch, Box::new(move |result| drop(sender.send(result))));
    outcome
}

fn commit(engine: &dyn Engine, batch: Batch) -> Result<Position, CommitError> {
    submit(engine, batch).recv_timeout(PATIENCE).expect("an answer")
}

fn committed(engine: &dyn Engine, changes: impl Into<Vec<(Change, Expect)>>) -> Position {
    commit(engine, batch(changes)).expect("committed")
}

/// All commits after `after`, read in pieces.
fn read_all(engine: &dyn Engine, mut after: Position, bytes_max: usize) -> Vec<Arc<Commit>> {
    let mut all: Vec<Arc<Commit>> = Vec::new();
    loop {
        let commits = engine.read(after, bytes_max).expect("readable");
        let Some(last) = commits.last() else { return all };
        after = last.position;
        all.extend(commits);
    }
}

/// What a follower gives until it has given the commit at `through`.
fn follow_through(follower: &mut dyn Follower, through: Position) -> Vec<Arc<Commit>> {
    let deadline = Instant::now() + PATIENCE;
    let mut all: Vec<Arc<Commit>> = Vec::new();
    while all.last().is_none_or(|last| last.position < through) {
        assert!(Instant::now() < deadline, "no commit at {through}");
        all.extend(follower.next(PATIENCE).expect("followed"));
    }
    all
}

fn assert_ordered(commits: &[Arc<Commit>]) {
    assert!(commits.is_sorted_by(|a, b| a.position < b.position && a.time_ms <= b.time_ms));
}

fn positions(commits: &[Arc<Commit>]) -> Vec<Position> {
    commits.iter().map(|commit| commit.position).collect()
}

/// The state that what was replayed makes; checks the order on the way.
fn state_of(replayed: &[Replayed]) -> BTreeMap<ResourceId, StateEntry> {
    let mut state: BTreeMap<ResourceId, StateEntry> = BTreeMap::new();
    let mut last = None;
    for piece in replayed {
        match piece {
            Replayed::Entry(entry) => {
                assert_eq!(last, None, "a resource after a commit");
                assert_eq!(state.insert(entry.id.clone(), entry.clone()), None, "a resource twice");
            }
            Replayed::Commit(commit) => {
                assert!(last < Some(commit.position), "commits out of order");
                assert!(state.values().all(|entry| entry.modified < commit.position), "a commit that the state holds");
                last = Some(commit.position);
                commit.changes.iter().for_each(|change| apply(&mut state, change, commit.position, commit.time_ms));
            }
            Replayed::Tombstone(tombstone) => {
                assert_eq!(last, None, "a tombstone after a commit");
                assert!(tombstone.created < tombstone.deleted && tombstone.created_ms <= tombstone.deleted_ms);
            }
            Replayed::Complete(_) => {}
        }
    }
    let completes = replayed.iter().filter(|piece| matches!(piece, Replayed::Complete(_))).count();
    assert!(completes == 1 && matches!(replayed.last(), Some(Replayed::Complete(_))));
    state
}

/// All deletions that what was replayed tells: of what, where created and deleted, and when.
fn deletions_of(replayed: &[Replayed]) -> BTreeSet<(ResourceId, Position, Position, i64, i64)> {
    let mut lives: HashMap<ResourceId, (Position, i64)> = HashMap::new();
    let mut deletions = BTreeSet::new();
    for piece in replayed {
        match piece {
            Replayed::Entry(entry) => drop(lives.insert(entry.id.clone(), (entry.created, entry.created_ms))),
            Replayed::Tombstone(Tombstone { id, created, deleted, created_ms, deleted_ms }) => {
                let is_new = deletions.insert((id.clone(), *created, *deleted, *created_ms, *deleted_ms));
                assert!(is_new, "a deletion twice");
            }
            Replayed::Commit(commit) => {
                for Change { id, operation, .. } in &commit.changes {
                    match operation {
                        Operation::Create(_) => drop(lives.insert(id.clone(), (commit.position, commit.time_ms))),
                        Operation::Update(_) => {}
                        Operation::Delete(_) => {
                            let (created, created_ms) = lives.remove(id).expect("it existed");
                            deletions.insert((id.clone(), created, commit.position, created_ms, commit.time_ms));
                        }
                    }
                }
            }
            Replayed::Complete(_) => {}
        }
    }
    deletions
}

/// The time of the commit at a position, of one who writes alone: the first after `before`.
fn time_of(engine: &dyn Engine, before: Position) -> i64 {
    engine.read(before, 0).expect("readable")[0].time_ms
}

fn close_epoch(engine: &dyn Engine, epoch_s: i64) -> Result<Position, CommitError> {
    let (sender, outcome) = channel();
    engine.close_epoch(epoch_s, Box::new(move |result| drop(sender.send(result))));
    outcome.recv_timeout(PATIENCE).expect("an answer")
}

fn apply(state: &mut BTreeMap<ResourceId, StateEntry>, change: &Change, position: Position, time_ms: i64) {
    let id = change.id.clone();
    match &change.operation {
        Operation::Create(document) => {
            let document = document.clone();
            let (created_ms, modified_ms) = (time_ms, time_ms);
            let entry =
                StateEntry { id: id.clone(), document, created: position, modified: position, created_ms, modified_ms };
            assert_eq!(state.insert(id, entry), None, "created twice");
        }
        Operation::Update(leaves) => {
            let entry = state.get_mut(&id).expect("an update of what exists");
            redo(&mut entry.document, leaves);
            (entry.modified, entry.modified_ms) = (position, time_ms);
        }
        Operation::Delete(document) => {
            assert_eq!(state.remove(&id).map(|entry| entry.document).as_ref(), Some(document));
        }
    }
}

/// Positions grow, and what was committed is read back as it was.
pub fn commits_are_ordered_and_read_back(site: &dyn Site) {
    let Opened { engine, replayed } = site.open();
    assert_eq!(replayed, [Replayed::Complete(Complete::default())]);
    assert!(engine.read(engine.head(), 1000).expect("readable").is_empty());
    let start = engine.head();
    let one = committed(&*engine, [create("a", 1)]);
    let two = committed(&*engine, [update("a", 1, 2, one), create("b", 7)]);
    let three = committed(&*engine, [delete("a", 2, two)]);
    assert!(start < one && one < two && two < three);
    assert_eq!(engine.head(), three);
    let commits = read_all(&*engine, start, 1 << 20);
    assert_ordered(&commits);
    assert_eq!(positions(&commits), [one, two, three]);
    let changes: Vec<_> = commits.iter().map(|commit| commit.changes.clone()).collect();
    assert_eq!(changes[0], [create("a", 1).0]);
    assert_eq!(changes[1], [update("a", 1, 2, one).0, create("b", 7).0]);
    assert_eq!(changes[2], [delete("a", 2, two).0]);
    assert!(commits.iter().all(|commit| &*commit.author == "suite"));
    assert_eq!(positions(&read_all(&*engine, two, 1 << 20)), [three]);
}

/// A batch with one wrong precondition leaves nothing behind.
pub fn a_batch_is_atomic(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let one = committed(&*engine, [create("a", 1)]);
    let refused = commit(&*engine, batch([create("b", 1), create("c", 1), create("a", 1)]));
    assert_eq!(refused, Err(CommitError::Conflict { id: id("a"), expected: Expect::Absent, found: Some(one) }));
    assert_eq!(engine.head(), one);
    committed(&*engine, [create("b", 1), create("c", 1)]);
}

/// Batches that break the rules are refused as such.
pub fn malformed_batches_change_nothing(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let one = committed(&*engine, [create("a", 1)]);
    let leaves = |pairs: &[(i64, i64)]| {
        let all = pairs.iter().flat_map(|(from, to)| document(*from).diff(&document(*to)));
        (change("a", Operation::Update(all.collect())), Expect::At(one))
    };
    let check = |what: &str, changes: Vec<(Change, Expect)>| {
        let refused = commit(&*engine, batch(changes));
        assert!(matches!(refused, Err(CommitError::Malformed(_))), "{what}: {refused:?}");
    };
    check("nothing", vec![]);
    check("a resource twice", vec![create("b", 1), create("b", 2)]);
    check("an empty update", vec![leaves(&[])]);
    check("a leaf twice", vec![leaves(&[(1, 2), (1, 3)])]);
    check("a create of something", vec![(create("b", 1).0, Expect::At(one))]);
    check("an update of nothing", vec![(update("a", 1, 2, one).0, Expect::Absent)]);
    check("a delete of nothing", vec![(delete("a", 1, one).0, Expect::Absent)]);
    assert_eq!(engine.head(), one);
}

/// Each operation demands what it must of the resource.
pub fn preconditions_hold(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let one = committed(&*engine, [create("a", 1)]);
    let two = committed(&*engine, [update("a", 1, 2, one)]);
    let check = |changed: (Change, Expect), found| {
        let (id, expected) = (changed.0.id.clone(), changed.1);
        assert_eq!(commit(&*engine, batch([changed])), Err(CommitError::Conflict { id, expected, found }));
    };
    check(create("a", 1), Some(two));
    check(update("a", 1, 3, one), Some(two));
    check(delete("a", 1, one), Some(two));
    check(update("b", 1, 2, one), None);
    let three = committed(&*engine, [delete("a", 2, two)]);
    check(update("a", 2, 3, two), None);
    check(delete("a", 2, three), None);
    let four = committed(&*engine, [create("a", 4)]);
    check(delete("a", 2, two), Some(four));
}

/// Of writers that all saw the same, one wins: a counter incremented by many loses no increment.
pub fn preconditions_hold_among_concurrent_writers(site: &dyn Site) {
    const WRITERS: i64 = 8;
    const EACH: i64 = 25;
    let Opened { engine, .. } = site.open();
    // Of an engine for each process, where that is possible.
    let other = if site.is_shared() { site.open().engine } else { engine.clone() };
    let start = committed(&*engine, [create("counter", 0)]);
    std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            let engine = if writer % 2 == 0 { &engine } else { &other };
            threads.spawn(move || {
                let (mut number, mut at, mut done) = (0, start, 0);
                while done < EACH {
                    match commit(&**engine, batch([update("counter", number, number + 1, at)])) {
                        Ok(position) => (number, at, done) = (number + 1, position, done + 1),
                        Err(CommitError::Conflict { found: Some(found), .. }) => {
                            // What was found may be ahead of what can be read.
                            let mut follower = engine.follow(at).expect("follows");
                            let commits = follow_through(&mut *follower, found);
                            (number, at) = (number + commits.len() as i64, commits[commits.len() - 1].position);
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
            });
        }
    });
    let mut follower = engine.follow(start).expect("follows");
    let mut commits: Vec<Arc<Commit>> = Vec::new();
    while (commits.len() as i64) < WRITERS * EACH {
        let more = follower.next(PATIENCE).expect("followed");
        assert!(!more.is_empty(), "increments were lost");
        commits.extend(more);
    }
    assert_ordered(&commits);
    for (number, commit) in (0..).zip(&commits) {
        assert_eq!(commit.changes, [update("counter", number, number + 1, start).0]);
    }
}

/// A batch may rely on resources that it does not change.
pub fn relied_on_resources_are_checked(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let one = committed(&*engine, [create("model", 1)]);
    let relying =
        |name: &str, on: &str, expect| Batch { relies_on: vec![(id(on), expect)], ..batch([create(name, 1)]) };
    commit(&*engine, relying("a", "model", Expect::At(one))).expect("committed");
    commit(&*engine, relying("b", "none", Expect::Absent)).expect("committed");
    let two = committed(&*engine, [update("model", 1, 2, one)]);
    let refused = commit(&*engine, relying("c", "model", Expect::At(one)));
    let expected = CommitError::Conflict { id: id("model"), expected: Expect::At(one), found: Some(two) };
    assert_eq!(refused, Err(expected));
    let refused = commit(&*engine, relying("c", "none", Expect::At(one)));
    assert_eq!(refused, Err(CommitError::Conflict { id: id("none"), expected: Expect::At(one), found: None }));
}

/// Followers of concurrent writers see what reading gives.
pub fn followers_see_every_commit_once_and_in_order(site: &dyn Site) {
    const WRITERS: usize = 4;
    const EACH: usize = 50;
    let Opened { engine, .. } = site.open();
    let start = engine.head();
    let mut followers: Vec<_> = (0..3).map(|_| engine.follow(start).expect("follows")).collect();
    let (seen, last) = std::thread::scope(|threads| {
        let following: Vec<_> = followers
            .iter_mut()
            .map(|follower| {
                threads.spawn(move || {
                    let mut seen = Vec::new();
                    while seen.len() < WRITERS * EACH {
                        let more = follower.next(PATIENCE).expect("followed");
                        assert!(!more.is_empty(), "commits are missing");
                        seen.extend(more);
                    }
                    seen
                })
            })
            .collect();
        let writing: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let engine = &engine;
                threads.spawn(move || {
                    let all: Vec<_> =
                        (0..EACH).map(|n| committed(&**engine, [create(&format!("{writer}-{n}"), n as i64)])).collect();
                    assert!(all.is_sorted_by(|a, b| a < b), "a writer's own commits are in its order");
                    all[EACH - 1]
                })
            })
            .collect();
        let last = writing.into_iter().map(|thread| thread.join().expect("wrote")).max();
        (following.into_iter().map(|thread| thread.join().expect("followed")).collect::<Vec<_>>(), last)
    });
    for commits in &seen {
        assert_ordered(commits);
        assert_eq!(commits, &read_all(&*engine, start, 1 << 20));
        assert_eq!(commits.last().map(|commit| commit.position), last);
    }
}

/// A follower goes from what was to what comes without a seam.
pub fn followers_see_commits_of_before_and_after(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let one = committed(&*engine, [create("a", 1)]);
    let two = committed(&*engine, [create("b", 1)]);
    let mut follower = engine.follow(one).expect("follows");
    assert_eq!(positions(&follow_through(&mut *follower, two)), [two]);
    let three = committed(&*engine, [create("c", 1)]);
    assert_eq!(positions(&follow_through(&mut *follower, three)), [three]);
    let mut from_head = engine.follow(three).expect("follows");
    let four = committed(&*engine, [create("d", 1)]);
    assert_eq!(positions(&follow_through(&mut *from_head, four)), [four]);
}

/// Nothing to see is no error.
pub fn a_follower_waits_no_longer_than_asked(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let mut follower = engine.follow(engine.head()).expect("follows");
    assert_eq!(follower.next(Duration::ZERO), Ok(Vec::new()));
    let start = Instant::now();
    assert_eq!(follower.next(Duration::from_millis(50)), Ok(Vec::new()));
    assert!(start.elapsed() >= Duration::from_millis(50));
}

/// A position from elsewhere is not waited for.
pub fn positions_beyond_the_head_are_refused(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let head = committed(&*engine, [create("a", 1)]);
    let asked = Position(head.0 + 1);
    let future = ReadError::Future { asked, head };
    assert_eq!(engine.read(asked, 1000).map(drop), Err(future.clone()));
    assert_eq!(engine.follow(asked).map(drop).err(), Some(future.clone()));
    assert_eq!(engine.compact(asked), Err(future));
}

/// What was compacted is expired, exactly; what was not can be read; the state is whole.
pub fn compaction_expires_and_keeps_the_state(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let mut at = committed(&*engine, [create("a", 0), create("b", 0)]);
    let mut all = vec![at];
    for number in 0..40 {
        at = committed(&*engine, [update("a", number, number + 1, at)]);
        all.push(at);
    }
    let mut behind = engine.follow(all[3]).expect("follows");
    engine.compact(all[20]).expect("compacted");
    let oldest = engine.oldest();
    assert!(all[20] <= oldest && oldest <= all[40]);
    for position in &all {
        let read = engine.read(*position, 1 << 20);
        if *position < oldest {
            let expired = ReadError::Expired { asked: *position, oldest };
            assert_eq!(read, Err(expired.clone()));
            assert_eq!(engine.follow(*position).map(drop).err(), Some(expired));
        } else {
            let expected: Vec<_> = all.iter().copied().filter(|later| later > position).collect();
            assert_eq!(positions(&read_all(&*engine, *position, 1 << 20)), expected);
        }
    }
    // A follower may have been given what it is told is gone only before it is told.
    let told = loop {
        match behind.next(Duration::ZERO) {
            Ok(commits) if commits.is_empty() => break None,
            Ok(_) => {}
            Err(error) => break Some(error),
        }
    };
    assert!(matches!(told, None | Some(ReadError::Expired { .. })), "{told:?}");
    engine.compact(all[10]).expect("compacting less changes nothing");
    assert_eq!(engine.oldest(), oldest);

    engine.compact(engine.head()).expect("compacted");
    assert_eq!(engine.oldest(), engine.head());
    let next = committed(&*engine, [update("a", 40, 41, at)]);
    assert_eq!(positions(&read_all(&*engine, at, 1 << 20)), [next]);
    engine.close();
    drop(engine);
    let Opened { engine, replayed } = site.open();
    let state = state_of(&replayed);
    assert_eq!(state.len(), 2);
    let (a, b) = (&state[&id("a")], &state[&id("b")]);
    assert_eq!((&a.document, a.created, a.modified), (&document(41), all[0], next));
    assert_eq!((&b.document, b.created, b.modified), (&document(0), all[0], all[0]));
    assert!(engine.oldest() >= at, "what had expired has not come back");
}

/// Opening gives the state; versions hold over it.
pub fn the_state_and_the_commits_after_it_are_replayed(site: &dyn Site) {
    let mut expected = BTreeMap::new();
    let mut numbers: HashMap<String, (i64, Position)> = HashMap::new();
    for round in 0..4i64 {
        let Opened { engine, replayed } = site.open();
        assert_eq!(state_of(&replayed), expected);
        let mut follower = engine.follow(engine.head()).expect("follows");
        for n in 0..30i64 {
            let name = format!("r{}", (n * 7 + round) % 20);
            let known = numbers.get(&name).copied();
            let changed = match known {
                None => create(&name, n),
                Some((number, at)) if n % 3 == 0 => delete(&name, number, at),
                Some((number, at)) => update(&name, number, number + 1, at),
            };
            let before = engine.head();
            let position = committed(&*engine, [changed.clone()]);
            match (known, &changed.0.operation) {
                (_, Operation::Delete(_)) => drop(numbers.remove(&name)),
                (Some((number, _)), _) => drop(numbers.insert(name, (number + 1, position))),
                (None, _) => drop(numbers.insert(name, (n, position))),
            }
            apply(&mut expected, &changed.0, position, time_of(&*engine, before));
            if n == 20 && round % 2 == 1 {
                engine.compact(position).expect("compacted");
            }
        }
        if round % 2 == 0 {
            assert_ordered(&follow_through(&mut *follower, engine.head()));
        }
        engine.close();
    }
    let Opened { replayed, .. } = site.open();
    assert_eq!(state_of(&replayed), expected);
}

/// The commits' times grow with their positions, also over a restart.
pub fn time_never_goes_back(site: &dyn Site) {
    let mut last_ms = 0;
    for round in 0..3 {
        let Opened { engine, .. } = site.open();
        let start = engine.head();
        for n in 0..5 {
            committed(&*engine, [create(&format!("{round}-{n}"), n)]);
        }
        for commit in read_all(&*engine, start, 1 << 20) {
            assert!(commit.time_ms >= last_ms && commit.time_ms > 1_600_000_000_000, "{}", commit.time_ms);
            last_ms = commit.time_ms;
        }
        engine.close();
    }
}

/// What was deleted is known when neither the resource nor the log tells it any more, also of what was created again.
pub fn deletions_outlive_the_log(site: &dyn Site) {
    let mut expected = BTreeSet::new();
    for round in 0..4 {
        let Opened { engine, replayed } = site.open();
        assert_eq!(deletions_of(&replayed), expected);
        let complete = replayed.last().expect("an end");
        assert!(matches!(complete, Replayed::Complete(complete) if complete.since == Position::ZERO), "{complete:?}");
        for name in ["a", "b", "c"] {
            let before = engine.head();
            let created = committed(&*engine, [create(name, round)]);
            let created_ms = time_of(&*engine, before);
            let updated = committed(&*engine, [update(name, round, round + 1, created)]);
            let deleted = committed(&*engine, [delete(name, round + 1, updated)]);
            expected.insert((id(name), created, deleted, created_ms, time_of(&*engine, updated)));
        }
        if round != 2 {
            engine.compact(engine.head()).expect("compacted");
        }
        engine.close();
    }
    let Opened { engine, replayed } = site.open();
    assert_eq!(deletions_of(&replayed), expected);
    assert_eq!(engine.read(engine.head(), 1), Ok(Vec::new()));
    assert!(state_of(&replayed).is_empty());
}

/// Closed is closed: for the present second, for one to come, and when the log is opened again.
pub fn a_closed_epoch_gets_no_more_commits(site: &dyn Site) {
    let mut closed_s = i64::MIN;
    for round in 0..3 {
        let Opened { engine, .. } = site.open();
        assert!(engine.closed_s() >= closed_s && engine.now_ms() / 1000 >= closed_s);
        for (n, ahead) in [(0, 0), (1, 3)] {
            let before = engine.head();
            let first = committed(&*engine, [create(&format!("{round}-{n}-first"), n)]);
            let first_s = time_of(&*engine, before).div_euclid(1000);
            assert!(first_s > closed_s, "round {round}: closed {closed_s}, and then a commit at {first_s}");
            assert_eq!(engine.closed_s().max(first_s - 1), first_s - 1, "its own second is open");
            let now_s = engine.now_ms().div_euclid(1000);
            assert!(now_s >= first_s);
            closed_s = now_s + ahead;
            let head = close_epoch(&*engine, closed_s).expect("closed");
            assert!(first <= head && head <= engine.head());
            assert!(engine.closed_s() >= closed_s && engine.now_ms() / 1000 >= closed_s);
            let before = engine.head();
            committed(&*engine, [create(&format!("{round}-{n}-then"), n)]);
            let then_s = time_of(&*engine, before).div_euclid(1000);
            assert!(then_s > closed_s, "closed {closed_s}, and then a commit at {then_s}");
            closed_s = then_s;
            close_epoch(&*engine, closed_s).expect("closed");
        }
        if round == 1 {
            // Then no commit tells how far time had come.
            engine.compact(engine.head()).expect("compacted");
        }
        engine.close();
    }
    let Opened { engine, .. } = site.open();
    let before = engine.head();
    committed(&*engine, [create("last", 0)]);
    assert!(time_of(&*engine, before).div_euclid(1000) > closed_s);
    engine.close();
    assert_eq!(close_epoch(&*engine, i64::MAX / 2000), Err(CommitError::Closed));
}

/// Whoever closes an epoch has seen all of it, though others commit all the time.
pub fn epochs_close_among_concurrent_writers(site: &dyn Site) {
    const WRITERS: usize = 3;
    let Opened { engine, .. } = site.open();
    let other = if site.is_shared() { site.open().engine } else { engine.clone() };
    let start = engine.head();
    let is_over = AtomicBool::new(false);
    let closings = std::thread::scope(|threads| {
        for writer in 0..WRITERS {
            let (engine, is_over) = (if writer % 2 == 0 { &engine } else { &other }, &is_over);
            threads.spawn(move || {
                for n in 0.. {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    committed(&**engine, [create(&format!("{writer}-{n}"), n)]);
                }
            });
        }
        let closings: Vec<(i64, Position)> = (0..40)
            .map(|_| {
                let epoch_s = engine.now_ms().div_euclid(1000);
                (epoch_s, close_epoch(&*engine, epoch_s).expect("closed"))
            })
            .collect();
        is_over.store(true, Ordering::Relaxed);
        closings
    });
    let commits = read_all(&*engine, start, 1 << 20);
    assert_ordered(&commits);
    for (epoch_s, head) in closings {
        for commit in &commits {
            let is_in = commit.time_ms.div_euclid(1000) <= epoch_s;
            assert!(!is_in || commit.position <= head, "{epoch_s} was closed at {head}: {commit:?}");
        }
    }
}

/// Closing again, or less, changes nothing; what is beyond all time is refused.
pub fn what_is_closed_is_closed_at_once(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    committed(&*engine, [create("a", 1)]);
    let epoch_s = engine.now_ms().div_euclid(1000) + 1;
    close_epoch(&*engine, epoch_s).expect("closed");
    let (closed_s, disk_bytes) = (engine.closed_s(), engine.disk_bytes());
    for less in [0, 1, 100, i64::MAX / 2000] {
        let (sender, outcome) = channel();
        engine.close_epoch(epoch_s - less, Box::new(move |result| drop(sender.send(result))));
        assert_eq!(outcome.try_recv().map(|result| result.is_ok()), Ok(true), "answered at once");
    }
    assert_eq!((engine.closed_s(), engine.disk_bytes()), (closed_s, disk_bytes));
    for beyond in [i64::MAX, i64::MAX / 1000] {
        assert!(matches!(close_epoch(&*engine, beyond), Err(CommitError::Malformed(_))));
    }
    assert!(close_epoch(&*engine, i64::MIN / 500).is_err() || engine.closed_s() == closed_s);
    let before = engine.head();
    committed(&*engine, [create("b", 1)]);
    assert!(time_of(&*engine, before) > epoch_s * 1000 && time_of(&*engine, before) < (epoch_s + 60) * 1000);
}

/// However small the pieces, reading gives all, and each piece something.
pub fn reading_in_pieces_skips_nothing(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let start = engine.head();
    let outcomes: Vec<_> = (0..200)
        .map(|n| {
            let some = (0..1 + n % 7).map(|m| create(&format!("{n}-{m}"), n));
            submit(&*engine, batch(some.collect::<Vec<_>>()))
        })
        .collect();
    let mut all: Vec<_> =
        outcomes.iter().map(|outcome| outcome.recv_timeout(PATIENCE).expect("an answer").expect("committed")).collect();
    all.sort_unstable();
    for bytes_max in [0, 1, 100, 1000, 100_000] {
        assert_eq!(positions(&read_all(&*engine, start, bytes_max)), all, "{bytes_max}");
    }
    engine.close();
    drop(engine);
    let Opened { engine, .. } = site.open();
    for bytes_max in [1, 1000, 100_000] {
        assert_eq!(positions(&read_all(&*engine, start, bytes_max)), all, "{bytes_max}, opened again");
    }
}

/// Closing lets nobody wait.
pub fn closing_wakes_followers_and_refuses_batches(site: &dyn Site) {
    let Opened { engine, .. } = site.open();
    let head = committed(&*engine, [create("a", 1)]);
    let mut follower = engine.follow(head).expect("follows");
    let is_waiting = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let waiting = threads.spawn(|| {
            is_waiting.store(true, Ordering::Release);
            let start = Instant::now();
            (follower.next(PATIENCE), start.elapsed())
        });
        while !is_waiting.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        engine.close();
        let (commits, waited) = waiting.join().expect("followed");
        assert_eq!(commits, Ok(Vec::new()));
        assert!(waited < PATIENCE);
    });
    assert_eq!(commit(&*engine, batch([create("b", 1)])), Err(CommitError::Closed));
    assert_eq!(engine.head(), head);
}

/// What one node commits, the others see; nobody commits over what another did.
pub fn engines_on_one_log_agree(site: &dyn Site) {
    if !site.is_shared() {
        return;
    }
    let (one, other) = (site.open().engine, site.open().engine);
    assert_eq!(one.origin(), other.origin());
    let mut follower = other.follow(other.head()).expect("follows");
    let first = committed(&*one, [create("a", 1)]);
    assert_eq!(positions(&follow_through(&mut *follower, first)), [first]);
    let second = committed(&*other, [update("a", 1, 2, first)]);
    let refused = commit(&*one, batch([update("a", 1, 3, first)]));
    assert!(matches!(refused, Err(CommitError::Conflict { found: Some(found), .. }) if found == second), "{refused:?}");
}
