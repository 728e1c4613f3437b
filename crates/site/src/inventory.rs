//! Writes of resources: from what a caller wants to a batch that the journal can refuse.
//!
//! A write reads the resource as it is, works out the leaves that change, and commits them on the condition that the resource is
//! still as it was read. When it is not, it tries again on what it finds, unless the caller said what to expect.
//!
//! # What goes along with a tag
//! A tag that is deleted, by itself or with its category, is taken off whatever it is attached to in the same commit. The tag itself does
//! not change when it is attached, so preconditions alone would not tell of an attachment that is made meanwhile: whoever attaches
//! tags holds [`Site::tagging`] for reading from its look to its commit, and a deletion of tags holds it alone. A reference to a tag that
//! does not exist can still come by an import or by a plain write; as everywhere, a reference need not have a target.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use lockstep_contract::{Error, ErrorKind};
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::{
    COLLECTED_BY, Document, IdError, LINKED_FROM, LeafPath, Misfit, Position, ResourceId, TypeDef, Value, builtin,
};
use lockstep_query::View;

use crate::{Site, stamps};

/// Tries before a write gives up against others that keep changing the same resource.
const TRIES_MAX: usize = 16;

/// Most resources that one deletion may delete, and take tags off.
pub const CASCADE_MAX: usize = 100_000;

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The position of the commit, or of the resource's last change when there was nothing to change.
    pub position: Position,
    /// Whether anything changed.
    pub changed: bool,
}

/// Why a write was refused. Nothing changed then.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WriteError {
    /// No such resource type.
    #[error("no resource type {0}")]
    UnknownType(String),
    /// The type or id cannot be stored.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The properties do not fit the type's models.
    #[error(transparent)]
    Misfit(#[from] Misfit),
    /// The resource exists.
    #[error("{0} exists")]
    Exists(ResourceId),
    /// The resource does not exist.
    #[error("no {0}")]
    NotFound(ResourceId),
    /// The resource is not at the position that the caller expects.
    #[error("{id} was last changed at position {found}, not {expected}")]
    Changed {
        /// The resource.
        id: ResourceId,
        /// What the caller expects; 0 for a resource that does not exist.
        expected: Position,
        /// Where it was last changed; 0 when it does not exist.
        found: Position,
    },
    /// Others kept changing the resource.
    #[error("{0} is changed by others all the time")]
    Contended(ResourceId),
    /// Resources stand below the one to be deleted.
    #[error("{id} has {children} children: delete them first, or ask for a cascade")]
    HasChildren {
        /// The resource.
        id: ResourceId,
        /// How many stand right below it.
        children: usize,
    },
    /// More than [`CASCADE_MAX`] resources stand below, or have the tags that would go.
    #[error("more than {CASCADE_MAX} resources stand below {0} or are tagged with it: delete or detach them in parts")]
    CascadeTooLarge(ResourceId),
    /// The resource is a copy of another site's, which only its link changes.
    #[error("{id} is read-only here: it came by the link {link}; change it at its own site")]
    Linked {
        /// The resource.
        id: ResourceId,
        /// The link.
        link: Box<str>,
    },
    /// A link is said to be where a resource comes from, by someone else than the link.
    #[error("{LINKED_FROM} of {0} cannot be set: links alone set it, on what they copy")]
    LinkedFrom(ResourceId),
    /// The resource is kept by a collector, which alone deletes it.
    #[error("{id} is kept by the collector {collector}: delete it at its source, or delete the collector")]
    Collected {
        /// The resource.
        id: ResourceId,
        /// The collector.
        collector: Box<str>,
    },
    /// A collector is said to keep a resource, by someone else than the collector.
    #[error("{COLLECTED_BY} of {0} cannot be set: collectors alone set it, on what they keep")]
    CollectedBy(ResourceId),
    /// The journal refuses.
    #[error(transparent)]
    Commit(CommitError),
}

