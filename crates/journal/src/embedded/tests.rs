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
    assert_eq!(replayed.len(), 100);
    assert_eq!(journal.oldest(), Position(50));
    assert!(journal.read(Position(50), 1 << 20).unwrap()[0].position == Position(51));
    assert_eq!(journal.follow(Position(60)).unwrap().next(Duration::ZERO).unwrap()[0].position, Position(61));
}
