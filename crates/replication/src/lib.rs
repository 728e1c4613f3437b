//! Replication of machines' disks to another site.

pub mod frame;
pub mod limit;
pub mod receive;
mod receive_check;
mod receive_store;
pub mod ship;
mod ship_format;
mod ship_map;
mod ship_peer;
mod ship_plan;
mod ship_source;
mod ship_unit;
