//! One commit's worth of linked resources: read, held against the models, and written with the place it leads to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lockstep_journal::{Batch as Commit, CommitError};
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAGS, is_taggable};
use lockstep_model::{Document, LINKED_FROM, Registry, ResourceId, TypeDef, Value};
use lockstep_query::{ResourceRef, View};
use lockstep_site::linked::{Incoming, Taken, plan, relies_on};

use super::frame::{Frame, Line};
use super::peer::malformed;
use super::place::Place;
use super::set::Set;
use crate::provider::AUTHOR;
use crate::{Run, SyncError};

/// Tries of a batch against others that write the same resources: deletions of a link that is going, and nobody else.
const TRIES_MAX: usize = 8;

/// What linked ids of a domain begin with. No domain name holds a tilde.
pub(crate) fn prefix(domain: &str) -> String {
    format!("{domain}~")
}

/// The id that a resource of the other site has here.
pub(crate) fn linked_id(set: Set, prefix: &str, there: &ResourceId) -> ResourceId {
    let id = format!("{prefix}{}", there.id).into();
    match set.here(there.resource_type.as_str()) {
        same if same == there.resource_type.as_str() => ResourceId { resource_type: there.resource_type.clone(), id },
        other => ResourceId { resource_type: other.into(), id },
    }
}

/// From one place to another, both as the other site says them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Range {
    /// Behind this one; `None` from the first.
    pub(crate) after: Option<ResourceId>,
    /// Up to this one; `None` to the last.
    pub(crate) last: Option<ResourceId>,
}

impl Range {
    fn holds(&self, id: &ResourceId) -> bool {
        self.after.as_ref().is_none_or(|after| id > after) && self.last.as_ref().is_none_or(|last| id <= last)
    }
}

/// The resources here that came by the domain's link, of a range, in order.
pub(crate) fn copies<'v>(
    view: &'v View,
    set: Set,
    prefix: &'v str,
    range: &'v Range,
) -> impl Iterator<Item = ResourceRef<'v>> + use<'v> {
    let first = range.after.as_ref().map(|id| id.resource_type.as_str());
    let last = range.last.as_ref().map(|id| id.resource_type.as_str());
    let types = view.registry().types().map(|def| def.name.as_str());
    let types = types.filter_map(move |here| Some((here, set.there(here)?)));
    let types = types.filter(move |(_, t)| first.is_none_or(|f| *t >= f) && last.is_none_or(|l| *t <= l));
    types.flat_map(move |(here, name)| {
        let after = range.after.as_ref().filter(|id| id.resource_type.as_str() == name);
        let behind = after.map_or_else(|| prefix.to_owned(), |id| format!("{prefix}{}", id.id));
        let last = range.last.as_ref().filter(|id| id.resource_type.as_str() == name).map(|id| &*id.id);
        view.resources(here, Some(&behind))
            .map_while(move |resource| resource.id().strip_prefix(prefix).map(|there| (resource, there)))
            .take_while(move |(_, there)| last.is_none_or(|last| *there <= last))
            .map(|(resource, _)| resource)
            .filter(|resource| resource.linked_from().is_some())
    })
}

/// What a frame may hold.
#[derive(Debug, Clone)]
pub(crate) enum Bounds {
    /// Anything, in any order.
    Any,
    /// All resources of the range as they are, in order: what is here besides is gone.
    Whole(Range),
    /// These, or the first of them, in order.
    Asked(Vec<ResourceId>),
}

/// What is to be written.
pub(crate) struct Batch {
    frame: Arc<Frame>,
    bounds: Bounds,
    /// Copies whose originals are gone, by the ids that those had.
    gone: Vec<ResourceId>,
    /// The frame, read: until the first try to write it.
    incoming: Option<Vec<Incoming>>,
}

impl Batch {
    /// Reads a frame on a thread that may take its time.
    ///
    /// # Errors
    /// [`SyncError::Malformed`] for what is not of its bounds, or fits no model.
    pub(crate) async fn read(run: &Run, frame: Frame, bounds: Bounds) -> Result<Self, SyncError> {
        let mut batch = Self { frame: Arc::new(frame), bounds, gone: Vec::new(), incoming: None };
        batch.incoming = Some(batch.parse(run).await?);
        Ok(batch)
    }

    /// The same, with copies that are to go.
    pub(crate) fn and_gone(mut self, gone: Vec<ResourceId>) -> Self {
        self.gone = gone;
        self
    }

