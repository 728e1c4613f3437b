//! From a query spec to a query: every check that does not need the data.

use std::hash::{Hash, Hasher};
use std::ops::Bound;

use lockstep_model::{Kind, Registry, RelationPath, ResolveError, ResourceId, ResourceType};

use rustc_hash::FxHasher;

use crate::condition::{Condition, Path, Predicate, Test, TextTest};
use crate::instants;
use crate::promote::{double_against_double, double_against_long, long_against_double, long_against_long, whole};
use crate::spec::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, QuerySpec, SortDirection, SortSpec,
    SpecError,
};
use crate::text_test::{Piece, TextMatch};

/// A query that is known to make sense: it can be answered from any view with the same models, as often as wanted.
#[derive(Debug, Clone)]
pub struct Query {
    pub(crate) filter: Filter,
    pub(crate) paths: Vec<Path>,
    pub(crate) sort: Vec<SortKey>,
    pub(crate) offset: usize,
    pub(crate) limit: usize,
    pub(crate) total: bool,
}

/// The filter of a query, also usable by itself: see [`Filter::matches`] and [`Filter::affected`].
#[derive(Debug, Clone)]
pub struct Filter {
    pub(crate) condition: Condition,
    /// The types whose resources can match, sorted.
    pub(crate) types: Vec<ResourceType>,
    /// The same for the same filter: what is remembered about it is found by this, and checked before it is used.
    pub(crate) key: u64,
}

/// One criterion of an order.
#[derive(Debug, Clone)]
pub(crate) struct SortKey {
    pub(crate) path: Path,
    pub(crate) descending: bool,
}

impl Query {
    /// Checks a query against the models and the limits. What is checked first is reported first: filter, properties,
    /// order, offset, limit.
    ///
    /// # Errors
    /// [`SpecError`], naming the member.
    ///
    /// Source: `api/cis-data-and-cdc.md`, A4 to A6.
    pub fn compile(spec: &QuerySpec, registry: &Registry, limits: &Limits) -> Result<Self, SpecError> {
        let filter = Filter::compile(&spec.resource_filter, "query_spec.resource_filter", registry, limits)?;
        if spec.property_spec.len() > limits.paths {
            let (found, max) = (spec.property_spec.len().to_string(), limits.paths.to_string());
            let message = format!("{found} properties are more than {max}");
            return Err(SpecError::new(
                "query_spec.property_spec",
                "lockstep.query.too_many_properties",
                message,
                &[&found, &max],
            ));
        }
        let mut paths: Vec<Path> = Vec::with_capacity(spec.property_spec.len());
        for (i, text) in spec.property_spec.iter().enumerate() {
            let path = resolve(text, &format!("query_spec.property_spec[{i}]"), registry)?;
            // A path asked for twice comes once.
            if !paths.iter().any(|p| p.text == path.text) {
                paths.push(path);
            }
        }
        if spec.sort_criteria.len() > limits.sort_keys {
            let (found, max) = (spec.sort_criteria.len().to_string(), limits.sort_keys.to_string());
            let message = format!("{found} sort criteria are more than {max}");
            return Err(SpecError::new(
                "query_spec.sort_criteria",
                "lockstep.query.too_many_sort_criteria",
                message,
                &[&found, &max],
            ));
        }
        let sort = spec
            .sort_criteria
            .iter()
            .enumerate()
            .map(|(i, sort)| sort_key(sort, i, registry))
            .collect::<Result<_, _>>()?;
        let offset = usize::try_from(spec.offset).map_err(|_| {
            let message = format!("offset {} is negative", spec.offset);
            SpecError::new("query_spec.offset", "lockstep.query.offset", message, &[&spec.offset.to_string()])
        })?;
        let limit = limit(spec.limit, limits)?;
        Ok(Self { filter, paths, sort, offset, limit, total: spec.compute_total_item_count })
    }

    /// The query's filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// The paths to return, each once, in the order they were asked for.
    pub fn properties(&self) -> impl Iterator<Item = &str> {
        self.paths.iter().map(|p| &*p.text)
    }

