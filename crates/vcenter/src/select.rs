//! Lists: which resources a filter leaves, and what is shown of them.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{Document, ResourceId, Value};
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, ValueRef, View,
};

/// Most values of one member of a filter: as many as the longest list has.
const VALUES_MAX: usize = 4000;

/// A member of a filter.
pub(crate) type Member<T> = Option<Vec<T>>;

type Check<'s> = Box<dyn Fn(&Row<'_>) -> bool + 's>;

/// A list under construction: all resources of a type, and fewer with every condition.
pub(crate) struct Selection<'s> {
    view: &'s View,
    resource_type: &'static str,
    limit: usize,
    paths: Vec<String>,
    filters: Vec<FilterSpec>,
    /// What the query cannot say.
    checks: Vec<Check<'s>>,
    /// A condition that no resource can meet.
    is_empty: bool,
    too_many: Option<&'static str>,
}

/// One resource of a list.
pub(crate) struct Row<'v> {
    /// Its id.
    pub(crate) id: &'v str,
    resource_type: &'static str,
    values: Vec<(&'v str, ValueRef<'v>)>,
}

impl<'s> Selection<'s> {
    /// All resources of a type, with the values at these paths (`name`); more than `limit` of them are refused.
    pub(crate) fn new(view: &'s View, resource_type: &'static str, limit: usize, paths: &[&str]) -> Self {
        let paths = paths.iter().map(|path| format!("{resource_type}/{path}")).collect();
        let filters = vec![FilterSpec::Type(resource_type.to_owned())];
        Self { view, resource_type, limit, paths, filters, checks: Vec::new(), is_empty: false, too_many: None }
    }

    /// Those with one of these ids; `place` is the member that says so, here and below.
    pub(crate) fn ids(self, place: &'static str, ids: &Member<String>) -> Self {
        let resource_type = self.resource_type;
        self.any(place, ids, |id| FilterSpec::Id(ResourceId::new(resource_type, &**id)))
    }

    /// Those with one of these names, to the letter.
    pub(crate) fn names(self, names: &'s Member<String>) -> Self {
        let property = format!("{}/name", self.resource_type);
        let narrowed = self.any("filter.names", names, |name| {
            let comparable = Comparable::String(name.clone());
            FilterSpec::Property(PropertyFilter { property: property.clone(), operator: Operator::Equal, comparable })
        });
        // A query may compare names by other rules than to the letter.
        match given(names) {
            Some(names) => {
                let names: HashSet<&str> = names.iter().map(String::as_str).collect();
                narrowed.check(move |row| row.text("name").is_some_and(|name| names.contains(name)))
            }
            None => narrowed,
        }
    }

    /// Those whose property or relation at `path` points to one of the resources of type `target` with these ids.
    pub(crate) fn pointing(
        mut self,
        place: &'static str,
        path: &str,
        target: &'static str,
        ids: &Member<String>,
    ) -> Self {
        if given(ids).is_none() {
            return self;
        }
        let path = format!("{}/{path}", self.resource_type);
        if !path.parse().is_ok_and(|path| self.view.registry().resolve(&path).is_ok()) {
            // No resource of the type can be in one.
            self.is_empty = true;
            return self;
        }
        self.any(place, ids, |id| {
            let comparable = Comparable::Id(ResourceId::new(target, &**id));
            FilterSpec::Property(PropertyFilter { property: path.clone(), operator: Operator::Equal, comparable })
        })
    }

    /// Those that stand somewhere below one of the resources of type `target` with these ids.
    pub(crate) fn below(mut self, place: &'static str, target: &'static str, ids: &Member<String>) -> Self {
        let Some(ids) = given(ids) else { return self };
        self.count(place, ids.len());
        let above: HashSet<ResourceId> = ids.iter().map(|id| ResourceId::new(target, &**id)).collect();
        let (view, resource_type) = (self.view, self.resource_type);
        let Some(def) = view.registry().type_def(resource_type) else { return self };
        let parents: Vec<String> = def.parent_properties().map(|property| property.name.to_string()).collect();
        self.paths.extend(parents.iter().map(|name| format!("{resource_type}/{name}")));
        // Many have few parents: what is above each of those is looked up once.
        let known: RefCell<HashMap<ResourceId, bool>> = RefCell::default();
        self.check(move |row| {
            let Some(parent) = parents.iter().find_map(|name| row.resource_at(name)) else { return false };
            if let Some(is_below) = known.borrow().get(&parent) {
                return *is_below;
            }
            let is_below = above.contains(&parent) || view.parents(&parent).iter().any(|one| above.contains(one));
            known.borrow_mut().insert(parent, is_below);
            is_below
        })
    }