    /// How many resources it tells of.
    pub(crate) fn len(&self) -> u64 {
        self.frame.len() + self.gone.len() as u64
    }

    async fn parse(&self, run: &Run) -> Result<Vec<Incoming>, SyncError> {
        let (frame, bounds, domain) = (self.frame.clone(), self.bounds.clone(), run.domain.clone());
        let registry = run.site.view().registry().clone();
        let set = Set::of(run);
        let work = move || Reader::new(&registry, set, &domain).read(&frame, &bounds);
        tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Cancelled)?
    }

    /// Writes what differs, together with the place: all of it or nothing. `from` is the place that this goes on from.
    ///
    /// # Errors
    /// [`SyncError::Cancelled`] when someone else has moved the place: the link was reset or deleted.
    pub(crate) async fn commit(mut self, run: &Run, from: Option<&str>, place: &Place) -> Result<(), SyncError> {
        let place = place.write();
        let mut conflict = None;
        for _ in 0..TRIES_MAX {
            let incoming = match self.incoming.take() {
                Some(incoming) => incoming,
                None => self.parse(run).await?,
            };
            if run.cursor().as_deref() != from {
                return Err(SyncError::Cancelled);
            }
            let (site, link, prefix) = (run.site.clone(), run.link.resource(), prefix(&run.domain));
            let (bounds, gone, set) = (self.bounds.clone(), self.gone.clone(), Set::of(run));
            let planning = move || {
                let view = site.view();
                let changes = plan(&view, &link, with_gone(&view, set, &prefix, incoming, &bounds, &gone))?;
                let relies_on = relies_on(&view, &changes);
                Ok((changes, relies_on))
            };
            let planned = tokio::task::spawn_blocking(planning).await.map_err(|_| SyncError::Cancelled)?;
            let (mut changes, relies_on) = planned.map_err(|Taken(id)| {
                malformed(format!("{id}, which is here already and did not come by this link: delete or rename it"))
            })?;
            changes.extend(run.cursor_change(&place)?);
            if changes.is_empty() {
                return Ok(());
            }
            match run.site.commit(Commit { author: AUTHOR.into(), changes, relies_on }).await {
                Ok(_) => return Ok(()),
                Err(error @ CommitError::Conflict { .. }) => {
                    conflict = Some(error);
                    let head = run.site.journal().head();
                    // Fails only when the site is going.
                    let _ = run.site.progress().wait_for(|now| now.position >= head || now.is_stopping).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(conflict.map_or(SyncError::Cancelled, SyncError::Commit))
    }
}

/// Moves the place without writing anything else.
///
/// # Errors
/// As [`Batch::commit`].
pub(crate) async fn commit_place(run: &Run, from: Option<&str>, place: &Place) -> Result<(), SyncError> {
    let empty = Frame::default();
    let batch = Batch { frame: Arc::new(empty), bounds: Bounds::Any, gone: Vec::new(), incoming: Some(Vec::new()) };
    batch.commit(run, from, place).await
}

/// Adds what is gone.
fn with_gone(
    view: &View,
    set: Set,
    prefix: &str,
    mut incoming: Vec<Incoming>,
    bounds: &Bounds,
    gone: &[ResourceId],
) -> Vec<Incoming> {
    let mut ids: Vec<ResourceId> = gone.iter().map(|id| linked_id(set, prefix, id)).collect();
    if let Bounds::Whole(range) = bounds {
        let mut here = copies(view, set, prefix, range).peekable();
        if here.peek().is_some() {
            let there: HashSet<(&str, &str)> =
                incoming.iter().map(|one| (one.id.resource_type.as_str(), &*one.id.id)).collect();
            let left = here.filter(|copy| !there.contains(&(copy.resource_type(), copy.id())));
            ids.extend(left.map(|copy| copy.resource_id()));
        }
    }
    incoming.extend(ids.into_iter().map(|id| Incoming { id, present: None }));
    incoming
}

/// Reads lines under the models that are here.
struct Reader<'a> {
    registry: &'a Registry,
    set: Set,
    prefix: String,
    /// The types that were met, with the paths that nobody else may set.
    types: HashMap<&'a str, (&'a Arc<TypeDef>, Vec<String>)>,
}