impl WriteError {
    /// The error of the contract.
    pub fn into_error(self) -> Error {
        let text = self.to_string();
        match self {
            Self::UnknownType(name) => {
                Error::invalid_argument("lockstep.resources.type", "type", &format!("no resource type {name}"))
            }
            Self::Id(error) => {
                let place = match &error {
                    IdError::Empty(part) | IdError::TooLong(part) | IdError::Control(part) => part,
                };
                Error::invalid_argument("lockstep.resources.id", place, &text)
            }
            Self::Misfit(misfit) => {
                let place = if misfit.path.is_empty() {
                    "properties".to_owned()
                } else {
                    format!("properties.{}", misfit.path)
                };
                Error::invalid_argument("lockstep.resources.property", &place, &misfit.reason.to_string())
            }
            Self::Exists(id) => Error::new(ErrorKind::AlreadyExists, "lockstep.resources.exists", text, id_args(&id)),
            Self::NotFound(id) => Error::not_found("lockstep.resources.not_found", text, id_args(&id)),
            Self::Changed { id, expected, found } => {
                let args = [id_args(&id), vec![expected.to_string(), found.to_string()]].concat();
                Error::new(ErrorKind::ConcurrentChange, "lockstep.resources.changed", text, args)
            }
            Self::Contended(id) => {
                Error::new(ErrorKind::ConcurrentChange, "lockstep.resources.contended", text, id_args(&id))
            }
            Self::HasChildren { id, children } => {
                let args = [id_args(&id), vec![children.to_string()]].concat();
                Error::new(ErrorKind::ResourceInUse, "lockstep.resources.children", text, args)
            }
            Self::CascadeTooLarge(id) => {
                Error::new(ErrorKind::ResourceInUse, "lockstep.resources.cascade", text, id_args(&id))
            }
            Self::Linked { id, link } => {
                let args = [id_args(&id), vec![link.into()]].concat();
                Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.resources.linked", text, args)
            }
            Self::LinkedFrom(_) => {
                let place = format!("properties.{LINKED_FROM}");
                Error::invalid_argument("lockstep.resources.linked_from", &place, &text)
            }
            Self::Collected { id, collector } => {
                let args = [id_args(&id), vec![collector.into()]].concat();
                Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.resources.collected", text, args)
            }
            Self::CollectedBy(_) => {
                let place = format!("properties.{COLLECTED_BY}");
                Error::invalid_argument("lockstep.resources.collected_by", &place, &text)
            }
            Self::Commit(error) => commit_error(&error),
        }
    }
}

/// Whether anyone but a link may write the resource.
pub(crate) fn demand_own(view: &View, id: &ResourceId) -> Result<(), WriteError> {
    match view.find(id).and_then(|resource| resource.linked_from()) {
        Some(link) => Err(WriteError::Linked { id: id.clone(), link: link.into() }),
        None => Ok(()),
    }
}

/// Whether anyone but a link may give a resource these properties.
pub(crate) fn demand_unlinked(id: &ResourceId, document: &Document) -> Result<(), WriteError> {
    match document.get(LINKED_FROM) {
        Some(_) => Err(WriteError::LinkedFrom(id.clone())),
        None => Ok(()),
    }
}

/// Whether anyone but a collector may delete the resource. One whose collector is gone is everybody's.
fn demand_uncollected(view: &View, id: &ResourceId) -> Result<(), WriteError> {
    match collector_of(view, id).filter(|collector| view.modified(collector).is_some()) {
        Some(collector) => Err(WriteError::Collected { id: id.clone(), collector: collector.id }),
        None => Ok(()),
    }
}

/// The collector that a resource says it is kept by, whether that exists or not.
pub(crate) fn collector_of(view: &View, id: &ResourceId) -> Option<ResourceId> {
    view.reference(id, COLLECTED_BY)
}

