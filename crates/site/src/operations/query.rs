//! Queries, and what the site says of itself.

use bytes::Bytes;
use lockstep_contract::services::resource_model as wire;
use lockstep_contract::services::resource_model::{
    ComparableType, ComparisonOperator, FilterType, Query as QueryOperation, ResourceFilter,
};
use lockstep_contract::services::site::{Explain, ExplainInput, Get, Info, Query as TextQuery};
use lockstep_contract::{Data, Error, Opaque, Writer};
use lockstep_model::{Position, ResourceId};
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Operator, PropertyFilter, Query, QuerySpec, SortDirection, SortSpec,
    SpecError,
};

use crate::Site;
use crate::table::{Answer, Context, Encode, Table};
use crate::token;

pub(super) fn register(table: &mut Table) {
    table.register_answer(QueryOperation, async |context, input| run(&context.site, &query_spec(input.query_spec)?));
    table
        .register_answer(TextQuery, async |context, input| run(&context.site, &from_text(&context.site, &input.text)?));
    table.register(Explain, async |context, input| explain(&context, input));
    table.register(Get, async |context, _| Ok(info(&context.site)));
}

fn spec_error(error: SpecError) -> Error {
    let mut out = Error::invalid_argument(error.id, &error.path, &error.message);
    if let Some(message) = out.messages.first_mut() {
        message.args = error.args;
    }
    out
}

fn from_text(site: &Site, text: &str) -> Result<QuerySpec, Error> {
    let view = site.view();
    lockstep_query::parse_text(text, view.registry())
        .map_err(|error| Error::invalid_argument("lockstep.query.text", "text", &error.to_string()))
}

/// Runs a query, and writes its answer while the view stands still.
fn run(site: &Site, spec: &QuerySpec) -> Result<Answer, Error> {
    let view = site.view();
    let query = Query::compile(spec, view.registry(), &site.config.query_limits).map_err(spec_error)?;
    let answer = view.query(&query);
    // About what the items take, so that the text is seldom moved while it grows.
    let item_bytes = 128 + 64 * spec.property_spec.len();
    let mut json = Vec::with_capacity((answer.len() * item_bytes).clamp(1 << 10, 1 << 20));
    json.extend_from_slice(b"{\"items\":");
    answer.write_plain_json(&mut json);
    if let Some(total) = answer.total() {
        json.extend_from_slice(format!(",\"total_item_count\":{total}").as_bytes());
    }
    json.push(b'}');
    let cost = answer.cost();
    let matched = cost.rows_matched.map_or_else(String::new, |rows| format!("rows_matched={rows};"));
    let (examined, indexes, micros) = (cost.rows_examined, cost.indexes.join(","), cost.micros);
    let cost = format!("rows_examined={examined};{matched}indexes={indexes};micros={micros}");
    let headers = vec![
        ("lockstep-position", view.position().to_string()),
        ("lockstep-sequence", token::write(site.origin(), view.position())),
        ("lockstep-cost", cost),
    ];
    drop(answer);
    let json = Bytes::from(json);
    Ok(Answer { value: Box::new(ResultJson(json.clone())), plain_json: Some(json), headers })
}

/// A result set that was written as plain JSON while the view was held.
struct ResultJson(Bytes);

impl Encode for ResultJson {
    fn encode(&self, w: &mut dyn Writer) {
        match Data::from_json(&self.0) {
            Ok(data) => encode_result(&data, w),
            // Written by this server a moment ago.
            Err(error) => tracing::error!(%error, "a result set does not read back"),
        }
    }
}

/// Walks a result set with the names that the typed encodings give its structures.
fn encode_result(data: &Data, w: &mut dyn Writer) {
    use lockstep_contract::{Encoding, Place, Wire};
    match wire::ResultSet::decode(data.clone(), &Place::root(Encoding::Plain)) {
        Ok(mut result) => {
            for item in &mut result.items {
                for property in &mut item.property_values {
                    name_references(&mut property.value.0);
                }
            }
            Wire::encode(&result, w);
        }
        Err(error) => tracing::error!(%error, "a result set does not read back"),
    }
}

/// Gives the canonical name to what is a reference: an object of a type and an id, and of nothing else.
fn name_references(data: &mut Data) {
    match data {
        Data::List(items) => items.iter_mut().for_each(name_references),
        Data::Struct(name, fields) => {
            let is_reference =
                fields.len() == 2 && fields.iter().all(|(n, v)| matches!((&**n, v), ("type" | "id", Data::String(_))));
            *name = Some(if is_reference { "com.vmware.vapi.std.dynamic_ID" } else { "lockstep.structure" }.to_owned());
            fields.iter_mut().for_each(|(_, v)| name_references(v));
        }
        _ => {}
    }
}

