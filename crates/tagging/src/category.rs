//! The operations on categories.

use lockstep_contract::Error;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::tagging::category::{
    Cardinality, CategoryModel, CreateInput, IdInput, UpdateInput, UseInput, UserInput,
};
use lockstep_model::builtin::{TAG, TAG_CATEGORY};
use lockstep_model::{Document, ResourceId, Value};
use lockstep_query::View;
use lockstep_site::WriteError;
use lockstep_site::table::Context;

use crate::check::{self, invalid};
use crate::edit::{self, Edit, set_texts, text, texts};
use crate::{association, ids, tag};

pub(crate) fn resource(id: &str) -> ResourceId {
    ResourceId::new(TAG_CATEGORY, id)
}

/// The category, or the error that there is none.
pub(crate) fn find(view: &View, id: &str) -> Result<Document, Error> {
    let not_found =
        || Error::not_found("lockstep.tagging.category_not_found", format!("no category {id}"), vec![id.to_owned()]);
    view.get(&resource(id)).map(|stored| stored.document).ok_or_else(not_found)
}

/// How many of its tags an object may have. Only what says SINGLE is.
pub(crate) fn cardinality(document: &Document) -> Cardinality {
    let text = document.get("cardinality").and_then(Value::as_str);
    text.and_then(Cardinality::from_name).unwrap_or(Cardinality::Multiple)
}

/// Whether its tags may be attached to objects of a type.
pub(crate) fn allows(document: &Document, resource_type: &str) -> bool {
    let types = texts(document, "associable_types");
    types.is_empty() || types.iter().any(|allowed| allowed == resource_type)
}

fn model(id: &str, document: &Document) -> CategoryModel {
    CategoryModel {
        id: id.to_owned(),
        name: text(document, "name"),
        description: text(document, "description"),
        cardinality: cardinality(document),
        associable_types: texts(document, "associable_types"),
        used_by: texts(document, "used_by"),
    }
}

pub(crate) async fn create(context: &Context, input: CreateInput) -> Result<String, Error> {
    let spec = input.create_spec;
    check::name("create_spec.name", &spec.name)?;
    check::description("create_spec.description", &spec.description)?;
    check::set("create_spec.associable_types", &spec.associable_types)?;
    let id = match spec.category_id {
        Some(id) => id,
        None => ids::category()?,
    };
    check::new_id("create_spec.category_id", &resource(&id))?;
    let mut document = Document::default();
    document.set("name", Some(Value::from(&*spec.name)));
    document.set("description", Some(Value::from(&*spec.description)));
    document.set("cardinality", Some(Value::from(spec.cardinality.name())));
    set_texts(&mut document, "associable_types", &spec.associable_types);
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        if view.modified(&resource(&id)).is_some() {
            return Err(edit::exists(format!("category {id} exists"), &id));
        }
        check_free(view, &spec.name, None)?;
        let mut edit = Edit::default();
        edit.create(resource(&id), document.clone(), None);
        Ok((edit, ()))
    })
    .await?;
    Ok(id)
}