/// Lets a resource say, after a write by someone else than its collector, what it said of that before.
///
/// # Errors
/// [`WriteError::CollectedBy`] when the writer wants something else.
pub(crate) fn keep_collector(view: &View, id: &ResourceId, document: &mut Document) -> Result<(), WriteError> {
    let before = collector_of(view, id).map(Value::from);
    match document.get(COLLECTED_BY) {
        Some(wanted) if Some(wanted) != before.as_ref() => Err(WriteError::CollectedBy(id.clone())),
        _ => {
            document.set(COLLECTED_BY, before);
            Ok(())
        }
    }
}

fn id_args(id: &ResourceId) -> Vec<String> {
    vec![id.resource_type.to_string(), id.id.to_string()]
}

/// The error of the contract for a batch that the journal refused for its own reasons.
pub fn commit_error(error: &CommitError) -> Error {
    let text = error.to_string();
    match error {
        CommitError::Conflict { id, .. } => {
            Error::new(ErrorKind::ConcurrentChange, "lockstep.resources.contended", text, id_args(id))
        }
        CommitError::TooLarge { .. } => Error::invalid_argument("lockstep.journal.too_large", "", &text),
        CommitError::Full => {
            tracing::error!("no space left for the journal");
            Error::new(ErrorKind::UnableToAllocateResource, "lockstep.journal.full", text, Vec::new())
        }
        CommitError::Closed => {
            Error::new(ErrorKind::ServiceUnavailable, "lockstep.journal.closed", "the server is stopping", Vec::new())
        }
        CommitError::Poisoned(_) | CommitError::Malformed(_) => {
            tracing::error!(%error, "the journal refuses a batch");
            Error::new(
                ErrorKind::ServiceUnavailable,
                "lockstep.journal.failed",
                "the journal refuses writes; the log says why",
                Vec::new(),
            )
        }
    }
}

/// The type `name` as the view has it.
pub(crate) fn type_def(view: &View, name: &str) -> Result<Arc<TypeDef>, WriteError> {
    view.registry().type_def(name).cloned().ok_or_else(|| WriteError::UnknownType(name.to_owned()))
}

/// Works out parents, and remembers them by the nearest one: siblings share them.
pub(crate) struct ParentCache<'a> {
    by_nearest: HashMap<ResourceId, Arc<[ResourceId]>>,
    not_in_view: NotInView<'a>,
}

/// The nearest parent, if it has one, of a resource that the view does not have yet or not like that.
type NotInView<'a> = Box<dyn Fn(&ResourceId) -> Option<Option<ResourceId>> + 'a>;

/// Longest way from a resource to its root; what goes on is left out. Only a cycle is as long.
const PARENTS_MAX: usize = 64;

impl<'a> ParentCache<'a> {
    /// With what `not_in_view` knows better than the view.
    pub(crate) fn new(not_in_view: impl Fn(&ResourceId) -> Option<Option<ResourceId>> + 'a) -> Self {
        Self { by_nearest: HashMap::new(), not_in_view: Box::new(not_in_view) }
    }

    /// The parents that a resource with this document has, the nearest first.
    pub(crate) fn parents(&mut self, view: &View, type_def: &TypeDef, document: &Document) -> Arc<[ResourceId]> {
        let Some(nearest) = nearest_parent(type_def, document) else { return Arc::from([]) };
        if let Some(known) = self.by_nearest.get(nearest) {
            return known.clone();
        }
        let mut chain = vec![nearest.clone()];
        while let Some(last) = chain.last().filter(|_| chain.len() < PARENTS_MAX) {
            match (self.not_in_view)(last) {
                Some(Some(next)) if !chain.contains(&next) => chain.push(next),
                Some(_) => break,
                None => {
                    let above = view.parents(last);
                    chain.extend(above);
                    break;
                }
            }
        }
        let parents: Arc<[ResourceId]> = chain.into();
        self.by_nearest.insert(nearest.clone(), parents.clone());
        parents
    }
}

