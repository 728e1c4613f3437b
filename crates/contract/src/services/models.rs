//! Resource types and models: what can be stored and queried.

use crate::services::NoInput;
use crate::{Method, Opaque, Rest, operation, structure};

structure! {
    /// A property of a model, or a field of a structure.
    pub struct PropertyInfo = "lockstep.models.property_info" {
        /// The path below the model: `name`, or `struct/field`.
        path: String,
        /// LONG, DOUBLE, BOOLEAN, STRING, DATE_TIME, ID or STRUCT.
        kind: String,
        /// Whether it is a list of such.
        list: bool,
        /// For ID: the types it may point to; empty for any.
        targets: Vec<String>,
        /// For ID: whether it points to the parent.
        parent: bool,
    }
}

structure! {
    /// A resource model with its properties, structures and their fields each in a line.
    pub struct ModelInfo = "lockstep.models.model_info" {
        /// The fully qualified name: what property paths begin with.
        name: String,
        /// The type whose resources have these properties.
        resource_type: String,
        /// Whether every site has it.
        built_in: bool,
        /// The properties.
        properties: Vec<PropertyInfo>,
    }
}

structure! {
    /// A resource type.
    pub struct TypeInfo = "lockstep.models.type_info" {
        /// The name.
        name: String,
        /// The names of its models.
        models: Vec<String>,
        /// How many resources of it there are.
        count: i64,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct GetInput = "operation-input" {
        /// The model's name.
        model: String,
    }
}

structure! {
    /// The parameters of `register`.
    pub struct RegisterInput = "operation-input" {
        /// The model: `{"name": …, "resource_type": …, "properties": [{"name": …, "kind": "LONG" | "DOUBLE" | "BOOLEAN" | "STRING" |
        /// "DATE_TIME" | "ID" | "STRUCT", "list": …, "targets": […], "parent": …, "fields": […]}, …]}`.
        definition: Opaque,
    }
}

operation! {
    /// Lists the resource types.
    pub ListTypes = "lockstep.models"."list_types"(NoInput) -> Vec<TypeInfo>,
    errors: [Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/types", 200),
}

operation! {
    /// Lists the models with their properties.
    pub List = "lockstep.models"."list"(NoInput) -> Vec<ModelInfo>,
    errors: [Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/models", 200),
}

operation! {
    /// One model with its properties.
    pub Get = "lockstep.models"."get"(GetInput) -> ModelInfo,
    errors: [NotFound, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/models/{model}", 200),
}

operation! {
    /// Registers a model, or adds properties to one that was registered before.
    pub Register = "lockstep.models"."register"(RegisterInput) -> ModelInfo,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Models,
    rest: Rest::new(Method::Post, "/lockstep/models", 201).body("definition"),
}

operation! {
    /// Removes a model that was registered, once no resource of its type is left.
    pub Delete = "lockstep.models"."delete"(GetInput) -> (),
    errors: [InvalidArgument, NotFound, ResourceInUse, Unauthenticated, Unauthorized],
    privilege: Models,
    rest: Rest::new(Method::Delete, "/lockstep/models/{model}", 204),
}
