//! The contract: every operation declared once, with its types, errors and privilege.
//!
//! A declaration ([`operation!`], [`structure!`], [`enumeration!`]) is all that a transport needs: reading and writing in
//! every encoding, the routes of each REST generation, the XML roots, OpenAPI and the CLI's help come from it.
//!
//! A request is read into [`Data`], a tree of whatever the encoding can say, and from there into the declared type by
//! [`Wire::decode`], which knows where it stands and so names the field that is wrong. An answer is written by walking the value
//! once over a [`Writer`]; there is one for plain JSON, for the typed JSON of JSON-RPC, and for XML.
//!
//! This crate knows nothing of HTTP beyond the names of methods and the numbers of statuses.

pub mod counters;
mod data;
pub mod declare;
mod error;
pub mod openapi;
mod operation;
pub mod points;
pub mod services;
mod types;
pub mod wire;
mod writer;
pub mod xml;

pub use data::{DEPTH_MAX, Data, Encoding, VALUES_MAX, typed};
pub use error::{Error, ErrorData, ErrorKind, Message};
pub use operation::{Declared, Login, Method, Operation, Privilege, Rest};
pub use types::{EnumDef, FieldDef, StructDef, Type, UnionDef};
pub use wire::{Binary, DateTime, Fault, Map, Opaque, Place, Secret, Wire};
pub use writer::{PlainJson, TypedJson, Writer, write_double, write_string};
