//! Categories of tags: which tags exclude each other, and what they may be attached to.

use crate::services::NoInput;
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// How many tags of a category an object may have.
    pub enum Cardinality = "com.vmware.cis.tagging.category_model.cardinality" {
        /// One at most.
        Single = "SINGLE",
        /// Any number.
        Multiple = "MULTIPLE",
    }
}

structure! {
    /// A category.
    pub struct CategoryModel = "com.vmware.cis.tagging.category_model" {
        /// The category's id.
        id: String,
        /// Its name, unique among categories.
        name: String,
        /// For people.
        description: String,
        /// How many of its tags an object may have.
        cardinality: Cardinality,
        /// The types of objects that its tags may be attached to; empty: any.
        associable_types: Vec<String>,
        /// Who says to use the category.
        used_by: Vec<String>,
    }
}

structure! {
    /// A new category.
    pub struct CreateSpec = "com.vmware.cis.tagging.category.create_spec" {
        /// Its name, unique among categories.
        name: String,
        /// For people; may be empty.
        description: String,
        /// How many of its tags an object may have.
        cardinality: Cardinality,
        /// The types of objects that its tags may be attached to, e.g. `VirtualMachine`; empty: any.
        associable_types: Vec<String>,
        /// Its id; unset: the service gives one.
        category_id: Option<String>,
    }
}

structure! {
    /// Changes of a category; what is unset stays.
    pub struct UpdateSpec = "com.vmware.cis.tagging.category.update_spec" {
        /// Its name.
        name: Option<String>,
        /// For people.
        description: Option<String>,
        /// How many of its tags an object may have; SINGLE only while none has more.
        cardinality: Option<Cardinality>,
        /// All types that its tags may be attached to; none of those before may be missing.
        associable_types: Option<Vec<String>>,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// The category.
        create_spec: CreateSpec,
    }
}

structure! {
    /// The parameters of `get`, `delete` and `revoke_propagating_permissions`.
    pub struct IdInput = "operation-input" {
        /// The category's id.
        category_id: String,
    }
}

structure! {
    /// The parameters of `update`.
    pub struct UpdateInput = "operation-input" {
        /// The category's id.
        category_id: String,
        /// What changes.
        update_spec: UpdateSpec,
    }
}

structure! {
    /// The parameters of `list_used_categories`.
    pub struct UserInput = "operation-input" {
        /// Who uses the categories.
        used_by_entity: String,
    }
}

structure! {
    /// The parameters of `add_to_used_by` and `remove_from_used_by`.
    pub struct UseInput = "operation-input" {
        /// The category's id.
        category_id: String,
        /// Who uses it.
        used_by_entity: String,
    }
}

operation! {
    /// Creates a category. Answers its id.
    pub Create = "com.vmware.cis.tagging.category"."create"(CreateInput) -> String,
    errors: [AlreadyExists, InvalidArgument, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/category", 201).body("create_spec"),
}

operation! {
    /// A category.
    pub Get = "com.vmware.cis.tagging.category"."get"(IdInput) -> CategoryModel,
    errors: [NotFound, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/cis/tagging/category/{category_id}", 200),
    id: "category_id",
}

operation! {
    /// Changes a category.
    pub Update = "com.vmware.cis.tagging.category"."update"(UpdateInput) -> (),
    errors: [AlreadyExists, InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Patch, "/cis/tagging/category/{category_id}", 204).body("update_spec"),
    id: "category_id",
}

operation! {
    /// Deletes a category with its tags, and takes them off whatever they are attached to.
    pub Delete = "com.vmware.cis.tagging.category"."delete"(IdInput) -> (),
    errors: [NotFound, ResourceInUse, Unauthenticated, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Delete, "/cis/tagging/category/{category_id}", 204),
    id: "category_id",
}

operation! {
    /// The ids of all categories.
    pub List = "com.vmware.cis.tagging.category"."list"(NoInput) -> Vec<String>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/cis/tagging/category", 200),
}

operation! {
    /// The ids of the categories that somebody says to use.
    pub ListUsedCategories = "com.vmware.cis.tagging.category"."list_used_categories"(UserInput) -> Vec<String>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/tagging/category", 200).action("list-used-categories"),
}

operation! {
    /// Notes who uses a category.
    pub AddToUsedBy = "com.vmware.cis.tagging.category"."add_to_used_by"(UseInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/category/{category_id}", 204).action("add-to-used-by"),
    id: "category_id",
}

operation! {
    /// Takes back who uses a category.
    pub RemoveFromUsedBy = "com.vmware.cis.tagging.category"."remove_from_used_by"(UseInput) -> (),
    errors: [InvalidArgument, NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/category/{category_id}", 204).action("remove-from-used-by"),
    id: "category_id",
}

operation! {
    /// Revokes permissions on the category that its tags inherit. There are none here, since roles are given for a whole site: it
    /// succeeds for every category that exists, and changes nothing.
    pub RevokePropagatingPermissions =
        "com.vmware.cis.tagging.category"."revoke_propagating_permissions"(IdInput) -> (),
    errors: [NotFound, Unauthorized],
    privilege: Write,
    rest: Rest::new(Method::Post, "/cis/tagging/category/{category_id}", 204).action("revoke-propagating-permissions"),
    id: "category_id",
}