    /// Those for which `read` gives one of these values.
    pub(crate) fn one_of<T: PartialEq>(self, values: &'s Member<T>, read: impl Fn(&Row<'_>) -> T + 's) -> Self {
        match given(values) {
            Some(values) => self.check(move |row| values.contains(&read(row))),
            None => self,
        }
    }

    /// Those that pass.
    pub(crate) fn check(mut self, check: impl Fn(&Row<'_>) -> bool + 's) -> Self {
        self.checks.push(Box::new(check));
        self
    }

    fn any<T>(mut self, place: &'static str, values: &Member<T>, filter: impl Fn(&T) -> FilterSpec) -> Self {
        if let Some(values) = given(values) {
            self.count(place, values.len());
            let filters = values.iter().take(VALUES_MAX).map(filter).collect();
            self.filters.push(FilterSpec::Composite { operator: CompositeOperator::Union, filters });
        }
        self
    }

    fn count(&mut self, place: &'static str, count: usize) {
        if count > VALUES_MAX {
            self.too_many = Some(place);
        }
    }

    /// The list, in the order of ids.
    ///
    /// # Errors
    /// `unable_to_allocate_resource` for more than the limit, `invalid_argument` for a member with too many values.
    pub(crate) fn list<T>(self, show: impl Fn(&Row<'_>) -> T) -> Result<Vec<T>, Error> {
        if let Some(place) = self.too_many {
            let message = format!("it has more than {VALUES_MAX} values");
            return Err(Error::invalid_argument("lockstep.vcenter.filter", place, &message));
        }
        if self.is_empty {
            return Ok(Vec::new());
        }
        // One more than may be shown tells that there are too many; what is checked row by row may need all of them.
        let wanted = if self.checks.is_empty() { self.limit + 1 } else { u32::MAX as usize };
        let spec = QuerySpec {
            resource_filter: FilterSpec::Composite { operator: CompositeOperator::Intersect, filters: self.filters },
            property_spec: self.paths,
            sort_criteria: Vec::new(),
            offset: 0,
            limit: i64::try_from(wanted).ok(),
            compute_total_item_count: false,
        };
        let limits = Limits { page_items: u32::MAX, filters: 16 * VALUES_MAX, ..Limits::default() };
        let query = Query::compile(&spec, self.view.registry(), &limits).map_err(|error| {
            tracing::error!(%error, resource_type = self.resource_type, "the query for a list does not compile");
            Error::internal()
        })?;
        let mut shown = Vec::new();
        for item in self.view.query(&query).items() {
            let row = Row { id: item.id().1, resource_type: self.resource_type, values: item.values().collect() };
            if !self.checks.iter().all(|check| check(&row)) {
                continue;
            }
            if shown.len() == self.limit {
                let (limit, what) = (self.limit, self.resource_type);
                let message =
                    format!("more than {limit} resources of type {what} match: filter, or query page by page");
                let args = vec![limit.to_string(), what.to_owned()];
                return Err(Error::new(
                    ErrorKind::UnableToAllocateResource,
                    "lockstep.vcenter.too_many",
                    message,
                    args,
                ));
            }
            shown.push(show(&row));
        }
        Ok(shown)
    }
}

/// The values of a member; none when it leaves all, by being unset or empty.
fn given<T>(member: &Member<T>) -> Option<&Vec<T>> {
    member.as_ref().filter(|values| !values.is_empty())
}

impl<'v> Row<'v> {
    fn value(&self, path: &str) -> Option<&ValueRef<'v>> {
        let is_at =
            |found: &str| found.strip_prefix(self.resource_type).and_then(|rest| rest.strip_prefix('/')) == Some(path);
        self.values.iter().find(|(found, _)| is_at(found)).map(|(_, value)| value)
    }

    pub(crate) fn text(&self, path: &str) -> Option<&'v str> {
        match self.value(path) {
            Some(ValueRef::Str(text)) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn long(&self, path: &str) -> Option<i64> {
        match self.value(path) {
            Some(ValueRef::Long(number)) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn is(&self, path: &str) -> bool {
        matches!(self.value(path), Some(ValueRef::Boolean(true)))
    }

    /// What a property points to.
    fn resource_at(&self, path: &str) -> Option<ResourceId> {
        match self.value(path) {
            Some(ValueRef::Id { resource_type, id }) => Some(ResourceId::new(*resource_type, *id)),
            _ => None,
        }
    }

    /// The id that a property points to.
    pub(crate) fn id_at(&self, path: &str) -> Option<&'v str> {
        match self.value(path) {
            Some(ValueRef::Id { id, .. }) => Some(id),
            _ => None,
        }
    }

    /// The name; its id when it has none, since these clients know nothing without a name.
    pub(crate) fn name(&self) -> String {
        self.text("name").unwrap_or(self.id).to_owned()
    }
}

/// A resource by its id.
///
/// # Errors
/// `not_found`.
pub(crate) fn find(view: &View, resource_type: &str, id: &str) -> Result<Document, Error> {
    view.get(&ResourceId::new(resource_type, id)).map(|stored| stored.document).ok_or_else(|| {
        let args = vec![resource_type.to_owned(), id.to_owned()];
        Error::not_found("lockstep.vcenter.not_found", format!("no {resource_type} {id}"), args)
    })
}

/// The name of a resource; its id when it has none.
pub(crate) fn name(document: &Document, id: &str) -> String {
    text(document, "name").unwrap_or(id).to_owned()
}

pub(crate) fn text<'d>(document: &'d Document, path: &str) -> Option<&'d str> {
    document.get(path).and_then(Value::as_str)
}

pub(crate) fn long(document: &Document, path: &str) -> Option<i64> {
    match document.get(path) {
        Some(Value::Long(number)) => Some(*number),
        _ => None,
    }
}

pub(crate) fn is(document: &Document, path: &str) -> bool {
    matches!(document.get(path), Some(Value::Boolean(true)))
}

/// The id that a value points to.
pub(crate) fn id_in(value: Option<&Value>) -> Option<&ResourceId> {
    match value {
        Some(Value::Id(id)) => Some(id),
        _ => None,
    }
}