/// The first of a type's parent properties that is set.
pub(crate) fn nearest_parent<'d>(type_def: &TypeDef, document: &'d Document) -> Option<&'d ResourceId> {
    type_def.parent_properties().find_map(|p| match document.get(&p.name) {
        Some(Value::Id(id)) => Some(&**id),
        _ => None,
    })
}

/// The change that takes a resource from what is stored to `document`; `None` when there is nothing to change.
pub(crate) fn change_to(
    view: &View,
    id: ResourceId,
    document: Document,
    parents: Arc<[ResourceId]>,
) -> Option<(Change, Expect)> {
    match view.get(&id) {
        None => Some((Change { id, operation: Operation::Create(document), parents }, Expect::Absent)),
        Some(stored) => {
            let leaves = stored.document.diff(&document);
            let expect = Expect::At(stored.modified);
            (!leaves.is_empty()).then_some((Change { id, operation: Operation::Update(leaves), parents }, expect))
        }
    }
}

/// The change that gives an existing resource the properties of `document`, for services that change several resources in one commit;
/// `None` when there is nothing to change.
///
/// # Errors
/// [`WriteError::NotFound`] for a resource that does not exist, [`WriteError::UnknownType`].
pub fn update(view: &View, id: &ResourceId, document: Document) -> Result<Option<(Change, Expect)>, WriteError> {
    demand_own(view, id)?;
    if view.modified(id).is_none() {
        return Err(WriteError::NotFound(id.clone()));
    }
    put(view, id.clone(), document)
}

/// The change that makes a resource have the properties of `document`, whether it exists or not: for services that check by
/// themselves who may. `None` when there is nothing to change.
///
/// # Errors
/// [`WriteError::UnknownType`].
pub fn put(view: &View, id: ResourceId, document: Document) -> Result<Option<(Change, Expect)>, WriteError> {
    let type_def = type_def(view, id.resource_type.as_str())?;
    let parents = ParentCache::new(|_| None).parents(view, &type_def, &document);
    Ok(change_to(view, id, document, parents))
}

/// The change that gives an object this list of tags; `None` when it does not exist or has it. Copies of other sites' resources are
/// tagged as any.
pub fn update_tags(view: &View, id: &ResourceId, tags: &[ResourceId]) -> Option<(Change, Expect)> {
    let mut document = view.get(id)?.document;
    stamps::set_list(&mut document, tags);
    change_to(view, id.clone(), document, view.parents(id).into())
}

/// What a write comes to.
struct Plan {
    /// `None` when there is nothing to change.
    change: Option<(Change, Expect)>,
    /// Where the resource was last changed; `None` when it does not exist.
    found: Option<Position>,
}

