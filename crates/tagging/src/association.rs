//! What tags are attached to: the list `tags` of objects, read and edited.

use std::collections::BTreeMap;

use lockstep_contract::services::TypedId;
use lockstep_contract::services::tagging::category::Cardinality;
use lockstep_contract::services::tagging::tag_association::{
    BatchResult, ObjectInput, ObjectToTags, ObjectsInput, OnObjectsInput, OnTagsInput, PairInput, TagInput,
    TagToObjects, TagsInput,
};
use lockstep_contract::{Error, Message};
use lockstep_model::builtin::{TAG, TAGS, is_taggable};
use lockstep_model::{Document, ResourceId};
use lockstep_query::View;
use lockstep_site::stamps::listed;
use lockstep_site::table::Context;

use crate::check::{self, invalid};
use crate::edit::{self, Edit};
use crate::{category, tag};

fn resource(id: &TypedId) -> ResourceId {
    ResourceId::new(&*id.resource_type, &*id.id)
}

fn typed(id: &ResourceId) -> TypedId {
    TypedId { resource_type: id.resource_type.to_string(), id: id.id.to_string() }
}

/// The object, or why it can have no tags.
fn find_object(view: &View, id: &ResourceId) -> Result<Document, Error> {
    let type_name = id.resource_type.as_str();
    match view.registry().type_def(type_name) {
        None => Err(invalid("object_id.type", &format!("no resource type {type_name}"))),
        Some(type_def) if !is_taggable(type_def) => {
            Err(invalid("object_id.type", &format!("resources of type {type_name} have no tags")))
        }
        Some(_) => view.get(id).map(|stored| stored.document).ok_or_else(|| {
            let args = vec![type_name.to_owned(), id.id.to_string()];
            Error::not_found("lockstep.tagging.object_not_found", format!("no {id}"), args)
        }),
    }
}

/// The tags in an object's list that exist: those that are attached to it.
fn attached(view: &View, document: &Document) -> Vec<ResourceId> {
    let mut tags = listed(document);
    tags.retain(|id| id.resource_type.as_str() == TAG && view.modified(id).is_some());
    tags
}

/// What a tag is attached to, by type and id.
pub(crate) fn objects(view: &View, tag: &ResourceId) -> Vec<ResourceId> {
    let mut objects: Vec<ResourceId> = view
        .registry()
        .types()
        .filter(|type_def| is_taggable(type_def))
        .flat_map(|type_def| view.referring(type_def.name.as_str(), TAGS, tag))
        .collect();
    objects.sort_unstable();
    objects
}

/// A plan over several objects: what their lists become.
struct Lists<'v> {
    view: &'v View,
    edit: Edit,
    by_object: BTreeMap<ResourceId, (Document, Vec<ResourceId>)>,
}

impl<'v> Lists<'v> {
    fn new(view: &'v View) -> Self {
        Self { view, edit: Edit::default(), by_object: BTreeMap::new() }
    }

    /// The object's list, as the plan has it so far.
    fn of(&mut self, object: &ResourceId) -> Result<&mut Vec<ResourceId>, Error> {
        if !self.by_object.contains_key(object) {
            let document = find_object(self.view, object)?;
            let tags = listed(&document);
            self.by_object.insert(object.clone(), (document, tags));
        }
        self.by_object.get_mut(object).map(|(_, tags)| tags).ok_or_else(Error::internal)
    }

    fn step(&mut self, step: Step, tag_id: &str, object: &ResourceId) -> Result<(), Error> {
        match step {
            Step::Attach => self.attach(tag_id, object),
            Step::Detach => self.detach(tag_id, object),
        }
    }

    fn attach(&mut self, tag_id: &str, object: &ResourceId) -> Result<(), Error> {
        let view = self.view;
        let (id, document) = (tag::resource(tag_id), tag::find(view, tag_id)?);
        let tags = self.of(object)?;
        if tags.contains(&id) {
            return Ok(());
        }
        let category_id = tag::category_of(&document);
        if let Some(category_id) = &category_id
            && let Some(category) = view.get(category_id).map(|stored| stored.document)
        {
            let type_name = object.resource_type.as_str();
            if !category::allows(&category, type_name) {
                let message = format!("the category of tag {tag_id} is not for resources of type {type_name}");
                return Err(invalid("object_id.type", &message));
            }
            if category::cardinality(&category) == Cardinality::Single
                && let Some(other) = category::siblings(view, category_id, tags).next()
            {
                let message = format!("{object} has tag {} of the same category, which allows one", other.id);
                return Err(invalid("tag_id", &message));
            }
        }
        tags.push(id.clone());
        self.edit.rely_on(view, &id);
        category_id.iter().for_each(|id| self.edit.rely_on(view, id));
        Ok(())
    }

    fn detach(&mut self, tag_id: &str, object: &ResourceId) -> Result<(), Error> {
        tag::find(self.view, tag_id)?;
        let id = tag::resource(tag_id);
        self.of(object)?.retain(|tag| *tag != id);
        Ok(())
    }

    /// The commit that makes the lists so. A list that stays the same is left as it was written.
    fn finish(mut self) -> Edit {
        for (object, (document, tags)) in self.by_object {
            if listed(&document) == tags {
                continue;
            }
            self.edit.update_tags(self.view, &object, &tags);
        }
        self.edit
    }
}

/// What an edit does with each pair of a tag and an object.
#[derive(Clone, Copy)]
enum Step {
    Attach,
    Detach,
}

