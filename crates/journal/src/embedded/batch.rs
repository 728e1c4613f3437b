//! The rules of a batch that can be checked without knowing the log.

use lockstep_model::{Document, Name, ResourceId, Value};

use super::versions::{Fingerprint, Fingerprinter};
use crate::codec::{DEPTH_MAX, PATH_BYTES_MAX};
use crate::{Batch, CommitError, Expect, Operation};

/// Checks a batch; gives the fingerprints of the resources changed and then of those relied on.
pub(crate) fn check(batch: &Batch, fingerprinter: &Fingerprinter) -> Result<Vec<Fingerprint>, CommitError> {
    let malformed = |reason| Err(CommitError::Malformed(reason));
    if batch.changes.is_empty() {
        return malformed("it changes nothing");
    }
    for (change, expect) in &batch.changes {
        match (&change.operation, expect) {
            (Operation::Create(document), Expect::Absent) | (Operation::Delete(document), Expect::At(_)) => {
                if !fits(document.fields(), DEPTH_MAX) {
                    return malformed("a value is nested too deep");
                }
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
                    if !leaf.old.iter().chain(&leaf.new).all(|value| value_fits(value, DEPTH_MAX)) {
                        return malformed("a value is nested too deep");
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
    Ok(prints)
}

fn fits(fields: &[(Name, Value)], depth: usize) -> bool {
    fields.iter().all(|(_, value)| value_fits(value, depth))
}

fn value_fits(value: &Value, depth: usize) -> bool {
    match value {
        Value::List(items) => depth > 0 && items.iter().all(|item| value_fits(item, depth - 1)),
        Value::Struct(inner) => depth > 0 && fits(inner, depth - 1),
        Value::Boolean(_) | Value::Long(_) | Value::Double(_) | Value::String(_) | Value::Id(_) => true,
    }
}

/// About how many bytes the batch takes encoded, names aside.
pub(crate) fn weigh(batch: &Batch) -> usize {
    let changes = batch.changes.iter().map(|(change, _)| {
        let body = match &change.operation {
            Operation::Create(document) | Operation::Delete(document) => weigh_document(document),
            Operation::Update(leaves) => {
                leaves.iter().map(|leaf| 4 + leaf.old.iter().chain(&leaf.new).map(weigh_value).sum::<usize>()).sum()
            }
        };
        weigh_id(&change.id) + 4 + body
    });
    8 + changes.sum::<usize>()
}

fn weigh_id(id: &ResourceId) -> usize {
    id.id.len() + 2
}

fn weigh_document(document: &Document) -> usize {
    document.fields().iter().map(|(_, value)| 1 + weigh_value(value)).sum()
}

fn weigh_value(value: &Value) -> usize {
    match value {
        Value::Boolean(_) => 1,
        Value::Long(_) => 4,
        Value::Double(_) => 9,
        Value::String(text) => text.len() + 1,
        Value::Id(id) => weigh_id(id),
        Value::List(items) => 1 + items.iter().map(weigh_value).sum::<usize>(),
        Value::Struct(fields) => 1 + fields.iter().map(|(_, value)| 1 + weigh_value(value)).sum::<usize>(),
    }
}
