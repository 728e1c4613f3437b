//! Deletions: what was deleted, for longer than the log lasts.
//!
//! A client that comes back after the log has gone on can be told what changed from the state alone; what was deleted is in no
//! state, so it is remembered here. The journal's state keeps tombstones over restarts, as many as [`Retention`] says; as many are kept in
//! memory, so that how far back a client can catch up is one number and does not depend on when the server was started. One takes
//! about a hundred bytes, most of them its id: a hundred megabytes at the default limit, in a site that deletes a million resources
//! in a month.
//!
//! [`Retention`]: lockstep_journal::Retention

use std::collections::VecDeque;

use lockstep_journal::{Commit, Operation, Tombstone};
use lockstep_model::{Position, ResourceId};

/// What was deleted after some position.
#[derive(Debug, Default)]
pub(crate) struct Deletions {
    /// Every deletion after this position is here. `None` while the journal is being opened.
    since: Option<Position>,
    /// In the order of their commits.
    deleted: VecDeque<(Position, ResourceId)>,
    /// Most that are remembered; the oldest go first.
    kept_max: usize,
}

impl Deletions {
    /// Nothing is known yet.
    pub(crate) fn new(kept_max: usize) -> Self {
        Self { since: None, deleted: VecDeque::new(), kept_max }
    }

    /// Takes a deletion that the journal's state remembers, in any order, before [`Deletions::settle`].
    pub(crate) fn load(&mut self, tombstone: Tombstone) {
        self.deleted.push_back((tombstone.deleted, tombstone.id));
    }

    /// All that the journal remembers is here, which is all that was deleted after `since`.
    pub(crate) fn settle(&mut self, since: Position) {
        self.deleted.make_contiguous().sort_by_key(|(position, _)| *position);
        self.since = Some(since);
        self.forget();
    }

    /// Remembers what a commit deletes; called for every commit in order.
    pub(crate) fn apply(&mut self, commit: &Commit) {
        let deleted = commit.changes.iter().filter(|c| matches!(c.operation, Operation::Delete(_)));
        self.deleted.extend(deleted.map(|change| (commit.position, change.id.clone())));
        self.forget();
    }

    fn forget(&mut self) {
        // Which are the oldest is known once all are there.
        let Some(since) = &mut self.since else { return };
        while self.deleted.len() > self.kept_max
            && let Some((position, _)) = self.deleted.pop_front()
        {
            *since = position.max(*since);
        }
    }

    /// All that is remembered, the oldest first.
    pub(crate) fn all(&self) -> Vec<ResourceId> {
        self.deleted.iter().map(|(_, id)| id.clone()).collect()
    }

    /// What was deleted after `after`, some of it perhaps created again; `None` when that is not known any more.
    pub(crate) fn after(&self, after: Position) -> Option<Vec<ResourceId>> {
        if self.since.is_none_or(|since| after < since) {
            return None;
        }
        let from = self.deleted.partition_point(|(position, _)| *position <= after);
        Some(self.deleted.range(from..).map(|(_, id)| id.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_deletions_go_first_whatever_order_they_were_loaded_in() {
        let check = |kept_max, after: u64, expected: Option<&[&str]>| {
            let mut deletions = Deletions::new(kept_max);
            assert_eq!(deletions.after(Position(100)), None, "nothing is known yet");
            for at in [7, 3, 5, 9] {
                let (created, deleted) = (Position(1), Position(at));
                let id = ResourceId::new("T", format!("r{at}"));
                deletions.load(Tombstone { id, created, deleted, created_ms: 0, deleted_ms: 0 });
            }
            deletions.settle(Position(2));
            let found = deletions.after(Position(after));
            let found: Option<Vec<&str>> = found.as_ref().map(|ids| ids.iter().map(|id| &*id.id).collect());
            assert_eq!(found.as_deref(), expected, "{kept_max}, after {after}");
        };
        check(9, 2, Some(&["r3", "r5", "r7", "r9"]));
        check(9, 5, Some(&["r7", "r9"]));
        check(9, 1, None);
        check(2, 5, Some(&["r7", "r9"]));
        check(2, 4, None);
        check(0, 9, Some(&[]));
        check(0, 8, None);
    }
}