async fn edit_one(context: &Context, input: PairInput, step: Step) -> Result<(), Error> {
    let object = resource(&input.object_id);
    let _shared = context.site.tagging.read().await;
    edit::commit(context, |view| {
        let mut lists = Lists::new(view);
        lists.step(step, &input.tag_id, &object)?;
        Ok((lists.finish(), ()))
    })
    .await
}

/// Edits all pairs of these tags and objects in one commit, but for those that are refused.
async fn edit_many(
    context: &Context,
    tags: &[String],
    objects: &[ResourceId],
    step: Step,
) -> Result<BatchResult, Error> {
    let _shared = context.site.tagging.read().await;
    edit::commit(context, |view| {
        let mut lists = Lists::new(view);
        let mut error_messages: Vec<Message> = Vec::new();
        for (tag, object) in objects.iter().flat_map(|object| tags.iter().map(move |tag| (tag, object))) {
            if let Err(error) = lists.step(step, tag, object) {
                error_messages.extend(error.messages.into_iter().next());
            }
        }
        let result = BatchResult { success: error_messages.is_empty(), error_messages };
        Ok((lists.finish(), result))
    })
    .await
}

async fn edit_tags(context: &Context, input: TagsInput, step: Step) -> Result<BatchResult, Error> {
    check::items("tag_ids", &input.tag_ids)?;
    edit_many(context, &input.tag_ids, &[resource(&input.object_id)], step).await
}

async fn edit_objects(context: &Context, input: ObjectsInput, step: Step) -> Result<BatchResult, Error> {
    check::items("object_ids", &input.object_ids)?;
    tag::find(&context.site.view(), &input.tag_id)?;
    let objects: Vec<ResourceId> = input.object_ids.iter().map(resource).collect();
    edit_many(context, &[input.tag_id], &objects, step).await
}

pub(crate) async fn attach(context: &Context, input: PairInput) -> Result<(), Error> {
    edit_one(context, input, Step::Attach).await
}

pub(crate) async fn attach_multiple_tags_to_object(context: &Context, input: TagsInput) -> Result<BatchResult, Error> {
    edit_tags(context, input, Step::Attach).await
}

pub(crate) async fn attach_tag_to_multiple_objects(
    context: &Context,
    input: ObjectsInput,
) -> Result<BatchResult, Error> {
    edit_objects(context, input, Step::Attach).await
}

pub(crate) async fn detach(context: &Context, input: PairInput) -> Result<(), Error> {
    edit_one(context, input, Step::Detach).await
}

pub(crate) async fn detach_multiple_tags_from_object(
    context: &Context,
    input: TagsInput,
) -> Result<BatchResult, Error> {
    edit_tags(context, input, Step::Detach).await
}

pub(crate) async fn detach_tag_from_multiple_objects(
    context: &Context,
    input: ObjectsInput,
) -> Result<BatchResult, Error> {
    edit_objects(context, input, Step::Detach).await
}

pub(crate) fn list_attached_objects(view: &View, input: TagInput) -> Result<Vec<TypedId>, Error> {
    tag::find(view, &input.tag_id)?;
    Ok(objects(view, &tag::resource(&input.tag_id)).iter().map(typed).collect())
}

pub(crate) fn list_attached_objects_on_tags(view: &View, input: OnTagsInput) -> Result<Vec<TagToObjects>, Error> {
    check::items("tag_ids", &input.tag_ids)?;
    let existing = input.tag_ids.into_iter().filter(|id| view.modified(&tag::resource(id)).is_some());
    let of_tag = |tag_id: String| {
        let object_ids = objects(view, &tag::resource(&tag_id)).iter().map(typed).collect();
        TagToObjects { tag_id, object_ids }
    };
    Ok(existing.map(of_tag).collect())
}

/// The ids of the tags of an object; `None` when it does not exist or can have none.
fn tags_of(view: &View, object: &ResourceId) -> Option<Vec<String>> {
    let document = find_object(view, object).ok()?;
    Some(attached(view, &document).into_iter().map(|id| id.id.into()).collect())
}

pub(crate) fn list_attached_tags(view: &View, input: ObjectInput) -> Result<Vec<String>, Error> {
    Ok(tags_of(view, &resource(&input.object_id)).unwrap_or_default())
}

pub(crate) fn list_attached_tags_on_objects(view: &View, input: OnObjectsInput) -> Result<Vec<ObjectToTags>, Error> {
    check::items("object_ids", &input.object_ids)?;
    let of_object = |object_id: TypedId| {
        let tag_ids = tags_of(view, &resource(&object_id))?;
        Some(ObjectToTags { object_id, tag_ids })
    };
    Ok(input.object_ids.into_iter().filter_map(of_object).collect())
}

pub(crate) fn list_attachable_tags(view: &View, input: ObjectInput) -> Result<Vec<String>, Error> {
    let object = resource(&input.object_id);
    if find_object(view, &object).is_err() {
        return Ok(Vec::new());
    }
    let mut lists = Lists::new(view);
    let has = lists.of(&object)?.clone();
    let mut ids = Vec::new();
    for id in view.ids(TAG, None).filter(|id| !has.contains(id)) {
        if lists.attach(&id.id, &object).is_ok() {
            // Each is asked about by itself, not beside those before.
            lists.of(&object)?.pop();
            ids.push(id.id.into());
        }
    }
    Ok(ids)
}
