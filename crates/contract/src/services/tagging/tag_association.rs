//! What tags are attached to.

use crate::services::TypedId;
use crate::{Message, Method, Rest, operation, structure};

structure! {
    /// What became of a call for several tags or objects. What could be done is done, whatever else was refused.
    pub struct BatchResult = "com.vmware.cis.tagging.tag_association.batch_result" {
        /// Whether nothing was refused.
        success: bool,
        /// Why each of those that were refused was.
        error_messages: Vec<Message>,
    }
}

structure! {
    /// A tag and what it is attached to.
    pub struct TagToObjects = "com.vmware.cis.tagging.tag_association.tag_to_objects" {
        /// The tag.
        tag_id: String,
        /// The objects.
        object_ids: Vec<TypedId>,
    }
}

structure! {
    /// An object and its tags.
    pub struct ObjectToTags = "com.vmware.cis.tagging.tag_association.object_to_tags" {
        /// The object.
        object_id: TypedId,
        /// The tags.
        tag_ids: Vec<String>,
    }
}

structure! {
    /// The parameters of `attach` and `detach`.
    pub struct PairInput = "operation-input" {
        /// The tag.
        tag_id: String,
        /// The object.
        object_id: TypedId,
    }
}

structure! {
    /// The parameters of `attach_multiple_tags_to_object` and `detach_multiple_tags_from_object`.
    pub struct TagsInput = "operation-input" {
        /// The object.
        object_id: TypedId,
        /// The tags.
        tag_ids: Vec<String>,
    }
}

structure! {
    /// The parameters of `attach_tag_to_multiple_objects` and `detach_tag_from_multiple_objects`.
    pub struct ObjectsInput = "operation-input" {
        /// The tag.
        tag_id: String,
        /// The objects.
        object_ids: Vec<TypedId>,
    }
}

structure! {
    /// The parameters of `list_attached_objects`.
    pub struct TagInput = "operation-input" {
        /// The tag.
        tag_id: String,
    }
}

structure! {
    /// The parameters of `list_attached_objects_on_tags`.
    pub struct OnTagsInput = "operation-input" {
        /// The tags.
        tag_ids: Vec<String>,
    }
}

structure! {
    /// The parameters of `list_attached_tags` and `list_attachable_tags`.
    pub struct ObjectInput = "operation-input" {
        /// The object.
        object_id: TypedId,
    }
}

structure! {
    /// The parameters of `list_attached_tags_on_objects`.
    pub struct OnObjectsInput = "operation-input" {
        /// The objects.
        object_ids: Vec<TypedId>,
    }
}

operation! {
    /// Attaches a tag to an object. Without effect when it is attached already.
    pub Attach = "com.vmware.cis.tagging.tag_association"."attach"(PairInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association/{tag_id}", 204).action("attach"),
    id: "tag_id",
}

operation! {
    /// Attaches tags to an object: in one commit those that fit, with a message for each that does not.
    pub AttachMultipleTagsToObject =
        "com.vmware.cis.tagging.tag_association"."attach_multiple_tags_to_object"(TagsInput) -> BatchResult,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("attach-multiple-tags-to-object"),
}

operation! {
    /// Attaches a tag to objects: in one commit to those where it fits, with a message for each where it does not.
    pub AttachTagToMultipleObjects =
        "com.vmware.cis.tagging.tag_association"."attach_tag_to_multiple_objects"(ObjectsInput) -> BatchResult,
    errors: [InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association/{tag_id}", 200).action("attach-tag-to-multiple-objects"),
    id: "tag_id",
}

operation! {
    /// Detaches a tag from an object. Without effect when it is not attached.
    pub Detach = "com.vmware.cis.tagging.tag_association"."detach"(PairInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association/{tag_id}", 204).action("detach"),
    id: "tag_id",
}

operation! {
    /// Detaches tags from an object, in one commit.
    pub DetachMultipleTagsFromObject =
        "com.vmware.cis.tagging.tag_association"."detach_multiple_tags_from_object"(TagsInput) -> BatchResult,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("detach-multiple-tags-from-object"),
}

operation! {
    /// Detaches a tag from objects, in one commit.
    pub DetachTagFromMultipleObjects =
        "com.vmware.cis.tagging.tag_association"."detach_tag_from_multiple_objects"(ObjectsInput) -> BatchResult,
    errors: [InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association/{tag_id}", 200)
        .action("detach-tag-from-multiple-objects"),
    id: "tag_id",
}

operation! {
    /// What a tag is attached to, by type and id.
    pub ListAttachedObjects = "com.vmware.cis.tagging.tag_association"."list_attached_objects"(TagInput) -> Vec<TypedId>,
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association/{tag_id}", 200).action("list-attached-objects"),
    id: "tag_id",
}

operation! {
    /// What each of these tags is attached to. Tags that do not exist are left out.
    pub ListAttachedObjectsOnTags =
        "com.vmware.cis.tagging.tag_association"."list_attached_objects_on_tags"(OnTagsInput) -> Vec<TagToObjects>,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("list-attached-objects-on-tags"),
}

operation! {
    /// The tags of an object, in the order in which they were attached; none for an object that does not exist.
    pub ListAttachedTags = "com.vmware.cis.tagging.tag_association"."list_attached_tags"(ObjectInput) -> Vec<String>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("list-attached-tags"),
}

operation! {
    /// The tags of each of these objects. Objects that do not exist are left out.
    pub ListAttachedTagsOnObjects =
        "com.vmware.cis.tagging.tag_association"."list_attached_tags_on_objects"(OnObjectsInput) -> Vec<ObjectToTags>,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("list-attached-tags-on-objects"),
}

operation! {
    /// The tags that could be attached to an object besides those it has; none for an object that does not exist.
    pub ListAttachableTags = "com.vmware.cis.tagging.tag_association"."list_attachable_tags"(ObjectInput) -> Vec<String>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag-association", 200).action("list-attachable-tags"),
}
