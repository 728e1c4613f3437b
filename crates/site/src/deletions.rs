//! Deletions: what was deleted, for longer than the log lasts.
//!
//! A client that comes back after the log has gone on can be told what changed from the state alone; what was deleted is in no
//! state, so it is remembered here.

use std::collections::VecDeque;

use lockstep_journal::{Commit, Operation};
use lockstep_model::{Position, ResourceId};

/// Deletions that are remembered. One takes about a hundred bytes.
pub const DELETIONS_MAX: usize = 200_000;

/// What was deleted after some position.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    /// Every deletion after this position is here.
    since: Position,
    /// In the order of their commits.
    deleted: VecDeque<(Position, ResourceId)>,
}

impl Deletions {
    /// Nothing is known of what was deleted up to `since`.
    pub(crate) fn since(since: Position) -> Self {
        Self { since, deleted: VecDeque::new() }
    }

    /// Remembers what a commit deletes; called for every commit in order.
    pub(crate) fn apply(&mut self, commit: &Commit) {
        let deleted = commit.changes.iter().filter(|c| matches!(c.operation, Operation::Delete(_)));
        self.deleted.extend(deleted.map(|change| (commit.position, change.id.clone())));
        while self.deleted.len() > DELETIONS_MAX
            && let Some((position, _)) = self.deleted.pop_front()
        {
            self.since = position;
        }
    }

    /// What was deleted after `after`, some of it perhaps created again; `None` when that is not known any more.
    pub(crate) fn after(&self, after: Position) -> Option<Vec<ResourceId>> {
        if after < self.since {
            return None;
        }
        let from = self.deleted.partition_point(|(position, _)| *position <= after);
        Some(self.deleted.range(from..).map(|(_, id)| id.clone()).collect())
    }
}
