//! Tests of the real binary: a server of its own for each, over real connections.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod agent;
mod availability;
mod churn;
mod cli;
mod collect;
mod crash;
mod failback;
mod feed;
mod hosts;
mod inventory;
#[path = "../../../agent/tests/support/libvirtd.rs"]
mod libvirtd;
mod links;
mod links_fire;
#[path = "../../../blocks/tests/it/moto.rs"]
mod moto;
mod permissions;
mod power;
mod query;
mod remote;
mod replicated;
mod replication;
mod replication_faults;
mod replication_fire;
mod replication_live;
mod replication_s3;
mod replication_served;
mod sdk;
mod server;
mod stats;
mod tagging;
mod vcenter;
mod vcenter_api;
mod wire;
