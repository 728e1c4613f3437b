//! One running task for each replication.

use std::collections::HashMap;
use std::sync::Arc;

use lockstep_contract::{Error, ErrorKind};
use parking_lot::Mutex;

use crate::states::Verb;

/// Who works on which replication. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Turns {
    /// Held for a look-up.
    taken: Arc<Mutex<HashMap<String, (Verb, String)>>>,
}

/// A replication, taken for one task; given back when dropped.
pub(crate) struct Turn {
    turns: Turns,
    replication: String,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.replication);
    }
}

/// What came of asking for a turn.
pub(crate) enum Asked {
    /// It is had.
    Taken(Turn),
    /// The same is being done already, by this task.
    Running(String),
}

/// The refusal while something else is done with a replication.
pub(crate) fn busy(verb: Verb, task: &str) -> Error {
    let message = format!("{} is under way for this replication, as task {task}", verb.name());
    let args = vec![verb.name().to_owned(), task.to_owned()];
    Error::new(ErrorKind::ResourceBusy, "lockstep.replication.busy", message, args)
}

impl Turns {
    /// Takes a replication for a task.
    ///
    /// # Errors
    /// `resource_busy` while something else is done with it.
    pub(crate) fn take(&self, replication: &str, verb: Verb, task: &str) -> Result<Asked, Error> {
        let mut taken = self.taken.lock();
        match taken.get(replication) {
            // Whoever asks for a sync gets what the one under way brings.
            Some((Verb::Sync, running)) if verb == Verb::Sync => Ok(Asked::Running(running.clone())),
            Some((other, running)) => Err(busy(*other, running)),
            None => {
                taken.insert(replication.to_owned(), (verb, task.to_owned()));
                Ok(Asked::Taken(Turn { turns: self.clone(), replication: replication.to_owned() }))
            }
        }
    }

    /// What is done with a replication, and by which task.
    pub(crate) fn running(&self, replication: &str) -> Option<(Verb, String)> {
        self.taken.lock().get(replication).cloned()
    }

    /// How many replications something is done with.
    pub(crate) fn count(&self) -> usize {
        self.taken.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syncs_are_one_and_all_else_waits() {
        let turns = Turns::default();
        let Ok(Asked::Taken(turn)) = turns.take("r", Verb::Sync, "t1") else { panic!() };
        assert!(matches!(turns.take("r", Verb::Sync, "t2"), Ok(Asked::Running(task)) if task == "t1"));
        assert!(turns.take("r", Verb::Pause, "t3").is_err_and(|error| error.kind == ErrorKind::ResourceBusy));
        assert!(matches!(turns.take("s", Verb::Pause, "t4"), Ok(Asked::Taken(_))));
        drop(turn);
        assert!(matches!(turns.take("r", Verb::Pause, "t5"), Ok(Asked::Taken(_))) && turns.running("r").is_none());
    }
}