fn explain(context: &Context, input: ExplainInput) -> Result<Opaque, Error> {
    let spec = match (input.query_spec, input.text) {
        (Some(spec), None) => query_spec(spec)?,
        (None, Some(text)) => from_text(&context.site, &text)?,
        (Some(_), Some(_)) | (None, None) => {
            return Err(Error::invalid_argument(
                "lockstep.query.explain",
                "query_spec",
                "give either query_spec or text",
            ));
        }
    };
    let view = context.site.view();
    let query = Query::compile(&spec, view.registry(), &context.site.config.query_limits).map_err(spec_error)?;
    let json = serde_json::to_vec(&query.explain(&view)).map_err(|_| Error::internal())?;
    Data::from_json(&json).map(Opaque).map_err(|_| Error::internal())
}

fn info(site: &Site) -> Info {
    let view = site.view();
    let number = |p: Position| i64::try_from(p.0).unwrap_or(i64::MAX);
    let (log, state) = site.journal().disk_bytes();
    let resources: usize = view.registry().types().map(|t| view.count(t.name.as_str())).sum();
    Info {
        name: site.config.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        position: number(view.position()),
        oldest: number(site.journal().oldest()),
        sequence: token::write(site.origin(), view.position()),
        resources: i64::try_from(resources).unwrap_or(i64::MAX),
        disk_bytes: i64::try_from(log + state).unwrap_or(i64::MAX),
    }
}

fn resource_id(id: lockstep_contract::services::TypedId) -> ResourceId {
    ResourceId::new(&*id.resource_type, id.id)
}

fn query_spec(spec: wire::QuerySpec) -> Result<QuerySpec, Error> {
    let sort = |s: wire::SortSpec| SortSpec {
        property: s.property,
        direction: match s.sort_direction {
            None | Some(wire::SortDirection::Ascending) => SortDirection::Ascending,
            Some(wire::SortDirection::Descending) => SortDirection::Descending,
        },
    };
    Ok(QuerySpec {
        resource_filter: filter_spec(spec.resource_filter)?,
        property_spec: spec.property_spec,
        sort_criteria: spec.sort_criteria.unwrap_or_default().into_iter().map(sort).collect(),
        offset: spec.offset.unwrap_or(0),
        limit: spec.limit,
        compute_total_item_count: spec.compute_total_item_count.unwrap_or(false),
    })
}

/// The engine's filter for one of the wire. The union's rule was checked when it was read.
///
/// # Errors
/// `internal_server_error` should a union lack its field all the same.
pub fn filter_spec(filter: ResourceFilter) -> Result<FilterSpec, Error> {
    Ok(match filter.filter_type {
        FilterType::Type => FilterSpec::Type(visible(filter.resource_type.ok_or_else(Error::internal)?)?),
        FilterType::Id => {
            let id = resource_id(filter.resource_id.ok_or_else(Error::internal)?);
            visible(id.resource_type.to_string())?;
            FilterSpec::Id(id)
        }
        FilterType::Property => {
            FilterSpec::Property(property_filter(filter.property_filter.ok_or_else(Error::internal)?)?)
        }
        FilterType::Composite => {
            let composite = *filter.composite_filter.ok_or_else(Error::internal)?;
            FilterSpec::Composite {
                operator: match composite.operator {
                    wire::CompositeOperator::Intersect => CompositeOperator::Intersect,
                    wire::CompositeOperator::Union => CompositeOperator::Union,
                },
                filters: composite.filters.into_iter().map(filter_spec).collect::<Result<_, _>>()?,
            }
        }
    })
}

/// Refuses the type of accounts as if it did not exist: who may log in is for administrators, by a service of its own.
fn visible(resource_type: String) -> Result<String, Error> {
    if resource_type == lockstep_model::builtin::ACCOUNT {
        let message = format!("no resource type {resource_type}");
        return Err(Error::invalid_argument("lockstep.query.type", "query_spec.resource_filter", &message));
    }
    Ok(resource_type)
}

fn property_filter(filter: wire::PropertyFilter) -> Result<PropertyFilter, Error> {
    let missing = Error::internal;
    let comparable = match filter.comparable_type {
        ComparableType::Long => Comparable::Long(filter.comparable_long.ok_or_else(missing)?),
        ComparableType::Double => Comparable::Double(filter.comparable_double.ok_or_else(missing)?),
        ComparableType::Boolean => Comparable::Boolean(filter.comparable_boolean.ok_or_else(missing)?),
        ComparableType::String => Comparable::String(filter.comparable_string.ok_or_else(missing)?),
        ComparableType::Id => Comparable::Id(resource_id(filter.comparable_id.ok_or_else(missing)?)),
    };
    let operator = match filter.operator {
        ComparisonOperator::Equal => Operator::Equal,
        ComparisonOperator::NotEqual => Operator::NotEqual,
        ComparisonOperator::Greater => Operator::Greater,
        ComparisonOperator::GreaterOrEqual => Operator::GreaterOrEqual,
        ComparisonOperator::Less => Operator::Less,
        ComparisonOperator::LessOrEqual => Operator::LessOrEqual,
        ComparisonOperator::StartsWith => Operator::StartsWith,
        ComparisonOperator::EndsWith => Operator::EndsWith,
        ComparisonOperator::Contains => Operator::Contains,
    };
    Ok(PropertyFilter { property: filter.property, operator, comparable })
}
