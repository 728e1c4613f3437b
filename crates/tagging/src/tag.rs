//! The operations on tags.

use lockstep_contract::Error;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::tagging::tag::{
    CategoryInput, CreateInput, IdInput, TagModel, UpdateInput, UseInput, UserInput,
};
use lockstep_model::builtin::TAG;
use lockstep_model::{Document, ResourceId, Value};
use lockstep_query::{
    Comparable, CompositeOperator, FilterSpec, Limits, Operator, PropertyFilter, Query, QuerySpec, View,
};
use lockstep_site::WriteError;
use lockstep_site::table::Context;

use crate::check::{self, SET_MAX, invalid};
use crate::edit::{self, Edit, set_texts, text, texts};
use crate::{category, ids};

pub(crate) fn resource(id: &str) -> ResourceId {
    ResourceId::new(TAG, id)
}

/// The tag, or the error that there is none.
pub(crate) fn find(view: &View, id: &str) -> Result<Document, Error> {
    let not_found = || Error::not_found("lockstep.tagging.tag_not_found", format!("no tag {id}"), vec![id.to_owned()]);
    view.get(&resource(id)).map(|stored| stored.document).ok_or_else(not_found)
}

/// The category that a tag belongs to, if it says one, whether that exists or not.
pub(crate) fn category_of(document: &Document) -> Option<ResourceId> {
    match document.get("category") {
        Some(Value::Id(id)) => Some((**id).clone()),
        _ => None,
    }
}

/// The tags of a category, by id.
pub(crate) fn of_category(view: &View, category: &str) -> Vec<ResourceId> {
    view.referring(TAG, "category", &category::resource(category))
}

/// The ids of the resources of a type, and of one category if it is given, that have a name to the letter.
///
/// # Errors
/// `internal_server_error` should the query not compile.
pub(crate) fn named(
    view: &View,
    resource_type: &str,
    name: &str,
    category: Option<&ResourceId>,
) -> Result<Vec<String>, Error> {
    let equal = |property: &str, comparable| {
        let property = format!("{resource_type}/{property}");
        FilterSpec::Property(PropertyFilter { property, operator: Operator::Equal, comparable })
    };
    let mut filters = vec![equal("name", Comparable::String(name.to_owned()))];
    filters.extend(category.map(|id| equal("category", Comparable::Id(id.clone()))));
    let path = format!("{resource_type}/name");
    let spec = QuerySpec {
        resource_filter: FilterSpec::Composite { operator: CompositeOperator::Intersect, filters },
        property_spec: vec![path],
        sort_criteria: Vec::new(),
        offset: 0,
        limit: None,
        compute_total_item_count: false,
    };
    let query = Query::compile(&spec, view.registry(), &Limits::default()).map_err(|error| {
        tracing::error!(%error, "the query for a name does not compile");
        Error::internal()
    })?;
    let answer = view.query(&query);
    let ids = answer.items().map(|item| ResourceId::new(item.id().0, item.id().1));
    // A query compares without regard to case.
    let is_same = |id: &ResourceId| view.get(id).is_some_and(|stored| text(&stored.document, "name") == name);
    Ok(ids.filter(is_same).map(|id| id.id.into()).collect())
}

/// Whether no tag of the category has the name, but perhaps `own`.
fn check_free(view: &View, name: &str, category: &ResourceId, own: Option<&str>) -> Result<(), Error> {
    match named(view, TAG, name, Some(category))?.into_iter().find(|id| Some(&**id) != own) {
        Some(other) => Err(edit::exists(format!("tag {other} of the category has the name {name}"), name)),
        None => Ok(()),
    }
}

pub(crate) async fn create(context: &Context, input: CreateInput) -> Result<String, Error> {
    let spec = input.create_spec;
    check::name("create_spec.name", &spec.name)?;
    check::description("create_spec.description", &spec.description)?;
    let id = match spec.tag_id {
        Some(id) => id,
        None => ids::tag()?,
    };
    check::new_id("create_spec.tag_id", &resource(&id))?;
    let category = category::resource(&spec.category_id);
    let mut document = Document::default();
    document.set("name", Some(Value::from(&*spec.name)));
    document.set("description", Some(Value::from(&*spec.description)));
    document.set("category", Some(Value::from(category.clone())));
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        category::find(view, &spec.category_id)?;
        if view.modified(&resource(&id)).is_some() {
            return Err(edit::exists(format!("tag {id} exists"), &id));
        }
        check_free(view, &spec.name, &category, None)?;
        let mut edit = Edit::default();
        edit.create(resource(&id), document.clone(), Some(&category));
        edit.rely_on(view, &category);
        Ok((edit, ()))
    })
    .await?;
    Ok(id)
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<TagModel, Error> {
    let document = find(view, &input.tag_id)?;
    Ok(TagModel {
        id: input.tag_id,
        category_id: category_of(&document).map(|id| id.id.into()).unwrap_or_default(),
        name: text(&document, "name"),
        description: text(&document, "description"),
        used_by: texts(&document, "used_by"),
    })
}

