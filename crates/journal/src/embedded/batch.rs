//! The rules of a batch that can be checked without knowing the log.

use lockstep_model::{Name, Value};

use super::versions::{Fingerprint, Fingerprinter};
use crate::codec::{DEPTH_MAX, PATH_BYTES_MAX};
use crate::{Batch, CommitError, Expect, Operation};

/// What is known of a batch that keeps the rules.
pub(crate) struct Checked {
    /// The fingerprints of the resources changed and then of those relied on.
    pub(crate) prints: Vec<Fingerprint>,
    /// About how many bytes the batch takes encoded, names aside.
    pub(crate) bytes: usize,
}

/// Checks a batch. One pass over its values does for all: they are often cold in the cache, and that is what takes the time.
pub(crate) fn check(batch: &Batch, fingerprinter: &Fingerprinter) -> Result<Checked, CommitError> {
    let malformed = |reason| Err(CommitError::Malformed(reason));
    let too_deep = CommitError::Malformed("a value is nested too deep");
    if batch.changes.is_empty() {
        return malformed("it changes nothing");
    }
    let mut bytes = 8;
    for (change, expect) in &batch.changes {
        bytes += 8 + change.id.id.len();
        match (&change.operation, expect) {
            (Operation::Create(document), Expect::Absent) | (Operation::Delete(document), Expect::At(_)) => {
                bytes += weigh_fields(document.fields(), DEPTH_MAX).ok_or(too_deep.clone())?;
            }
            (Operation::Update(leaves), Expect::At(_)) => {
                if leaves.is_empty() {
                    return malformed("an update changes nothing");
                }
                if !leaves.is_sorted_by(|a, b| a.path < b.path) {
                    return malformed("the leaves of an update are not sorted, or one is there twice");
                }
                for leaf in leaves {
                    if leaf.old == leaf.new {
                        return malformed("a leaf is the same before and after");
                    }
                    if leaf.path.as_str().len() > PATH_BYTES_MAX {
                        return malformed("a leaf's path is too long");
                    }
                    for value in leaf.old.iter().chain(&leaf.new) {
                        bytes += 2 + weigh(value, DEPTH_MAX).ok_or(too_deep.clone())?;
                    }
                }
            }
            (Operation::Create(_), Expect::At(_)) => return malformed("a create expects the resource to exist"),
            (Operation::Update(_), Expect::Absent) => return malformed("an update expects the resource not to exist"),
            (Operation::Delete(_), Expect::Absent) => return malformed("a delete expects the resource not to exist"),
        }
    }
    let ids = batch.changes.iter().map(|(change, _)| &change.id).chain(batch.relies_on.iter().map(|(id, _)| id));
    let prints: Vec<Fingerprint> = ids.map(|id| fingerprinter.of(id)).collect();
    if batch.changes.len() > 1 {
        let mut changed = prints[..batch.changes.len()].to_vec();
        changed.sort_unstable();
        if !changed.is_sorted_by(|a, b| a < b) {
            return malformed("a resource is changed twice");
        }
    }
    Ok(Checked { prints, bytes })
}

/// About how many bytes the fields take encoded; `None` when they nest deeper than `depth`.
fn weigh_fields(fields: &[(Name, Value)], depth: usize) -> Option<usize> {
    fields.iter().try_fold(1, |bytes, (_, value)| Some(bytes + 1 + weigh(value, depth)?))
}

fn weigh(value: &Value, depth: usize) -> Option<usize> {
    Some(match value {
        Value::Boolean(_) => 1,
        Value::Long(_) => 4,
        Value::Double(_) => 9,
        Value::String(text) => 2 + text.len(),
        Value::Id(id) => 2 + id.id.len(),
        Value::List(items) => {
            let depth = depth.checked_sub(1)?;
            items.iter().try_fold(1, |bytes, item| Some(bytes + weigh(item, depth)?))?
        }
        Value::Struct(fields) => weigh_fields(fields, depth.checked_sub(1)?)?,
    })
}
