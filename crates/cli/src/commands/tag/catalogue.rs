//! The tags and categories of a site: all of them, and one by what people call it. One query for each page, where the tagging service would
//! take a call for each tag.

use anyhow::Result;
use lockstep_client::Client;
use lockstep_contract::services::TypedId;
use lockstep_contract::services::resource_model::{
    ComparableType, ComparisonOperator, CompositeFilter, CompositeOperator, FilterType, PropertyFilter, Query,
    QueryInput, QuerySpec, ResourceFilter, ResourceItem,
};
use serde_json::{Map, Value, json};

use crate::failure::Usage;
use crate::json;

const TAG: &str = "Tag";
const CATEGORY: &str = "TagCategory";
const CATEGORY_OF_TAG: &str = "Tag/category";
const NAME_OF_CATEGORY: &str = "Tag/category->TagCategory/name";

/// A tag with its category's name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tag {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) category_id: String,
    pub(super) category: String,
}

/// The tags, of one category or all, by category and name.
pub(super) async fn tags(client: &Client, category: Option<&str>) -> Result<Vec<Tag>> {
    let filter = match category {
        Some(id) => {
            let id = TypedId { resource_type: CATEGORY.to_owned(), id: id.to_owned() };
            equal(CATEGORY_OF_TAG, ComparableType::Id, None, Some(id))
        }
        None => of_type(TAG),
    };
    let mut tags: Vec<Tag> = all(client, filter, &tag_paths()).await?.iter().map(read_tag).collect();
    tags.sort_by(|a, b| (&a.category, &a.name, &a.id).cmp(&(&b.category, &b.name, &b.id)));
    Ok(tags)
}

/// The categories, by name: objects with the members that the tagging service has for them.
pub(super) async fn categories(client: &Client) -> Result<Vec<Map<String, Value>>> {
    let names = ["name", "description", "cardinality", "associable_types", "used_by"];
    let paths: Vec<String> = names.iter().map(|name| format!("{CATEGORY}/{name}")).collect();
    let items = all(client, of_type(CATEGORY), &paths).await?;
    let read = |item: &ResourceItem| {
        let mut category = Map::new();
        category.insert("id".to_owned(), json!(item.resource_id.id));
        for (name, path) in names.iter().zip(&paths) {
            category.extend(value(item, path).map(|value| ((*name).to_owned(), value)));
        }
        category
    };
    let mut categories: Vec<_> = items.iter().map(read).collect();
    let name = |category: &Map<String, Value>| category.get("name").map(Value::to_string);
    categories.sort_by_key(name);
    Ok(categories)
}

/// The id of the tag that people call `text`: its id, its name, or `CATEGORY/NAME`.
///
/// # Errors
/// [`Usage`] when no tag or more than one is called so.
pub(super) async fn tag(client: &Client, text: &str) -> Result<String> {
    let mut filters = vec![with_id(TAG, text), with_text("Tag/name", text)];
    if let Some((category, name)) = text.split_once('/') {
        let both = vec![with_text(NAME_OF_CATEGORY, category), with_text("Tag/name", name)];
        filters.push(composite(CompositeOperator::Intersect, both));
    }
    let items = all(client, composite(CompositeOperator::Union, filters), &tag_paths()).await?;
    let found: Vec<Tag> = items.iter().map(read_tag).collect();
    chosen(text, &found).map_err(|text| Usage(text).into())
}

fn chosen(text: &str, found: &[Tag]) -> Result<String, String> {
    if let Some(tag) = found.iter().find(|tag| tag.id == text) {
        return Ok(tag.id.clone());
    }
    // A query compares without regard to case; the service does not.
    let is_called = |tag: &&Tag| tag.name == text || format!("{}/{}", tag.category, tag.name) == text;
    let called: Vec<&Tag> = found.iter().filter(is_called).collect();
    match &called[..] {
        [one] => Ok(one.id.clone()),
        [] => Err(format!("no tag {text}; `lockstep tag list` shows all")),
        several => {
            let names: Vec<String> =
                several.iter().map(|tag| format!("{}/{} ({})", tag.category, tag.name, tag.id)).collect();
            Err(format!("several tags are called {text}: {}", names.join(", ")))
        }
    }
}

/// The id of the category that people call `text`: its id or its name.
///
/// # Errors
/// [`Usage`] when no category or more than one is called so.
pub(super) async fn category(client: &Client, text: &str) -> Result<String> {
    let path = format!("{CATEGORY}/name");
    let either = composite(CompositeOperator::Union, vec![with_id(CATEGORY, text), with_text(&path, text)]);
    let items = all(client, either, std::slice::from_ref(&path)).await?;
    if items.iter().any(|item| item.resource_id.id == text) {
        return Ok(text.to_owned());
    }
    let named = items.iter().filter(|item| value(item, &path) == Some(json!(text)));
    let ids: Vec<&str> = named.map(|item| &*item.resource_id.id).collect();
    match &ids[..] {
        [one] => Ok((*one).to_owned()),
        [] => Err(Usage(format!("no category {text}; `lockstep tag categories list` shows all")).into()),
        several => Err(Usage(format!("several categories are called {text}: {}", several.join(", "))).into()),
    }
}

