//! Links: two sites that stay in step.

pub mod provider;

pub use provider::{LinkId, Progress, Run, Stage, SyncError, SyncProvider};
