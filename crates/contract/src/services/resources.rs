//! Resources: the inventory's contents, one at a time. Many at once: import and export, which are streams.

use crate::services::TypedId;
use crate::{Method, Opaque, Rest, operation, structure};

structure! {
    /// A resource as it is stored.
    pub struct Resource = "lockstep.resources.resource" {
        /// Its type.
        resource_type as "type": String,
        /// Its id.
        id: String,
        /// Its properties; secret ones are left out.
        properties: Opaque,
        /// The position of the commit that created it.
        created: i64,
        /// The position of the commit that last changed it: what `expected_position` is compared with.
        modified: i64,
    }
}

structure! {
    /// What a write did.
    pub struct Written = "lockstep.resources.written" {
        /// The position of the commit, or of the resource's last change when there was nothing to change.
        position: i64,
        /// The token from which `get_changes` goes on behind the commit.
        sequence: String,
        /// Whether anything changed.
        changed: bool,
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// The id.
        id: String,
        /// The properties.
        properties: Opaque,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct GetInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// The id.
        id: String,
    }
}

structure! {
    /// The parameters of `replace`.
    pub struct ReplaceInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// The id.
        id: String,
        /// All properties that it shall have.
        properties: Opaque,
        /// Refuse unless the resource was last changed by the commit at this position; 0: unless it does not exist.
        expected_position: Option<i64>,
    }
}

structure! {
    /// The parameters of `patch`.
    pub struct PatchInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// The id.
        id: String,
        /// An object from property paths (`name`, `struct/field`) to values; null unsets.
        properties: Opaque,
        /// Refuse unless the resource was last changed by the commit at this position.
        expected_position: Option<i64>,
    }
}

structure! {
    /// The parameters of `delete`.
    pub struct DeleteInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// The id.
        id: String,
        /// Refuse unless the resource was last changed by the commit at this position.
        expected_position: Option<i64>,
        /// Delete what is below it too, children first; unset: a resource with children is refused.
        cascade: Option<bool>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// The type.
        resource_type as "type": String,
        /// Go on behind this id.
        after: Option<String>,
        /// How many at most; unset or above the service's limit: that limit.
        limit: Option<i64>,
    }
}

structure! {
    /// Ids of resources, in order.
    pub struct IdPage = "lockstep.resources.id_page" {
        /// The resources.
        resources: Vec<TypedId>,
        /// Whether there are more behind the last.
        more: bool,
    }
}

operation! {
    /// Creates a resource.
    pub Create = "lockstep.resources"."create"(CreateInput) -> Written,
    errors: [AlreadyExists, InvalidArgument, Unauthenticated, Unauthorized, UnableToAllocateResource, ServiceUnavailable],
    privilege: Write,
    rest: Rest::new(Method::Post, "/lockstep/resources", 201),
}

operation! {
    /// Reads a resource.
    pub Get = "lockstep.resources"."get"(GetInput) -> Resource,
    errors: [NotFound, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/resources/{type}/{id}", 200),
}

operation! {
    /// Lists the ids of a type's resources.
    pub List = "lockstep.resources"."list"(ListInput) -> IdPage,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/resources/{type}", 200),
}

operation! {
    /// Creates a resource, or gives it other properties.
    pub Replace = "lockstep.resources"."replace"(ReplaceInput) -> Written,
    errors: [ConcurrentChange, InvalidArgument, Unauthenticated, Unauthorized, UnableToAllocateResource, ServiceUnavailable],
    privilege: Write,
    rest: Rest::new(Method::Put, "/lockstep/resources/{type}/{id}", 200),
}

operation! {
    /// Changes some properties of a resource.
    pub Patch = "lockstep.resources"."patch"(PatchInput) -> Written,
    errors: [ConcurrentChange, InvalidArgument, NotFound, Unauthenticated, Unauthorized, UnableToAllocateResource, ServiceUnavailable],
    privilege: Write,
    rest: Rest::new(Method::Patch, "/lockstep/resources/{type}/{id}", 200),
}

operation! {
    /// Deletes a resource.
    pub Delete = "lockstep.resources"."delete"(DeleteInput) -> Written,
    errors: [ConcurrentChange, NotFound, ResourceInUse, Unauthenticated, Unauthorized, UnableToAllocateResource, ServiceUnavailable],
    privilege: Write,
    rest: Rest::new(Method::Delete, "/lockstep/resources/{type}/{id}", 200),
}
