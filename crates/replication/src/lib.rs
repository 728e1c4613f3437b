//! Replication of machines' disks to another site.

pub mod limit;