impl<'a> Reader<'a> {
    fn new(registry: &'a Registry, set: Set, domain: &str) -> Self {
        Self { registry, set, prefix: prefix(domain), types: HashMap::new() }
    }

    fn read(mut self, frame: &Frame, bounds: &Bounds) -> Result<Vec<Incoming>, SyncError> {
        let mut out: Vec<Incoming> = Vec::new();
        let mut before: Option<ResourceId> = None;
        let mut seen: HashSet<ResourceId> = HashSet::new();
        for (i, line) in frame.lines().enumerate() {
            let line = line?;
            let (there, type_def) = self.identity(&line)?;
            let fits = match bounds {
                Bounds::Any => seen.insert(there.clone()),
                Bounds::Whole(range) => {
                    !line.json.is_empty() && range.holds(&there) && before.as_ref().is_none_or(|before| there > *before)
                }
                Bounds::Asked(ids) => ids.get(i) == Some(&there),
            };
            if !fits {
                return Err(malformed(format!("{there} where it has no place")));
            }
            let present = match line.json {
                "" => None,
                json => Some((type_def, self.document(&there, json)?)),
            };
            out.push(Incoming { id: linked_id(self.set, &self.prefix, &there), present });
            before = Some(there);
        }
        Ok(out)
    }

    /// The id there, and the type.
    fn identity(&mut self, line: &Line<'_>) -> Result<(ResourceId, Arc<TypeDef>), SyncError> {
        let type_def = match self.types.get(line.resource_type) {
            Some((type_def, _)) => *type_def,
            None => {
                let known = Some(line.resource_type).filter(|t| self.set.holds(t));
                let known = known.and_then(|t| self.registry.type_def(self.set.here(t)));
                let known = known.ok_or_else(|| {
                    malformed(format!(
                        "a resource of type {:?}",
                        line.resource_type.chars().take(200).collect::<String>()
                    ))
                })?;
                let mut closed = lockstep_site::export::secrets(known);
                closed.push(LINKED_FROM.to_owned());
                let there = self.set.there(known.name.as_str()).unwrap_or_default();
                self.types.insert(there, (known, closed));
                known
            }
        };
        let name = match type_def.name.as_str() == line.resource_type {
            true => type_def.name.clone(),
            false => line.resource_type.into(),
        };
        let there = ResourceId::new(name, line.id);
        there.check().map_err(|e| malformed(format!("a resource of type {}: {e}", type_def.name)))?;
        linked_id(self.set, &self.prefix, &there)
            .check()
            .map_err(|e| malformed(format!("{there}, which cannot be stored with the site's name in front: {e}")))?;
        Ok((there, type_def.clone()))
    }

    fn document(&self, there: &ResourceId, json: &str) -> Result<Document, SyncError> {
        let Some((type_def, closed)) = self.types.get(there.resource_type.as_str()) else {
            return Err(malformed(there.to_string()));
        };
        let document = type_def.read_document(json).map_err(|e| malformed(format!("{there}: {e}")))?;
        if let Some(path) = closed.iter().find(|path| document.get(path).is_some()) {
            return Err(malformed(format!("{there}: property {path}, which is not told")));
        }
        let mut fields = document.into_fields();
        if is_taggable(type_def) {
            // What it is tagged with there is the tagging provider's to say.
            fields.retain(|(name, _)| &**name != TAGS);
        }
        for (name, value) in &mut fields {
            self.relink(value).map_err(|id| malformed(format!("{there}: property {name} points to {id}: too long")))?;
        }
        Ok(Document::new(fields))
    }

    /// Makes references point to what their targets are here; the id that would be too long.
    fn relink(&self, value: &mut Value) -> Result<(), String> {
        match value {
            // Both sites share them.
            Value::Id(id) if matches!(id.resource_type.as_str(), TAG | TAG_CATEGORY) => Ok(()),
            Value::Id(id) => {
                let linked = format!("{}{}", self.prefix, id.id);
                if linked.len() > lockstep_model::ID_BYTES_MAX {
                    return Err(id.to_string());
                }
                id.id = linked.into();
                Ok(())
            }
            Value::List(items) => items.iter_mut().try_for_each(|item| self.relink(item)),
            Value::Struct(fields) => fields.iter_mut().try_for_each(|(_, value)| self.relink(value)),
            Value::Boolean(_) | Value::Long(_) | Value::Double(_) | Value::String(_) => Ok(()),
        }
    }
}
