//! The state of a site at one position, in memory.

use std::cmp::Ordering;
use std::sync::{Arc, OnceLock};

use lockstep_journal::{Change, Commit, Operation, StateEntry};
use lockstep_model::builtin::RESOURCE_MODEL;
use lockstep_model::{Document, Name, Position, Property, Registry, ResourceId, ResourceModel, TypeDef, Value};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::column::{Column, Spot};
use crate::leaf::{At, Store};
use crate::memory::{MemoryReport, TypeMemory};
use crate::node::{Field, Node, declare, infer, set_fields};
use crate::order::Order;
use crate::policy::size;
use crate::space::{Row, Spaces};
use crate::warm;

/// A commit that changes more than this share of a type's resources drops the type's indexes instead of keeping them.
const BULK_SHARE: usize = 4;

/// Fewer changes than this are never bulk.
const BULK_CHANGES: usize = size(1000, 12);

/// The resources of a site as they were at one position, in columns.
///
/// Reading takes `&self`, changing `&mut self`: whoever shares a view puts it behind a lock and applies a commit under
/// it, so that no reader sees half of one. Indexes are built by the first query that needs them, also under `&self`.
#[derive(Debug)]
pub struct View {
    registry: Arc<Registry>,
    position: Position,
    pub(crate) spaces: Spaces,
    /// By the number of the type's space; shorter when the last ones were only referred to.
    pub(crate) tables: Vec<Table>,
}

/// The columns of one type.
#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) fields: Vec<Field>,
    /// Rows by id.
    id_order: OnceLock<Order>,
}

/// A resource as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Its properties, secret ones too.
    pub document: Document,
    /// The commit that created it.
    pub created: Position,
    /// The commit that last changed it.
    pub modified: Position,
}

impl View {
    /// The empty state before the first commit. The registry holds the built-in models; those registered at run time come
    /// with the resources that hold them.
    pub fn new(registry: Registry) -> Self {
        let mut view = Self {
            registry: Arc::new(registry),
            position: Position::ZERO,
            spaces: Spaces::default(),
            tables: Vec::new(),
        };
        let registry = Arc::clone(&view.registry);
        registry.types().for_each(|def| view.declare(def));
        view
    }

    /// The commit up to which the view has come.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Says which position the loaded resources stand for, once all of them are loaded.
    pub fn set_position(&mut self, position: Position) {
        self.position = position;
    }

    /// All models at this position.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Takes a resource of the journal's state. The order does not matter: references may come before their targets, and
    /// resources before the models of their types.
    pub fn load(&mut self, entry: &StateEntry) {
        if entry.id.resource_type.as_str() == RESOURCE_MODEL {
            self.register(&entry.document);
        }
        self.put(&entry.id, &entry.document, entry.created, entry.modified);
    }

    /// Goes one commit further.
    pub fn apply(&mut self, commit: &Commit) {
        let is_model = |change: &&Change| change.id.resource_type.as_str() == RESOURCE_MODEL;
        // Models come before the resources that need them, and go after.
        for change in commit.changes.iter().filter(is_model) {
            match &change.operation {
                Operation::Create(document) => self.register(document),
                Operation::Update(_) | Operation::Delete(_) => {}
            }
        }
        self.drop_indexes_if_bulk(&commit.changes);
        for (nth, change) in commit.changes.iter().enumerate() {
            if nth % warm::CHANGES == 0 && commit.changes.len() >= warm::CHANGES {
                self.warm(&commit.changes[nth..commit.changes.len().min(nth + warm::CHANGES)]);
            }
            match &change.operation {
                Operation::Create(document) => self.put(&change.id, document, commit.position, commit.position),
                Operation::Update(leaves) => {
                    self.update(
                        &change.id,
                        leaves.iter().map(|leaf| (leaf.path.as_str(), leaf.new.as_ref())),
                        commit.position,
                    );
                    if is_model(&change)
                        && let Some(stored) = self.get(&change.id)
                    {
                        self.register(&stored.document);
                    }
                }
                Operation::Delete(_) => self.delete(&change.id),
            }
        }
        for change in commit.changes.iter().filter(is_model) {
            if matches!(change.operation, Operation::Delete(_)) {
                // Built-in models are no resources, so there is nothing that could not be removed.
                let _ = Arc::make_mut(&mut self.registry).remove(&change.id.id);
            }
        }
        self.position = commit.position;
    }

