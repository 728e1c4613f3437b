//! The services, one module each.

pub mod accounts;
pub mod change_log;
pub mod collectors;
pub mod feed;
pub mod link_pull;
pub mod links;
pub mod models;
pub mod replication;
pub mod replication_receive;
pub mod resource_model;
pub mod resources;
pub mod session;
pub mod site;
pub mod stats;
pub mod tagging;
pub mod tasks;
pub mod vcenter;

use crate::structure;

structure! {
    /// The identity of a resource: its type and its id within the type.
    pub struct TypedId = "com.vmware.vapi.std.dynamic_ID" {
        /// The type, e.g. `com.acme.Person`.
        resource_type as "type": String,
        /// The resource's own identifier.
        id: String,
    }
}

structure! {
    /// No parameters.
    pub struct NoInput = "operation-input" {}
}