pub(crate) fn list(view: &View, _: NoInput) -> Result<Vec<String>, Error> {
    Ok(view.ids(TAG, None).map(|id| id.id.into()).collect())
}

pub(crate) fn list_used(view: &View, input: UserInput) -> Result<Vec<String>, Error> {
    Ok(used_by(view, TAG, &input.used_by_entity))
}

/// The resources of a type that somebody says to use.
pub(crate) fn used_by(view: &View, resource_type: &str, user: &str) -> Vec<String> {
    let is_used = |id: &ResourceId| {
        view.get(id).is_some_and(|stored| texts(&stored.document, "used_by").iter().any(|known| known == user))
    };
    view.ids(resource_type, None).filter(is_used).map(|id| id.id.into()).collect()
}

pub(crate) fn list_of_category(view: &View, input: CategoryInput) -> Result<Vec<String>, Error> {
    category::find(view, &input.category_id)?;
    Ok(of_category(view, &input.category_id).into_iter().map(|id| id.id.into()).collect())
}

pub(crate) async fn update(context: &Context, input: UpdateInput) -> Result<(), Error> {
    let (id, spec) = (&input.tag_id, &input.update_spec);
    spec.name.iter().try_for_each(|name| check::name("update_spec.name", name))?;
    spec.description.iter().try_for_each(|text| check::description("update_spec.description", text))?;
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        let mut document = find(view, id)?;
        if let Some(name) = spec.name.as_ref().filter(|name| **name != text(&document, "name")) {
            if let Some(category) = category_of(&document) {
                check_free(view, name, &category, Some(id))?;
            }
            document.set("name", Some(Value::from(&**name)));
        }
        if let Some(description) = spec.description.as_ref().filter(|new| **new != text(&document, "description")) {
            document.set("description", Some(Value::from(&**description)));
        }
        let mut edit = Edit::default();
        edit.update(view, &resource(id), document)?;
        Ok((edit, ()))
    })
    .await
}

pub(crate) async fn delete(context: &Context, input: IdInput) -> Result<(), Error> {
    // Nothing of the built-in types stands below a tag; what a type registered at run time puts there is asked about, not taken along.
    match context.site.delete_resource(context.caller.name(), resource(&input.tag_id), None, false).await {
        Err(WriteError::NotFound(_)) => find(&context.site.view(), &input.tag_id).map(drop),
        written => written.map(drop).map_err(WriteError::into_error),
    }
}

/// A change of the list of users.
pub(crate) type ChangeUsers = fn(&mut Document, &str) -> Result<(), Error>;

pub(crate) fn add_user(document: &mut Document, user: &str) -> Result<(), Error> {
    let mut users = texts(document, "used_by");
    if users.iter().any(|known| known == user) {
        return Ok(());
    }
    if users.len() >= SET_MAX {
        return Err(invalid("used_by_entity", &format!("there are {SET_MAX} users already")));
    }
    users.push(user.to_owned());
    set_texts(document, "used_by", &users);
    Ok(())
}

pub(crate) fn remove_user(document: &mut Document, user: &str) -> Result<(), Error> {
    let mut users = texts(document, "used_by");
    if users.iter().any(|known| known == user) {
        users.retain(|known| known != user);
        set_texts(document, "used_by", &users);
    }
    Ok(())
}

pub(crate) async fn add_to_used_by(context: &Context, input: UseInput) -> Result<(), Error> {
    edit_users(context, input, add_user).await
}

pub(crate) async fn remove_from_used_by(context: &Context, input: UseInput) -> Result<(), Error> {
    edit_users(context, input, remove_user).await
}

async fn edit_users(context: &Context, input: UseInput, change: ChangeUsers) -> Result<(), Error> {
    check::name("used_by_entity", &input.used_by_entity)?;
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        let mut document = find(view, &input.tag_id)?;
        change(&mut document, &input.used_by_entity)?;
        let mut edit = Edit::default();
        edit.update(view, &resource(&input.tag_id), document)?;
        Ok((edit, ()))
    })
    .await
}

pub(crate) fn revoke_propagating_permissions(view: &View, input: IdInput) -> Result<(), Error> {
    find(view, &input.tag_id).map(drop)
}