    fn drop_indexes_if_bulk(&mut self, changes: &[Change]) {
        if changes.len() < BULK_CHANGES {
            return;
        }
        let mut by_type: FxHashMap<&str, usize> = FxHashMap::default();
        for change in changes {
            *by_type.entry(change.id.resource_type.as_str()).or_default() += 1;
        }
        for (name, count) in by_type {
            let Some(space) = self.spaces.find_type(name) else { continue };
            if count * BULK_SHARE > self.spaces.get(space).live_count {
                let table = self.table_mut(space);
                table.id_order.take();
                table.fields.iter_mut().for_each(|field| field.node.each_leaf(&mut |leaf| leaf.drop_indexes()));
            }
        }
    }

    /// Takes up the model that a resource of type [`RESOURCE_MODEL`] holds.
    fn register(&mut self, document: &Document) {
        let definition = document.get("definition").and_then(Value::as_str).unwrap_or_default();
        let registered =
            serde_json::from_str::<ResourceModel>(definition).map_err(|e| e.to_string()).and_then(|model| {
                let resource_type = model.resource_type.clone();
                Arc::make_mut(&mut self.registry).register(model).map_err(|e| e.to_string())?;
                Ok(resource_type)
            });
        match registered {
            Ok(resource_type) => {
                if let Some(def) = self.registry.type_def(resource_type.as_str()).cloned() {
                    self.declare(&def);
                }
            }
            // Models are checked before they are committed; one that is refused here was made by another version.
            Err(error) => {
                tracing::error!(%error, "a stored resource model was refused; its paths are unknown to queries")
            }
        }
    }

    fn declare(&mut self, def: &TypeDef) {
        let space = self.spaces.intern_type(&def.name);
        let rows: Vec<Row> = self.spaces.get(space).live.iter().map(|row| Row { space, row }).collect();
        let mut fields = std::mem::take(&mut self.table_mut(space).fields);
        declare(&mut fields, &def.properties, &mut self.spaces, &rows);
        self.table_mut(space).fields = fields;
    }

    fn table_mut(&mut self, space: u32) -> &mut Table {
        if self.tables.len() <= space as usize {
            self.tables.resize_with(space as usize + 1, Table::default);
        }
        &mut self.tables[space as usize]
    }

    fn put(&mut self, id: &ResourceId, document: &Document, created: Position, modified: Position) {
        let is_new = self.spaces.find_live(id).is_none();
        let row = self.spaces.create(id, created, modified);
        self.table_mut(row.space);
        if is_new {
            self.index_id(row);
        }
        let at = At { slot: row.row, owner: row };
        let fields = &mut self.tables[row.space as usize].fields;
        if !set_fields(fields, &at, document.fields(), &mut self.spaces) {
            self.put_undeclared(row, document.fields());
        }
    }

    /// Makes columns for what no model declares (yet), and sets the document again.
    fn put_undeclared(&mut self, row: Row, values: &[(Name, Value)]) {
        let declared = self.registry.type_def(self.spaces.get(row.space).name.as_str());
        let unknown = |name: &Name| declared.is_none_or(|def| !def.properties.iter().any(|p| p.name == *name));
        let mut fields = std::mem::take(&mut self.tables[row.space as usize].fields);
        let mut inferred: Vec<Property> = fields.iter().map(|field| field.describe(&self.spaces)).collect();
        for (name, value) in values.iter().filter(|(name, _)| unknown(name)) {
            let property = infer(&fields, name, value, &self.spaces);
            match inferred.iter_mut().find(|p| p.name == *name) {
                Some(known) => *known = property,
                None => inferred.push(property),
            }
        }
        let rows: Vec<Row> = self.spaces.get(row.space).live.iter().map(|r| Row { space: row.space, row: r }).collect();
        declare(&mut fields, &inferred, &mut self.spaces, &rows);
        if !set_fields(&mut fields, &At { slot: row.row, owner: row }, values, &mut self.spaces) {
            tracing::error!(id = ?self.spaces.id(row), "a stored resource does not fit its model; what does not fit is not shown");
        }
        self.tables[row.space as usize].fields = fields;
    }

