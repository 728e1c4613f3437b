//! Edits: planned on the view, committed on the condition that the view still holds, and planned again when it does not.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_contract::{Error, ErrorKind};
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::{Document, Position, ResourceId, Value};
use lockstep_query::View;
use lockstep_site::table::Context;
use lockstep_site::{WriteError, commit_error};

/// Tries before an edit gives up against others that keep changing the same resources.
const TRIES_MAX: usize = 16;

/// What is to be committed.
#[derive(Default)]
pub(crate) struct Edit {
    changes: Vec<(Change, Expect)>,
    relies_on: BTreeMap<ResourceId, Position>,
}

impl Edit {
    /// Creates a resource below `parent`, the only one above it.
    pub(crate) fn create(&mut self, id: ResourceId, document: Document, parent: Option<&ResourceId>) {
        let parents: Arc<[ResourceId]> = parent.cloned().into_iter().collect();
        self.changes.push((Change { id, operation: Operation::Create(document), parents }, Expect::Absent));
    }

    /// Gives a resource these properties, if it has others.
    ///
    /// # Errors
    /// When it does not exist.
    pub(crate) fn update(&mut self, view: &View, id: &ResourceId, document: Document) -> Result<(), Error> {
        let change = lockstep_site::update(view, id, document).map_err(WriteError::into_error)?;
        self.changes.extend(change);
        Ok(())
    }

    /// Gives an object, ours or a copy of another site's, this list of tags.
    pub(crate) fn update_tags(&mut self, view: &View, id: &ResourceId, tags: &[ResourceId]) {
        self.changes.extend(lockstep_site::update_tags(view, id, tags));
    }

    /// Makes the commit depend on a resource, which it does not change, being as it was read, if it exists.
    pub(crate) fn rely_on(&mut self, view: &View, id: &ResourceId) {
        if let Some(modified) = view.modified(id) {
            self.relies_on.insert(id.clone(), modified);
        }
    }
}

/// Plans an edit on the view and commits it, again and again until nobody came in between. Nothing is committed for an edit without
/// changes.
///
/// # Errors
/// Those of the plan, and `concurrent_change` when others keep coming in between.
pub(crate) async fn commit<T>(context: &Context, plan: impl Fn(&View) -> Result<(Edit, T), Error>) -> Result<T, Error> {
    let site = &context.site;
    let mut last = None;
    for _ in 0..TRIES_MAX {
        let (edit, outcome) = plan(&site.view())?;
        if edit.changes.is_empty() {
            return Ok(outcome);
        }
        let relies_on = edit.relies_on.into_iter().map(|(id, at)| (id, Expect::At(at))).collect();
        let batch = Batch { author: context.caller.name(), changes: edit.changes, relies_on };
        match site.commit(batch).await {
            Ok(_) => return Ok(outcome),
            Err(CommitError::Conflict { id, .. }) => {
                site.catch_up().await;
                last = Some(id);
            }
            Err(error) => return Err(commit_error(&error)),
        }
    }
    Err(last.map_or_else(Error::internal, |id| WriteError::Contended(id).into_error()))
}

/// Something of that name is there already.
pub(crate) fn exists(message: String, name: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, "lockstep.tagging.exists", message, vec![name.to_owned()])
}

/// The text at a path, or none.
pub(crate) fn text(document: &Document, path: &str) -> String {
    document.get(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The texts of a list, each once.
pub(crate) fn texts(document: &Document, path: &str) -> Vec<String> {
    let Some(Value::List(items)) = document.get(path) else { return Vec::new() };
    let mut texts: Vec<String> = Vec::with_capacity(items.len());
    for text in items.iter().filter_map(Value::as_str) {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    texts
}

/// Sets a list of texts; an empty one is unset.
pub(crate) fn set_texts(document: &mut Document, path: &str, texts: &[String]) {
    let list = Value::List(texts.iter().map(|text| Value::from(&**text)).collect());
    document.set(path, (!texts.is_empty()).then_some(list));
}