/// All pages of a query, by id.
async fn all(client: &Client, filter: ResourceFilter, paths: &[String]) -> Result<Vec<ResourceItem>> {
    let mut items = Vec::new();
    loop {
        let query_spec = QuerySpec {
            resource_filter: filter.clone(),
            property_spec: paths.to_vec(),
            sort_criteria: None,
            offset: Some(items.len() as i64),
            // As many as the site gives.
            limit: None,
            compute_total_item_count: Some(true),
        };
        let page = client.call(Query, QueryInput { query_spec }).await?;
        let is_last = page.items.is_empty();
        items.extend(page.items);
        if is_last || page.total_item_count.is_none_or(|total| items.len() as i64 >= total) {
            return Ok(items);
        }
    }
}

fn tag_paths() -> Vec<String> {
    ["Tag/name", "Tag/description", CATEGORY_OF_TAG, NAME_OF_CATEGORY].map(str::to_owned).to_vec()
}

fn read_tag(item: &ResourceItem) -> Tag {
    let text = |path: &str| value(item, path).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
    let category_id = value(item, CATEGORY_OF_TAG).and_then(|v| v["id"].as_str().map(str::to_owned));
    Tag {
        id: item.resource_id.id.clone(),
        name: text("Tag/name"),
        description: text("Tag/description"),
        category_id: category_id.unwrap_or_default(),
        category: text(NAME_OF_CATEGORY),
    }
}

/// The value at a path, if the resource has one.
fn value(item: &ResourceItem, path: &str) -> Option<Value> {
    let found = item.property_values.iter().find(|value| value.property == path)?;
    Some(json::of_data(&found.value.0))
}

fn filter(filter_type: FilterType) -> ResourceFilter {
    ResourceFilter {
        filter_type,
        resource_type: None,
        resource_id: None,
        property_filter: None,
        composite_filter: None,
    }
}

fn of_type(resource_type: &str) -> ResourceFilter {
    ResourceFilter { resource_type: Some(resource_type.to_owned()), ..filter(FilterType::Type) }
}

fn with_id(resource_type: &str, id: &str) -> ResourceFilter {
    let id = TypedId { resource_type: resource_type.to_owned(), id: id.to_owned() };
    ResourceFilter { resource_id: Some(id), ..filter(FilterType::Id) }
}

fn with_text(property: &str, text: &str) -> ResourceFilter {
    equal(property, ComparableType::String, Some(text.to_owned()), None)
}

fn equal(property: &str, comparable_type: ComparableType, text: Option<String>, id: Option<TypedId>) -> ResourceFilter {
    let property_filter = PropertyFilter {
        property: property.to_owned(),
        operator: ComparisonOperator::Equal,
        comparable_type,
        comparable_long: None,
        comparable_double: None,
        comparable_boolean: None,
        comparable_string: text,
        comparable_id: id,
    };
    ResourceFilter { property_filter: Some(property_filter), ..filter(FilterType::Property) }
}

fn composite(operator: CompositeOperator, filters: Vec<ResourceFilter>) -> ResourceFilter {
    let composite = CompositeFilter { operator, filters };
    ResourceFilter { composite_filter: Some(Box::new(composite)), ..filter(FilterType::Composite) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_called_by_its_id_its_name_or_both_names() {
        let tag = |id: &str, category: &str, name: &str| Tag {
            id: id.to_owned(),
            name: name.to_owned(),
            description: String::new(),
            category_id: String::new(),
            category: category.to_owned(),
        };
        let found = [
            tag("t1", "tier", "gold"),
            tag("t2", "metal", "gold"),
            tag("t3", "tier", "Gold"),
            tag("gold2", "x", "y/z"),
        ];
        let check = |text: &str| chosen(text, &found);
        assert_eq!(check("t1").as_deref(), Ok("t1"));
        assert_eq!(check("metal/gold").as_deref(), Ok("t2"));
        assert_eq!(check("Gold").as_deref(), Ok("t3"));
        assert_eq!(check("y/z").as_deref(), Ok("gold2"));
        assert!(check("gold").unwrap_err().contains("tier/gold (t1), metal/gold (t2)"));
        assert!(check("nothing").unwrap_err().contains("lockstep tag list"));
    }
}
