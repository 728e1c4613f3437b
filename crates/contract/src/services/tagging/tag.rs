//! Tags.

use crate::services::NoInput;
use crate::{Method, Rest, operation, structure};

structure! {
    /// A tag.
    pub struct TagModel = "com.vmware.cis.tagging.tag_model" {
        /// The tag's id.
        id: String,
        /// The category that it belongs to.
        category_id: String,
        /// Its name, unique in its category.
        name: String,
        /// For people.
        description: String,
        /// Who says to use the tag.
        used_by: Vec<String>,
    }
}

structure! {
    /// A new tag.
    pub struct CreateSpec = "com.vmware.cis.tagging.tag.create_spec" {
        /// Its name, unique in its category.
        name: String,
        /// For people; may be empty.
        description: String,
        /// The category that it belongs to.
        category_id: String,
        /// Its id; unset: the service gives one.
        tag_id: Option<String>,
    }
}

structure! {
    /// Changes of a tag; what is unset stays.
    pub struct UpdateSpec = "com.vmware.cis.tagging.tag.update_spec" {
        /// Its name.
        name: Option<String>,
        /// For people.
        description: Option<String>,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// The tag.
        create_spec: CreateSpec,
    }
}

structure! {
    /// The parameters of `get`, `delete` and `revoke_propagating_permissions`.
    pub struct IdInput = "operation-input" {
        /// The tag's id.
        tag_id: String,
    }
}

structure! {
    /// The parameters of `update`.
    pub struct UpdateInput = "operation-input" {
        /// The tag's id.
        tag_id: String,
        /// What changes.
        update_spec: UpdateSpec,
    }
}

structure! {
    /// The parameters of `list_used_tags`.
    pub struct UserInput = "operation-input" {
        /// Who uses the tags.
        used_by_entity: String,
    }
}

structure! {
    /// The parameters of `list_tags_for_category`.
    pub struct CategoryInput = "operation-input" {
        /// The category's id.
        category_id: String,
    }
}

structure! {
    /// The parameters of `add_to_used_by` and `remove_from_used_by`.
    pub struct UseInput = "operation-input" {
        /// The tag's id.
        tag_id: String,
        /// Who uses it.
        used_by_entity: String,
    }
}

operation! {
    /// Creates a tag. Answers its id.
    pub Create = "com.vmware.cis.tagging.tag"."create"(CreateInput) -> String,
    errors: [AlreadyExists, InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag", 201).body("create_spec"),
}

operation! {
    /// A tag.
    pub Get = "com.vmware.cis.tagging.tag"."get"(IdInput) -> TagModel,
    errors: [NotFound, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/cis/tagging/tag/{tag_id}", 200),
    id: "tag_id",
}

operation! {
    /// Changes a tag. Without anything to change it succeeds.
    pub Update = "com.vmware.cis.tagging.tag"."update"(UpdateInput) -> (),
    errors: [AlreadyExists, InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Patch, "/cis/tagging/tag/{tag_id}", 204).body("update_spec"),
    id: "tag_id",
}

operation! {
    /// Deletes a tag, and takes it off whatever it is attached to.
    pub Delete = "com.vmware.cis.tagging.tag"."delete"(IdInput) -> (),
    errors: [NotFound, ResourceInUse, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Delete, "/cis/tagging/tag/{tag_id}", 204),
    id: "tag_id",
}

operation! {
    /// The ids of all tags.
    pub List = "com.vmware.cis.tagging.tag"."list"(NoInput) -> Vec<String>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/cis/tagging/tag", 200),
}

operation! {
    /// The ids of the tags that somebody says to use.
    pub ListUsedTags = "com.vmware.cis.tagging.tag"."list_used_tags"(UserInput) -> Vec<String>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag", 200).action("list-used-tags"),
}

operation! {
    /// The ids of the tags of a category.
    pub ListTagsForCategory = "com.vmware.cis.tagging.tag"."list_tags_for_category"(CategoryInput) -> Vec<String>,
    errors: [NotFound, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/tag", 200).action("list-tags-for-category"),
    id: "category_id",
}

operation! {
    /// Notes who uses a tag.
    pub AddToUsedBy = "com.vmware.cis.tagging.tag"."add_to_used_by"(UseInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag/{tag_id}", 204).action("add-to-used-by"),
    id: "tag_id",
}

operation! {
    /// Takes back who uses a tag.
    pub RemoveFromUsedBy = "com.vmware.cis.tagging.tag"."remove_from_used_by"(UseInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag/{tag_id}", 204).action("remove-from-used-by"),
    id: "tag_id",
}

operation! {
    /// Revokes permissions on the tag that its objects inherit. There are none here, since roles are given for a whole site: it succeeds
    /// for every tag that exists, and changes nothing.
    pub RevokePropagatingPermissions = "com.vmware.cis.tagging.tag"."revoke_propagating_permissions"(IdInput) -> (),
    errors: [NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/tag/{tag_id}", 204).action("revoke-propagating-permissions"),
    id: "tag_id",
}
