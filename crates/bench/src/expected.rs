//! How many items each form of each query must give. A fast wrong answer is worth nothing.
//!
//! Counts come from the reference evaluator ([`crate::verify`]) where it ran; a form it did not answer takes the count of the first
//! engine that did, and every other engine must agree. The agreed counts are kept in the data directory.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::data::DataDir;
use crate::lane::Answer;
use crate::workload::{Form, Query};

/// What is known of the answers.
pub struct Expected {
    path: PathBuf,
    counts: BTreeMap<String, BTreeMap<usize, Count>>,
    is_changed: bool,
}

#[derive(Serialize, Deserialize)]
struct Count {
    items: usize,
    total: Option<u64>,
    /// Who said so.
    by: String,
}

impl Expected {
    pub fn load(data: &DataDir) -> anyhow::Result<Self> {
        let path = data.expected();
        let counts = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        Ok(Expected { path, counts, is_changed: false })
    }

    /// Writes what was learned.
    pub fn save(&self) -> anyhow::Result<()> {
        if self.is_changed {
            std::fs::write(&self.path, serde_json::to_vec(&self.counts)?)
                .with_context(|| format!("write {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Sets what a trusted evaluator found.
    pub fn set(&mut self, by: &str, query: &str, form: usize, items: usize, total: Option<u64>) {
        let count = Count { items, total, by: by.to_owned() };
        self.counts.entry(query.to_owned()).or_default().insert(form, count);
        self.is_changed = true;
    }

    /// Compares an answer with what is expected, and learns it when nothing was.
    ///
    /// # Errors
    /// When the answer has another number of items, or another total.
    pub fn check(&mut self, by: &str, query: &Query, form: &Form, answer: &Answer) -> anyhow::Result<()> {
        let Some(count) = self.counts.get(&query.name).and_then(|forms| forms.get(&form.number)) else {
            self.set(by, &query.name, form.number, answer.items, answer.total);
            return Ok(());
        };
        if (count.items, count.total) != (answer.items, answer.total) {
            bail!(
                "{} form {}: {by} answered {} items, total {:?}; {} said {}, total {:?}; spec: {}",
                query.name,
                form.number,
                answer.items,
                answer.total,
                count.by,
                count.items,
                count.total,
                form.spec
            );
        }
        Ok(())
    }

    /// Whether every one of these forms was answered by another engine or the reference evaluator.
    pub fn knows(&self, query: &Query, forms: &[Form]) -> bool {
        let known = self.counts.get(&query.name);
        forms.iter().all(|form| known.is_some_and(|k| k.contains_key(&form.number)))
    }
}
