//! What a work tells of itself, and is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::record::{Line, Record, clipped};
use super::{LOG_LINES_MAX, WARNINGS_MAX};
use crate::times;

/// A task as its work sees it. Clones are the same task.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

struct Shared {
    id: String,
    operation_id: Option<String>,
    /// Held for a few steps.
    told: Mutex<Told>,
    changed: Notify,
    cancelled: watch::Sender<bool>,
}

struct Told {
    progress: i64,
    log: VecDeque<Line>,
    warnings: Vec<String>,
}

impl Handle {
    pub(super) fn new(record: &Record) -> Self {
        let told = Told {
            progress: record.progress,
            log: record.log.iter().cloned().collect(),
            warnings: record.warnings.clone(),
        };
        Self {
            shared: Arc::new(Shared {
                id: record.id.clone(),
                operation_id: record.asked.operation_id.clone(),
                told: Mutex::new(told),
                changed: Notify::new(),
                cancelled: watch::Sender::new(false),
            }),
        }
    }

    /// The task's id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The id that ties log lines together, for calls of other sites.
    pub fn operation_id(&self) -> Option<&str> {
        self.shared.operation_id.as_deref()
    }

    /// So many percent are done. Fewer than before are ignored, and all are done only at the end.
    pub fn progress(&self, percent: i64) {
        let mut told = self.shared.told.lock();
        let percent = percent.clamp(0, 99);
        if percent > told.progress {
            told.progress = percent;
            drop(told);
            self.shared.changed.notify_one();
        }
    }

    /// A line for people.
    pub fn log(&self, text: impl Into<String>) {
        let text = clipped(text.into());
        tracing::info!("{text}");
        let mut told = self.shared.told.lock();
        if told.log.len() >= LOG_LINES_MAX {
            told.log.pop_front();
        }
        told.log.push_back(Line { time_ms: times::now_ms(), text });
        drop(told);
        self.shared.changed.notify_one();
    }

    /// Something went otherwise than wished.
    pub fn warn(&self, text: impl Into<String>) {
        let text = clipped(text.into());
        tracing::warn!("{text}");
        let mut told = self.shared.told.lock();
        if told.warnings.len() < WARNINGS_MAX {
            told.warnings.push(text);
        }
        drop(told);
        self.shared.changed.notify_one();
    }

    /// Whether somebody wants it to end.
    pub fn is_cancelled(&self) -> bool {
        *self.shared.cancelled.borrow()
    }

    /// Returns when somebody wants it to end.
    pub async fn cancelled(&self) {
        let mut cancelled = self.shared.cancelled.subscribe();
        // The sender lives as long as this handle.
        let _ = cancelled.wait_for(|is| *is).await;
    }

    pub(super) fn cancel(&self) {
        self.shared.cancelled.send_replace(true);
    }

    /// Returns when it was cancelled so long ago.
    pub(super) async fn overdue(&self, grace: Duration) {
        self.cancelled().await;
        tokio::time::sleep(grace).await;
    }

    pub(super) async fn changed(&self) {
        self.shared.changed.notified().await;
    }

    pub(super) fn read_into(&self, record: &mut Record) {
        let told = self.shared.told.lock();
        record.progress = told.progress;
        record.log = told.log.iter().cloned().collect();
        record.warnings.clone_from(&told.warnings);
    }
}
