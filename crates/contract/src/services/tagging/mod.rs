//! Tagging: categories, tags, and what tags are attached to.
//!
//! Identifiers are text; those that the service gives look like `urn:vmomi:InventoryServiceTag:<uuid>:GLOBAL`. What the SDK declares as
//! a set is a list here: a request that names an element twice is refused by the service, an answer names none twice.
//!
//! Source: `api/vapi-wire.md`, section 5; structures and paths as in the bindings of VMware's SDK.

pub mod category;
pub mod tag;
pub mod tag_association;
