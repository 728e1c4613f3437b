//! Tests of the real binary: a server of its own for each, over real connections.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod agent;
mod availability;
mod cli;
mod collect;
mod crash;
mod feed;
mod hosts;
mod inventory;
#[path = "../../../agent/tests/support/libvirtd.rs"]
mod libvirtd;
mod links;
mod links_fire;
mod permissions;
mod power;
mod query;
mod remote;
mod replication;
mod sdk;
mod server;
mod stats;
mod tagging;
mod vcenter;
mod vcenter_api;
