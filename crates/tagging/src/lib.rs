//! Tagging: categories, tags, and what they are attached to.
//!
//! # What is where
//! | what | is |
//! |---|---|
//! | a category | a resource of type `TagCategory` |
//! | a tag | a resource of type `Tag`, below its category |
//! | an attachment | an entry in the object's property `tags`, and nothing else |
//!
//! The object's list is the only record of an attachment. What a tag is attached to is read from that list backwards, by the index that
//! queries use too, so the two directions cannot disagree, a query for `tags->Tag/name` needs nothing from here, and an import
//! that brings `tags` has attached them. An object that is deleted takes its attachments along by itself. A tag or category that
//! is deleted is taken off its objects in the same commit, by [`Site::delete_resource`](lockstep_site::Site::delete_resource), whoever
//! deletes it. Collectors write the properties that they own, one by one, and so leave the list alone.
//!
//! # Rules
//! - A category's name is unique among categories, a tag's in its category; both to the letter, so `gold` and `Gold` are two.
//! - A tag is attached to what its category allows: any object that has a list of tags, or only those of the associable types.
//! - With cardinality SINGLE an object has one tag of the category at most.
//! - A category's associable types grow and never shrink; it becomes SINGLE only while no object has more of its tags than one.
//! - Attaching twice and detaching twice is done once: nothing is committed for what is there already.
//!
//! These hold for edits that are made here. Categories and tags are ordinary resources too, since inventories are imported with them:
//! a plain write or an import may bring two tags of one name, more tags than a category allows, or tags that do not exist. Nothing
//! here fails on that. What is missing reads as empty, a cardinality that is not SINGLE as MULTIPLE, a tag that does not exist is
//! in no answer, and the next edit is held to the rules.
//!
//! # Linked sites
//! Sites that are linked share categories, tags and attachments, and edit them here as if they were alone; an object is tagged at its own site
//! or on its copy. [`Site::commit`](lockstep_site::Site::commit) puts beside each edit what linked sites need to bring edits together
//! ([`lockstep_site::stamps`]); the provider `tagging` of `lockstep-links` does so, and breaks no rule for longer than it takes both sites to
//! hear of each other: it renames the later of two that were given one name apart, and of two tags of a SINGLE category takes off the earlier.
//!
//! # What runs at the same time
//! Every edit is one commit, planned on the view and committed on the condition that what it was planned on is unchanged: the object, and
//! the tag and its category beside it. Preconditions cannot see what is *not* there yet: a second tag of the same name, an
//! attachment made while its tag is deleted. So edits hold a lock of the site from the look to the commit, [`Site::tagging`]
//! (lockstep_site::Site::tagging): attaching and detaching share it, since two of them that meet do so on one object and are told apart
//! by its precondition; what changes categories and tags has it alone. Reads take no lock but the view's.
//!
//! An alternative was a resource for every name, so that the journal alone could refuse the second. It would have to be kept in step
//! with imports, and would be in every export and feed for nobody's use.
//!
//! # Limits
//! Names have 256 characters, descriptions 4096, a category 100 associable types, a category or tag 100 users; one call names 10,000
//! objects or tags. A tag on more than a hundred thousand objects is detached in parts before it is deleted.

mod association;
mod category;
mod check;
mod edit;
mod ids;
mod tag;

use lockstep_contract::services::tagging::{category as categories, tag as tags, tag_association as associations};
use lockstep_site::table::Table;

/// Registers the service's operations.
pub fn register(table: &mut Table) {
    macro_rules! read {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( table.register($operation, async |context, input| $handler(&context.site.view(), input)); )*
        };
    }
    macro_rules! edit {
        ($($operation:path => $handler:path),* $(,)?) => {
            $( table.register($operation, async |context, input| $handler(&context, input).await); )*
        };
    }
    read! {
        categories::Get => category::get,
        categories::List => category::list,
        categories::ListUsedCategories => category::list_used,
        categories::RevokePropagatingPermissions => category::revoke_propagating_permissions,
        tags::Get => tag::get,
        tags::List => tag::list,
        tags::ListUsedTags => tag::list_used,
        tags::ListTagsForCategory => tag::list_of_category,
        tags::RevokePropagatingPermissions => tag::revoke_propagating_permissions,
        associations::ListAttachedObjects => association::list_attached_objects,
        associations::ListAttachedObjectsOnTags => association::list_attached_objects_on_tags,
        associations::ListAttachedTags => association::list_attached_tags,
        associations::ListAttachedTagsOnObjects => association::list_attached_tags_on_objects,
        associations::ListAttachableTags => association::list_attachable_tags,
    }
    edit! {
        categories::Create => category::create,
        categories::Update => category::update,
        categories::Delete => category::delete,
        categories::AddToUsedBy => category::add_to_used_by,
        categories::RemoveFromUsedBy => category::remove_from_used_by,
        tags::Create => tag::create,
        tags::Update => tag::update,
        tags::Delete => tag::delete,
        tags::AddToUsedBy => tag::add_to_used_by,
        tags::RemoveFromUsedBy => tag::remove_from_used_by,
        associations::Attach => association::attach,
        associations::AttachMultipleTagsToObject => association::attach_multiple_tags_to_object,
        associations::AttachTagToMultipleObjects => association::attach_tag_to_multiple_objects,
        associations::Detach => association::detach,
        associations::DetachMultipleTagsFromObject => association::detach_multiple_tags_from_object,
        associations::DetachTagFromMultipleObjects => association::detach_tag_from_multiple_objects,
    }
}