/// What a write is to do with one resource.
enum Want<'a> {
    Create(&'a Document),
    Put(&'a Document),
    Patch(&'a [(LeafPath, Option<Value>)]),
}

impl Site {
    /// Creates a resource.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn create_resource(
        &self,
        author: Arc<str>,
        id: ResourceId,
        properties: &str,
    ) -> Result<Written, WriteError> {
        let document = self.read_properties(&id, properties)?;
        self.write(author, &id, &Want::Create(&document), None).await
    }

    /// Gives a resource these properties and no others; creates it when it does not exist.
    ///
    /// # Errors
    /// [`WriteError`]; [`WriteError::Changed`] unless it was last changed at `expected` (0: does not exist).
    pub async fn replace_resource(
        &self,
        author: Arc<str>,
        id: ResourceId,
        properties: &str,
        expected: Option<Position>,
    ) -> Result<Written, WriteError> {
        let document = self.read_properties(&id, properties)?;
        self.write_document(author, id, document, expected).await
    }

    /// As [`Site::create_resource`], with a document that fits its type: for services that write resources of their own.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn create_document(
        &self,
        author: Arc<str>,
        id: ResourceId,
        document: &Document,
    ) -> Result<Written, WriteError> {
        self.write(author, &id, &Want::Create(document), None).await
    }

    /// As [`Site::replace_resource`], with a document that fits its type: for services that write resources of their own.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn write_document(
        &self,
        author: Arc<str>,
        id: ResourceId,
        document: Document,
        expected: Option<Position>,
    ) -> Result<Written, WriteError> {
        self.write(author, &id, &Want::Put(&document), expected).await
    }

    /// Changes the properties at these paths; `null` unsets.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn patch_resource(
        &self,
        author: Arc<str>,
        id: ResourceId,
        properties: &[(String, String)],
        expected: Option<Position>,
    ) -> Result<Written, WriteError> {
        id.check()?;
        let type_def = type_def(&self.view(), id.resource_type.as_str())?;
        let read = |(path, json): &(String, String)| {
            let path = LeafPath::new(&**path);
            type_def.read_value(&path, json).map(|value| (path, value))
        };
        let values: Vec<_> = properties.iter().map(read).collect::<Result<_, _>>()?;
        self.write(author, &id, &Want::Patch(&values), expected).await
    }

    /// Deletes a resource, with all below it when `cascade`. Tags that go are taken off what they are attached to.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn delete_resource(
        &self,
        author: Arc<str>,
        id: ResourceId,
        expected: Option<Position>,
        cascade: bool,
    ) -> Result<Written, WriteError> {
        let _alone = match id.resource_type.as_str() {
            builtin::TAG | builtin::TAG_CATEGORY => Some(self.tagging.write().await),
            _ => None,
        };
        for _ in 0..TRIES_MAX {
            let changes = {
                let view = self.view();
                let found = view.modified(&id).ok_or_else(|| WriteError::NotFound(id.clone()))?;
                demand(&id, expected, Some(found))?;
                deletions(&view, &id, cascade)?
            };
            let batch = Batch { author: author.clone(), changes, relies_on: Vec::new() };
            match self.commit(batch).await {
                Ok(position) => return Ok(Written { position, changed: true }),
                Err(CommitError::Conflict { .. }) => self.catch_up().await,
                Err(error) => return Err(WriteError::Commit(error)),
            }
        }
        Err(WriteError::Contended(id))
    }

    fn read_properties(&self, id: &ResourceId, properties: &str) -> Result<Document, WriteError> {
        id.check()?;
        let type_def = type_def(&self.view(), id.resource_type.as_str())?;
        Ok(type_def.read_document(properties)?)
    }

    async fn write(
        &self,
        author: Arc<str>,
        id: &ResourceId,
        want: &Want<'_>,
        expected: Option<Position>,
    ) -> Result<Written, WriteError> {
        for _ in 0..TRIES_MAX {
            let Plan { change, found } = self.plan(id, want, expected)?;
            let Some(change) = change else {
                return Ok(Written { position: found.unwrap_or_default(), changed: false });
            };
            let batch = Batch { author: author.clone(), changes: vec![change], relies_on: Vec::new() };
            match self.commit(batch).await {
                Ok(position) => return Ok(Written { position, changed: true }),
                Err(CommitError::Conflict { .. }) => self.catch_up().await,
                Err(error) => return Err(WriteError::Commit(error)),
            }
        }
        Err(WriteError::Contended(id.clone()))
    }

    /// The change that `want` means for what is stored, and where that was last changed.
    fn plan(&self, id: &ResourceId, want: &Want<'_>, expected: Option<Position>) -> Result<Plan, WriteError> {
        let view = self.view();
        let type_def = type_def(&view, id.resource_type.as_str())?;
        let found = view.modified(id);
        demand(id, expected, found)?;
        demand_own(&view, id)?;
        let mut document = match want {
            Want::Create(_) if found.is_some() => return Err(WriteError::Exists(id.clone())),
            Want::Create(document) | Want::Put(document) => (*document).clone(),
            Want::Patch(values) => {
                let mut document = view.get(id).ok_or_else(|| WriteError::NotFound(id.clone()))?.document;
                values.iter().for_each(|(path, value)| document.set(path.as_str(), value.clone()));
                document
            }
        };
        demand_unlinked(id, &document)?;
        keep_collector(&view, id, &mut document)?;
        let parents = ParentCache::new(|_| None).parents(&view, &type_def, &document);
        Ok(Plan { change: change_to(&view, id.clone(), document, parents), found })
    }

    /// Waits until the view has everything that the journal has: whoever lost a race looks at what the winner wrote.
    pub async fn catch_up(&self) {
        // Fails only when the site is going; the next try says so.
        let _ = self.reach(self.journal().head()).await;
    }
}