    /// The most items an answer has.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many matches are left out at the beginning.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

impl Filter {
    /// Checks a filter by itself, as a feed has one. `at` is the member that holds it, as errors are to name it.
    ///
    /// # Errors
    /// As [`Query::compile`].
    pub fn compile(spec: &FilterSpec, at: &str, registry: &Registry, limits: &Limits) -> Result<Self, SpecError> {
        let mut left = limits.filters;
        let condition = condition(spec, at, 1, registry, limits, &mut left)?;
        let mut hasher = FxHasher::default();
        hash(spec, &mut hasher);
        Ok(Self { types: condition.types(), condition, key: hasher.finish() })
    }

    /// The types whose resources can match, sorted by name.
    pub fn types(&self) -> &[ResourceType] {
        &self.types
    }
}

fn hash(spec: &FilterSpec, hasher: &mut FxHasher) {
    std::mem::discriminant(spec).hash(hasher);
    match spec {
        FilterSpec::Type(name) => name.hash(hasher),
        FilterSpec::Id(id) => id.hash(hasher),
        FilterSpec::Property(filter) => {
            (&filter.property, filter.operator.name()).hash(hasher);
            match &filter.comparable {
                Comparable::Long(v) => v.hash(hasher),
                Comparable::Double(v) => v.to_bits().hash(hasher),
                Comparable::Boolean(v) => v.hash(hasher),
                Comparable::String(v) => v.hash(hasher),
                Comparable::Id(v) => v.hash(hasher),
            }
        }
        FilterSpec::Composite { operator, filters } => {
            (*operator == CompositeOperator::Union, filters.len()).hash(hasher);
            filters.iter().for_each(|filter| hash(filter, hasher));
        }
    }
}

fn limit(limit: Option<i64>, limits: &Limits) -> Result<usize, SpecError> {
    let path = "query_spec.limit";
    let max = limits.page_items as usize;
    let Some(asked) = limit else { return Ok(max) };
    let error =
        |id, message| SpecError { path: path.to_owned(), id, message, args: vec![asked.to_string(), max.to_string()] };
    match usize::try_from(asked) {
        Ok(items) if items <= max => Ok(items),
        Ok(_) => Err(error("lockstep.query.limit", format!("limit {asked} is above {max}"))),
        Err(_) => Err(error("lockstep.query.limit.negative", format!("limit {asked} is negative"))),
    }
}

fn resolve(text: &str, at: &str, registry: &Registry) -> Result<Path, SpecError> {
    let path: RelationPath = text.parse().map_err(|e: lockstep_model::PathError| {
        let shown: String = text.chars().take(200).collect();
        SpecError::new(at, "lockstep.query.path.malformed", e.to_string(), &[&shown])
    })?;
    let resolved = registry.resolve(&path).map_err(|e| {
        let id = match &e {
            ResolveError::UnknownModel { .. } => "lockstep.query.path.unknown_model",
            ResolveError::UnknownProperty { .. } => "lockstep.query.path.unknown_property",
            ResolveError::NotAnId(_) => "lockstep.query.path.not_a_relation",
            ResolveError::WrongTarget { .. } => "lockstep.query.path.wrong_target",
            ResolveError::Secret(_) => "lockstep.query.path.secret",
        };
        SpecError::new(at, id, e.to_string(), &[text])
    })?;
    Ok(Path { text: text.into(), hops: resolved.hops })
}

fn sort_key(sort: &SortSpec, i: usize, registry: &Registry) -> Result<SortKey, SpecError> {
    let at = format!("query_spec.sort_criteria[{i}].property");
    let path = resolve(&sort.property, &at, registry)?;
    if path.is_many() {
        let message = format!("{} can have several values, so there is none to sort by", sort.property);
        return Err(SpecError::new(&at, "lockstep.query.sort.list", message, &[&sort.property]));
    }
    if matches!(last_kind(&path), Kind::Struct { .. }) {
        let message = format!("{} is a structure, which has no order", sort.property);
        return Err(SpecError::new(&at, "lockstep.query.sort.structure", message, &[&sort.property]));
    }
    Ok(SortKey { path, descending: sort.direction == SortDirection::Descending })
}

fn last_kind(path: &Path) -> &Kind {
    &path.hops[path.hops.len() - 1].property.kind
}

fn known_type(name: &str, at: &str, registry: &Registry) -> Result<ResourceType, SpecError> {
    registry.type_def(name).map(|def| def.name.clone()).ok_or_else(|| {
        let shown: String = name.chars().take(200).collect();
        SpecError::new(at, "lockstep.query.type.unknown", format!("no resource type {shown:?}"), &[&shown])
    })
}

fn known_id(id: &ResourceId, at: &str, registry: &Registry) -> Result<ResourceId, SpecError> {
    let resource_type = known_type(id.resource_type.as_str(), &format!("{at}.type"), registry)?;
    not_empty(id, at)?;
    Ok(ResourceId { resource_type, id: id.id.clone() })
}

fn not_empty(id: &ResourceId, at: &str) -> Result<(), SpecError> {
    if id.id.is_empty() {
        return Err(SpecError::new(&format!("{at}.id"), "lockstep.query.id.empty", "the id is empty", &[]));
    }
    Ok(())
}

fn condition(
    spec: &FilterSpec,
    at: &str,
    depth: usize,
    registry: &Registry,
    limits: &Limits,
    left: &mut usize,
) -> Result<Condition, SpecError> {
    if depth > limits.filter_depth {
        let max = limits.filter_depth.to_string();
        return Err(SpecError::new(
            at,
            "lockstep.query.too_deep",
            format!("filters nest deeper than {max} levels"),
            &[&max],
        ));
    }
    *left = left.checked_sub(1).ok_or_else(|| {
        let max = limits.filters.to_string();
        SpecError::new(at, "lockstep.query.too_many_filters", format!("more than {max} filters"), &[&max])
    })?;
    match spec {
        FilterSpec::Type(name) => known_type(name, &format!("{at}.resource_type"), registry).map(Condition::Type),
        FilterSpec::Id(id) => known_id(id, &format!("{at}.resource_id"), registry).map(Condition::Id),
        FilterSpec::Property(filter) => {
            predicate(filter, &format!("{at}.property_filter"), registry).map(|p| Condition::Property(Box::new(p)))
        }
        FilterSpec::Composite { operator, filters } => {
            let at = format!("{at}.composite_filter.filters");
            if filters.is_empty() {
                return Err(SpecError::new(
                    &at,
                    "lockstep.query.filters.empty",
                    "a composite filter needs at least one filter",
                    &[],
                ));
            }
            let parts = filters.iter().enumerate();
            let mut parts = parts
                .map(|(i, filter)| condition(filter, &format!("{at}[{i}]"), depth + 1, registry, limits, left))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(match operator {
                CompositeOperator::Intersect => Condition::all(parts),
                CompositeOperator::Union if parts.len() == 1 => parts.swap_remove(0),
                CompositeOperator::Union => Condition::Any(parts),
            })
        }
    }
}

fn predicate(filter: &PropertyFilter, at: &str, registry: &Registry) -> Result<Predicate, SpecError> {
    let path = resolve(&filter.property, &format!("{at}.property"), registry)?;
    let test = test(filter, last_kind(&path), at, registry)?;
    let comparable = match &filter.comparable {
        Comparable::Long(v) => v.to_string(),
        Comparable::Double(v) => v.to_string(),
        Comparable::Boolean(v) => v.to_string(),
        Comparable::String(v) => format!("{:?}", v.chars().take(200).collect::<String>()),
        Comparable::Id(v) => format!("{v:?}"),
    };
    Ok(Predicate { path, test, shown: format!("{} {comparable}", filter.operator.name()) })
}

/// The table of A5: which comparables a kind takes, which operators, and what the comparison is then.
fn test(filter: &PropertyFilter, kind: &Kind, at: &str, registry: &Registry) -> Result<Test, SpecError> {
    let PropertyFilter { property, operator, comparable } = filter;
    let (case, member) = comparable.names();
    let mismatch = || {
        let message = format!("{property} is of kind {}, which does not compare with {case}", kind.name());
        SpecError::new(&format!("{at}.{member}"), "lockstep.query.comparable", message, &[property, kind.name(), case])
    };
    let no_operator = || {
        let message = format!("{property} is of kind {}, which has no {} with {case}", kind.name(), operator.name());
        SpecError::new(
            &format!("{at}.operator"),
            "lockstep.query.operator",
            message,
            &[property, kind.name(), operator.name()],
        )
    };
    if let Comparable::Double(number) = comparable
        && !number.is_finite()
    {
        return Err(SpecError::new(
            &format!("{at}.{member}"),
            "lockstep.query.double",
            "the number is not finite",
            &[],
        ));
    }
    match (kind, comparable) {
        (Kind::Long, Comparable::Long(v)) => long_against_long(*operator, *v).map(Test::Long).ok_or_else(no_operator),
        (Kind::Long, Comparable::Double(v)) => {
            long_against_double(*operator, *v).map(Test::Long).ok_or_else(no_operator)
        }
        (Kind::Double, Comparable::Long(v)) => {
            double_against_long(*operator, *v).map(Test::Double).ok_or_else(no_operator)
        }
        (Kind::Double, Comparable::Double(v)) => {
            double_against_double(*operator, *v).map(Test::Double).ok_or_else(no_operator)
        }
        (Kind::Boolean, comparable) => {
            let wanted = match comparable {
                Comparable::Boolean(v) => *v,
                Comparable::String(v) if v == "true" => true,
                Comparable::String(v) if v == "false" => false,
                _ => return Err(mismatch()),
            };
            match operator {
                Operator::Equal => Ok(Test::Boolean(wanted)),
                Operator::NotEqual => Ok(Test::Boolean(!wanted)),
                _ => Err(no_operator()),
            }
        }
        (Kind::String, Comparable::String(v)) => {
            let text: Box<str> = v.as_str().into();
            Ok(match operator {
                Operator::Equal => Test::Text(TextTest::Equal(text)),
                Operator::NotEqual => Test::Text(TextTest::NotEqual(text)),
                Operator::Greater => Test::Text(TextTest::Between(Bound::Excluded(text), Bound::Unbounded)),
                Operator::GreaterOrEqual => Test::Text(TextTest::Between(Bound::Included(text), Bound::Unbounded)),
                Operator::Less => Test::Text(TextTest::Between(Bound::Unbounded, Bound::Excluded(text))),
                Operator::LessOrEqual => Test::Text(TextTest::Between(Bound::Unbounded, Bound::Included(text))),
                Operator::StartsWith | Operator::EndsWith | Operator::Contains => {
                    Test::Piece(Box::new(piece(*operator, v)))
                }
            })
        }
        (Kind::DateTime, Comparable::String(v)) => {
            if matches!(operator, Operator::StartsWith | Operator::EndsWith | Operator::Contains) {
                return Ok(Test::Piece(Box::new(piece(*operator, v))));
            }
            let instant = instants::parse(v).ok_or_else(|| {
                let shown: String = v.chars().take(64).collect();
                let message = format!("{shown:?} is not a date_time of the form YYYY-MM-DDThh:mm:ssZ");
                SpecError::new(&format!("{at}.{member}"), "lockstep.query.date_time", message, &[&shown])
            })?;
            whole(*operator, instant, i128::MIN, i128::MAX).map(Test::Instant).ok_or_else(no_operator)
        }
        (Kind::Id { targets, .. }, Comparable::Id(v)) => {
            let at_id = format!("{at}.{member}");
            // Where anything can be pointed to, a type without a model can be too.
            let id = if targets.is_empty() {
                not_empty(v, &at_id).map(|()| v.clone())
            } else {
                known_id(v, &at_id, registry)
            }?;
            match operator {
                Operator::Equal | Operator::NotEqual => Ok(Test::Id { id, equal: *operator == Operator::Equal }),
                _ => Err(no_operator()),
            }
        }
        (Kind::Id { .. }, Comparable::String(v)) => match operator {
            Operator::Equal | Operator::NotEqual => {
                Ok(Test::IdPart { id: v.as_str().into(), equal: *operator == Operator::Equal })
            }
            Operator::StartsWith | Operator::EndsWith | Operator::Contains => {
                Ok(Test::Piece(Box::new(piece(*operator, v))))
            }
            _ => Err(no_operator()),
        },
        (Kind::Long | Kind::Double | Kind::String | Kind::DateTime | Kind::Id { .. } | Kind::Struct { .. }, _) => {
            Err(mismatch())
        }
    }
}

fn piece(operator: Operator, text: &str) -> Piece {
    let how = match operator {
        Operator::StartsWith => TextMatch::StartsWith,
        Operator::EndsWith => TextMatch::EndsWith,
        _ => TextMatch::Contains,
    };
    Piece::new(how, text)
}
