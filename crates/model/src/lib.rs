//! Resource types, resource models, property and relation paths, and the values they hold.
//!
//! # What is stored
//! A *resource* is a [`ResourceId`] (type and id) with a [`Document`]: a tree of named [`Value`]s. What a document may hold is
//! declared by the *resource models* of its type ([`ResourceModel`]); the [`Registry`] holds all models, the built-in ones
//! ([`builtin`]) and those registered at run time. A type's document is the union of what its models declare; two models of
//! one type may declare the same property only in the same way.
//!
//! # Rules that everything above relies on
//! - A document that was accepted fits its type: every name is declared, every value has the declared kind.
//! - `null`, and a structure without a set member, are the same as *unset*, and are never stored. An empty list is stored.
//! - Every type has the property [`LINKED_FROM`], which no model declares: the link that a resource came by. A site's own resources
//!   do not have it set. So it is with [`COLLECTED_BY`], the collector that keeps a resource.
//! - A [`PropertyPath`] is `Model/name` or `Model/struct/field`; a [`RelationPath`] chains them with `->`. Both are parsed at
//!   the edge of the house; inside, nobody passes paths as text.
//! - A [`LeafPath`] (`name`, `struct/field`, no model) names what a change touched. Structures are looked into, lists are not:
//!   a list changes as a whole.
//!
//! This crate does no I/O and knows neither journal nor wire.

pub mod builtin;
mod document;
mod id;
mod instant;
mod model;
mod parse;
mod path;
mod registry;
mod value;

pub use document::{Document, LeafChange, LeafPath};
pub use id::{IdError, Position, ResourceId, ResourceType};
pub use instant::Instant;
pub use model::{Kind, ModelError, Property, ResourceModel};
pub use parse::{Misfit, MisfitReason};
pub use path::{HOPS_MAX, PARTS_MAX, PathError, PropertyPath, RelationPath};
pub use registry::{
    COLLECTED_BY, LINKED_FROM, Registry, RegistryError, ResolveError, ResolvedHop, ResolvedPath, TypeDef,
};
pub use value::{Name, Value};

/// Longest string a property may hold, in bytes. A longer one is refused as a [`MisfitReason::TooLong`].
pub const STRING_BYTES_MAX: usize = 1 << 20;

/// Longest list a property may hold, in elements.
pub const LIST_ITEMS_MAX: usize = 1 << 16;

/// Longest id or type name of a resource, in bytes.
pub const ID_BYTES_MAX: usize = 512;