fn demand(id: &ResourceId, expected: Option<Position>, found: Option<Position>) -> Result<(), WriteError> {
    match expected {
        Some(expected) if found.unwrap_or_default() != expected => {
            Err(WriteError::Changed { id: id.clone(), expected, found: found.unwrap_or_default() })
        }
        _ => Ok(()),
    }
}

/// The deletions of a resource and, in a cascade, of what is below it: children first. Tags that go are taken off what stays.
///
/// # Errors
/// [`WriteError`].
pub fn deletions(view: &View, id: &ResourceId, cascade: bool) -> Result<Vec<(Change, Expect)>, WriteError> {
    let children = view.children(id);
    if !children.is_empty() && !cascade {
        return Err(WriteError::HasChildren { id: id.clone(), children: children.len() });
    }
    // Level by level from the top; deleted in the reverse order.
    let mut order = vec![id.clone()];
    let mut seen: HashSet<ResourceId> = order.iter().cloned().collect();
    let mut next = 0;
    while let Some(parent) = order.get(next).cloned() {
        next += 1;
        for child in view.children(&parent) {
            if seen.insert(child.clone()) {
                order.push(child);
            }
        }
        if order.len() > CASCADE_MAX {
            return Err(WriteError::CascadeTooLarge(id.clone()));
        }
    }
    order.iter().try_for_each(|id| demand_own(view, id).and_then(|()| demand_uncollected(view, id)))?;
    let mut changes = take_off(view, id, &order, &seen)?;
    let delete = |id: ResourceId| {
        let stored = view.get(&id)?;
        let parents = view.parents(&id).into();
        Some((Change { id, operation: Operation::Delete(stored.document), parents }, Expect::At(stored.modified)))
    };
    changes.extend(order.into_iter().rev().filter_map(delete));
    Ok(changes)
}

/// The changes that take the tags among `deleted`, which are all of `gone`, off what stays.
fn take_off(
    view: &View,
    id: &ResourceId,
    deleted: &[ResourceId],
    gone: &HashSet<ResourceId>,
) -> Result<Vec<(Change, Expect)>, WriteError> {
    let tags: Vec<&ResourceId> = deleted.iter().filter(|id| id.resource_type.as_str() == builtin::TAG).collect();
    if tags.is_empty() {
        return Ok(Vec::new());
    }
    let taggable = view.registry().types().filter(|type_def| builtin::is_taggable(type_def));
    let mut tagged: Vec<ResourceId> = taggable
        .flat_map(|type_def| tags.iter().flat_map(|tag| view.referring(type_def.name.as_str(), builtin::TAGS, tag)))
        .filter(|object| !gone.contains(object))
        .collect();
    tagged.sort_unstable();
    tagged.dedup();
    if deleted.len() + tagged.len() > CASCADE_MAX {
        return Err(WriteError::CascadeTooLarge(id.clone()));
    }
    let mut changes = Vec::with_capacity(tagged.len() + deleted.len());
    for object in tagged {
        let Some(document) = view.get(&object).map(|stored| stored.document) else { continue };
        let mut left = stamps::listed(&document);
        left.retain(|tag| !gone.contains(tag));
        changes.extend(update_tags(view, &object, &left));
    }
    Ok(changes)
}
