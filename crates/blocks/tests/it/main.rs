//! The store as its users see it: against a model, in real directories, on disks that fail, beside itself, and with an object store.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod beside;
mod faults;
mod harness;
mod model;
mod moto;
mod s3;
mod store;