/// Whether no category has the name, but perhaps `own`.
fn check_free(view: &View, name: &str, own: Option<&str>) -> Result<(), Error> {
    match tag::named(view, TAG_CATEGORY, name, None)?.into_iter().find(|id| Some(&**id) != own) {
        Some(other) => Err(edit::exists(format!("category {other} has the name {name}"), name)),
        None => Ok(()),
    }
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<CategoryModel, Error> {
    find(view, &input.category_id).map(|document| model(&input.category_id, &document))
}

pub(crate) fn list(view: &View, _: NoInput) -> Result<Vec<String>, Error> {
    Ok(view.ids(TAG_CATEGORY, None).map(|id| id.id.into()).collect())
}

pub(crate) fn list_used(view: &View, input: UserInput) -> Result<Vec<String>, Error> {
    Ok(tag::used_by(view, TAG_CATEGORY, &input.used_by_entity))
}

pub(crate) async fn update(context: &Context, input: UpdateInput) -> Result<(), Error> {
    let (id, spec) = (&input.category_id, &input.update_spec);
    spec.name.iter().try_for_each(|name| check::name("update_spec.name", name))?;
    spec.description.iter().try_for_each(|text| check::description("update_spec.description", text))?;
    spec.associable_types.iter().try_for_each(|types| check::set("update_spec.associable_types", types))?;
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        let mut document = find(view, id)?;
        if let Some(name) = spec.name.as_ref().filter(|name| **name != text(&document, "name")) {
            check_free(view, name, Some(id))?;
            document.set("name", Some(Value::from(&**name)));
        }
        if let Some(description) = spec.description.as_ref().filter(|new| **new != text(&document, "description")) {
            document.set("description", Some(Value::from(&**description)));
        }
        if let Some(wanted) = spec.cardinality.filter(|wanted| *wanted != cardinality(&document)) {
            if wanted == Cardinality::Single {
                check_at_most_one(view, id)?;
            }
            document.set("cardinality", Some(Value::from(wanted.name())));
        }
        if let Some(types) = &spec.associable_types {
            check_grows(&texts(&document, "associable_types"), types)?;
            // In the order in which they came to be: the same set in another order is no change.
            let mut grown = texts(&document, "associable_types");
            grown.retain(|old| types.contains(old));
            grown.extend(types.iter().filter(|new| !grown.contains(new)).cloned().collect::<Vec<_>>());
            set_texts(&mut document, "associable_types", &grown);
        }
        let mut edit = Edit::default();
        edit.update(view, &resource(id), document)?;
        Ok((edit, ()))
    })
    .await
}

/// Whether no object has more than one tag of the category.
fn check_at_most_one(view: &View, id: &str) -> Result<(), Error> {
    let mut tagged = std::collections::HashMap::new();
    for tag in tag::of_category(view, id) {
        for object in association::objects(view, &tag) {
            if let Some(other) = tagged.insert(object.clone(), tag.clone()) {
                let message = format!("{object} has the tags {} and {}: detach one first", other.id, tag.id);
                return Err(invalid("update_spec.cardinality", &message));
            }
        }
    }
    Ok(())
}

/// Whether everything that was allowed still is. The empty set allows everything.
fn check_grows(old: &[String], new: &[String]) -> Result<(), Error> {
    const PLACE: &str = "update_spec.associable_types";
    if new.is_empty() {
        return Ok(());
    }
    if old.is_empty() {
        return Err(invalid(PLACE, "the category allows every type, and associable types can only grow"));
    }
    match old.iter().find(|old| !new.contains(old)) {
        Some(missing) => Err(invalid(PLACE, &format!("{missing} is missing, and associable types can only grow"))),
        None => Ok(()),
    }
}

pub(crate) async fn delete(context: &Context, input: IdInput) -> Result<(), Error> {
    let id = resource(&input.category_id);
    match context.site.delete_resource(context.caller.name(), id, None, true).await {
        Err(WriteError::NotFound(_)) => find(&context.site.view(), &input.category_id).map(drop),
        written => written.map(drop).map_err(WriteError::into_error),
    }
}

pub(crate) async fn add_to_used_by(context: &Context, input: UseInput) -> Result<(), Error> {
    edit_users(context, input, tag::add_user).await
}

pub(crate) async fn remove_from_used_by(context: &Context, input: UseInput) -> Result<(), Error> {
    edit_users(context, input, tag::remove_user).await
}

async fn edit_users(context: &Context, input: UseInput, change: tag::ChangeUsers) -> Result<(), Error> {
    check::name("used_by_entity", &input.used_by_entity)?;
    let _alone = context.site.tagging.write().await;
    edit::commit(context, |view| {
        let mut document = find(view, &input.category_id)?;
        change(&mut document, &input.used_by_entity)?;
        let mut edit = Edit::default();
        edit.update(view, &resource(&input.category_id), document)?;
        Ok((edit, ()))
    })
    .await
}

pub(crate) fn revoke_propagating_permissions(view: &View, input: IdInput) -> Result<(), Error> {
    find(view, &input.category_id).map(drop)
}

/// The tags of a category that are attached to an object, the object's list given.
pub(crate) fn siblings<'t>(
    view: &'t View,
    category: &'t ResourceId,
    tags: &'t [ResourceId],
) -> impl Iterator<Item = &'t ResourceId> {
    tags.iter().filter(move |id| {
        id.resource_type.as_str() == TAG
            && view.get(id).is_some_and(|stored| tag::category_of(&stored.document).as_ref() == Some(category))
    })
}