    fn update<'a>(
        &mut self,
        id: &ResourceId,
        leaves: impl Iterator<Item = (&'a str, Option<&'a Value>)>,
        position: Position,
    ) {
        let Some(row) = self.spaces.find_live(id) else { return };
        let at = At { slot: row.row, owner: row };
        let mut undeclared = None;
        for (path, value) in leaves {
            let fields = &mut self.tables[row.space as usize].fields;
            let taken = match find_mut(fields, path) {
                Some(node) => node.set(&at, value, &mut self.spaces),
                None => value.is_none(),
            };
            if !taken {
                undeclared.get_or_insert_with(Vec::new).push((path, value));
            }
        }
        if let Some(undeclared) = undeclared {
            let mut document = self.document(row);
            undeclared.into_iter().for_each(|(path, value)| document.set(path, value.cloned()));
            self.put_undeclared(row, document.fields());
        }
        self.spaces.get_mut(row.space).set_modified(row.row, position);
    }

    fn delete(&mut self, id: &ResourceId) {
        let Some(row) = self.spaces.find_live(id) else { return };
        set_fields(
            &mut self.tables[row.space as usize].fields,
            &At { slot: row.row, owner: row },
            &[],
            &mut self.spaces,
        );
        let space = self.spaces.get(row.space);
        if let Some(order) = self.tables[row.space as usize].id_order.get_mut() {
            order.remove(row.row, |other| space.id(other).cmp(space.id(row.row)));
        }
        self.spaces.delete(row);
    }

    fn index_id(&mut self, row: Row) {
        let space = self.spaces.get(row.space);
        if let Some(order) = self.tables[row.space as usize].id_order.get_mut() {
            order.insert(row.row, |other| space.id(other).cmp(space.id(row.row)));
        }
    }

    /// The rows of a type by id.
    pub(crate) fn id_order(&self, space: u32) -> Option<&Order> {
        let table = self.tables.get(space as usize)?;
        Some(table.id_order.get_or_init(|| {
            let space = self.spaces.get(space);
            let mut rows: Vec<(u128, u32)> =
                space.live.iter().map(|row| (crate::leaf::text_key(space.id(row)), row)).collect();
            rows.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| space.id(a.1).cmp(space.id(b.1))));
            Order::build(&rows.into_iter().map(|(_, row)| row).collect::<Vec<_>>())
        }))
    }

    pub(crate) fn id_built(&self, space: u32) -> bool {
        self.tables.get(space as usize).is_some_and(|t| t.id_order.get().is_some())
    }

    pub(crate) fn fields(&self, space: u32) -> &[Field] {
        self.tables.get(space as usize).map_or(&[], |t| &t.fields)
    }

    fn document(&self, row: Row) -> Document {
        let fields = self.fields(row.space).iter();
        let values =
            fields.filter_map(|f| Some((f.name.clone(), f.node.value(row.row, &self.spaces, true)?.to_value())));
        Document::new(values.collect())
    }

    /// A resource, as it was stored.
    pub fn get(&self, id: &ResourceId) -> Option<Stored> {
        let row = self.spaces.find_live(id)?;
        let space = self.spaces.get(row.space);
        Some(Stored {
            document: self.document(row),
            created: space.created(row.row),
            modified: space.modified(row.row),
        })
    }

    /// The commit that last changed a resource; `None` when it does not exist.
    pub fn modified(&self, id: &ResourceId) -> Option<Position> {
        let row = self.spaces.find_live(id)?;
        Some(self.spaces.get(row.space).modified(row.row))
    }

    /// The commits that created and last changed a resource; `None` when it does not exist.
    pub fn lifetime(&self, id: &ResourceId) -> Option<(Position, Position)> {
        let row = self.spaces.find_live(id)?;
        let space = self.spaces.get(row.space);
        Some((space.created(row.row), space.modified(row.row)))
    }

    /// The resources that were created or changed after a position, in no order. Looks at every resource: some milliseconds
    /// for a million.
    pub fn changed_since(&self, after: Position) -> impl Iterator<Item = ResourceId> + '_ {
        let spaces = self.registry.types().filter_map(|def| self.spaces.find_type(def.name.as_str()));
        spaces.flat_map(move |space| {
            let rows = self.spaces.get(space);
            let changed = rows.live.iter().filter(move |row| rows.modified(*row) > after);
            changed.map(move |row| self.spaces.id(Row { space, row }))
        })
    }

    /// How many resources of a type there are.
    pub fn count(&self, resource_type: &str) -> usize {
        self.spaces.find_type(resource_type).map_or(0, |space| self.spaces.get(space).live_count)
    }

    /// The resources of a type in the order of their ids, those after `after` only.
    pub fn ids(&self, resource_type: &str, after: Option<&str>) -> impl Iterator<Item = ResourceId> + '_ {
        let rows = self.spaces.find_type(resource_type).and_then(|space| {
            let (order, ids) = (self.id_order(space)?, self.spaces.get(space));
            let from = order.place(|row| after.is_some_and(|after| ids.id(row) <= after));
            Some(order.rows(from, order.end()).map(move |row| self.spaces.id(Row { space, row })))
        });
        rows.into_iter().flatten()
    }

    /// What a resource is part of: the nearest first, up to the root. The parent is what the first property that is set,
    /// of those that the model declares to be the parent, points to, whether that exists or not. A circle ends where it
    /// closes.
    pub fn parents(&self, id: &ResourceId) -> Vec<ResourceId> {
        let mut seen = FxHashSet::default();
        let mut parents = Vec::new();
        let mut at = self.spaces.find_live(id);
        while let Some(row) = at
            && seen.insert(row)
        {
            at = self.parent(row).filter(|parent| !seen.contains(parent));
            parents.extend(at.map(|parent| self.spaces.id(parent)));
        }
        parents
    }

    /// The resource that a property at the top of a resource's document points to, whether that exists or not.
    pub fn reference(&self, id: &ResourceId, property: &str) -> Option<ResourceId> {
        let row = self.spaces.find_live(id)?;
        let target = ids_at(self.fields(row.space), property)?.get(row.row)?;
        Some(self.spaces.id(target))
    }

    fn parent(&self, row: Row) -> Option<Row> {
        let def = self.registry.type_def(self.spaces.get(row.space).name.as_str())?;
        let fields = self.fields(row.space);
        def.parent_properties().find_map(|property| ids_at(fields, &property.name)?.get(row.row))
    }

    /// The resources whose parent it is, in the order of their types and ids.
    pub fn children(&self, id: &ResourceId) -> Vec<ResourceId> {
        let Some(row) = self.spaces.find(id) else { return Vec::new() };
        let mut children = Vec::new();
        for def in self.registry.types() {
            let Some(space) = self.spaces.find_type(def.name.as_str()) else { continue };
            let mut rows = FxHashSet::default();
            for property in def.parent_properties() {
                if let Some(column) =
                    Spot::find(self.fields(space), std::slice::from_ref(&property.name)).and_then(Spot::column)
                {
                    self.referrers(&column, space, row, &mut |child| {
                        if self.parent(Row { space, row: child }) == Some(row) {
                            rows.insert(child);
                        }
                    });
                }
            }
            children.extend(rows.into_iter().map(|row| self.spaces.id(Row { space, row })));
        }
        children.sort();
        children
    }

    /// The resources of a type whose `property`, at the top of the document, is or lists the identifier of `target`, whether that exists
    /// or not: each once, in the order of their ids. The first call for a property builds its index.
    pub fn referring(&self, resource_type: &str, property: &str, target: &ResourceId) -> Vec<ResourceId> {
        let found = self.spaces.find_type(resource_type).zip(self.spaces.find(target));
        let Some((space, target)) = found else { return Vec::new() };
        let spot = Spot::find(self.fields(space), &[Name::from(property)]);
        let Some(column) = spot.and_then(Spot::column) else { return Vec::new() };
        let mut rows = Vec::new();
        self.referrers(&column, space, target, &mut |row| rows.push(row));
        let mut ids: Vec<ResourceId> = rows.into_iter().map(|row| self.spaces.id(Row { space, row })).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Calls back for the rows of `space` whose column of identifiers holds `target`.
    pub(crate) fn referrers(&self, column: &Column<'_>, space: u32, target: Row, each: &mut dyn FnMut(u32)) {
        if let Store::Id(ids) = &column.leaf.store
            && let Some(code) = ids.code_of(target)
        {
            column.postings(self, space).get(code).each(each);
        }
    }

    /// How much memory the view takes.
    pub fn memory(&self) -> MemoryReport {
        let types = self.spaces.all().map(|(at, space)| {
            let (ids, rows) = space.bytes();
            let mut out = TypeMemory {
                resource_type: space.name.to_string(),
                resources: space.live_count,
                ids: ids + rows,
                ..TypeMemory::default()
            };
            for field in self.fields(at) {
                let (texts, values, indexes) = field.node.bytes();
                out.texts += texts;
                out.values += values;
                out.indexes += indexes;
            }
            out.indexes += self.tables.get(at as usize).and_then(|t| t.id_order.get()).map_or(0, Order::bytes);
            out
        });
        MemoryReport { types: types.filter(|t| t.resources > 0).collect() }
    }

    pub(crate) fn compare_ids(&self, a: Row, b: Row) -> Ordering {
        let (of_a, of_b) = (self.spaces.get(a.space), self.spaces.get(b.space));
        of_a.name.cmp(&of_b.name).then_with(|| of_a.id(a.row).cmp(of_b.id(b.row)))
    }
}

fn ids_at<'v>(fields: &'v [Field], name: &str) -> Option<&'v crate::ids::Ids> {
    match &fields.iter().find(|f| &*f.name == name)?.node {
        Node::Leaf(leaf) => match &leaf.store {
            Store::Id(ids) => Some(ids),
            _ => None,
        },
        _ => None,
    }
}

fn find_mut<'a>(fields: &'a mut [Field], path: &str) -> Option<&'a mut Node> {
    let (name, rest) = path.split_once('/').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let node = &mut fields.iter_mut().find(|f| &*f.name == name)?.node;
    match (rest, node) {
        (None, node) => Some(node),
        (Some(rest), Node::Struct(fields)) => find_mut(fields, rest),
        (Some(_), Node::Leaf(_) | Node::List(_)) => None,
    }
}
