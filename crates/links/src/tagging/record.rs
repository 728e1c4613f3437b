//! Lines of a frame: what a site knows of the edits of one category, tag or object.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAG_CONFLICT};
use lockstep_model::{ID_BYTES_MAX, Registry, ResourceId};
use lockstep_site::stamps::{DELETED, EXISTS, GONE, Register, Stamps, TICK_MAX, is_edited_whole, properties};
use serde::{Deserialize, Serialize};

use super::conflicts::Conflict;
use crate::SyncError;
use crate::inventory::frame::Frame;
use crate::inventory::peer::malformed;

/// Longest text of a register, in bytes.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// Most texts in the list of a register.
const TEXTS_MAX: usize = 10_000;

/// Most sites whose edits of one resource are told apart, and most tags of an object.
const ENTRIES_MAX: usize = 100_000;

/// Longest name of a site in a stamp, in bytes.
const SITE_BYTES_MAX: usize = 64;

#[derive(Serialize)]
struct Out<'a> {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    yours: bool,
    seen: &'a BTreeMap<Arc<str>, u64>,
    is: &'a BTreeMap<String, Register>,
}

#[derive(Deserialize)]
struct In {
    #[serde(default)]
    yours: bool,
    #[serde(default)]
    seen: BTreeMap<Arc<str>, u64>,
    #[serde(default)]
    is: BTreeMap<String, Register>,
}

/// The line's JSON.
pub(crate) fn write(stamps: &Stamps, is_yours: bool) -> String {
    // Maps of texts and numbers can always be written.
    serde_json::to_string(&Out { yours: is_yours, seen: &stamps.seen, is: &stamps.is }).unwrap_or_default()
}

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Incoming {
    /// Of a category or tag.
    Whole(ResourceId, Stamps),
    /// Of the tags of an object, by its id here.
    List {
        /// Which one.
        id: ResourceId,
        /// Whether it is this site's own, of which the other has a copy.
        is_ours: bool,
        /// What is known there.
        stamps: Stamps,
    },
    /// An edit was lost.
    Conflict(Conflict),
}

impl Incoming {
    fn id(&self) -> ResourceId {
        match self {
            Self::Whole(id, _) | Self::List { id, .. } => id.clone(),
            Self::Conflict(conflict) => conflict.resource(),
        }
    }
}

/// Reads a frame of the site whose copies' ids begin with `prefix`.
///
/// # Errors
/// [`SyncError::Malformed`].
pub(crate) fn read(frame: &Frame, registry: &Registry, prefix: &str) -> Result<Vec<Incoming>, SyncError> {
    let mut out = Vec::new();
    let mut seen = HashSet::new();
    for line in frame.lines() {
        let line = line?;
        let there = ResourceId::new(line.resource_type, line.id);
        there.check().map_err(|e| malformed(format!("a record of {}: {e}", line.resource_type)))?;
        let wrong = |what: &dyn std::fmt::Display| malformed(format!("a record of {there}: {what}"));
        let here = |is_ours: bool| {
            let text = if is_ours { there.id.to_string() } else { format!("{prefix}{}", there.id) };
            ResourceId::new(there.resource_type.clone(), text)
        };
        let one = if line.resource_type == TAG_CONFLICT {
            Incoming::Conflict(Conflict::read(&there, line.json, registry, prefix).map_err(|what| wrong(&what))?)
        } else {
            let In { yours, seen, is } = serde_json::from_str(line.json).map_err(|e| wrong(&e))?;
            let stamps = Stamps { seen, is };
            let is_whole = is_edited_whole(&there);
            check(&there, &stamps).map_err(|what| wrong(&what))?;
            match is_whole {
                true => Incoming::Whole(there.clone(), stamps),
                false => Incoming::List { id: here(yours), is_ours: yours, stamps },
            }
        };
        let id = one.id();
        // A name of a site in front may leave no room: then there is no copy either.
        if id.id.len() > ID_BYTES_MAX {
            continue;
        }
        if !seen.insert(id) {
            return Err(wrong(&"it comes twice"));
        }
        out.push(one);
    }
    Ok(out)
}

fn check(id: &ResourceId, stamps: &Stamps) -> Result<(), &'static str> {
    if stamps.seen.len() > ENTRIES_MAX || stamps.is.len() > ENTRIES_MAX {
        return Err("too many entries");
    }
    let sites = stamps.seen.keys().chain(stamps.is.values().map(|is| &is.stamp.site));
    if sites.clone().any(|site| site.len() > SITE_BYTES_MAX || site.chars().any(char::is_control)) {
        return Err("a site that is none");
    }
    let mut ticks = stamps.seen.values().chain(stamps.is.values().map(|is| &is.stamp.tick));
    if ticks.any(|tick| *tick > TICK_MAX) {
        return Err("a stamp of the far future");
    }
    // What is told has been seen there.
    if stamps.is.values().any(|is| !stamps.has_seen(&is.stamp)) {
        return Err("an edit that was not seen");
    }
    let resource_type = id.resource_type.as_str();
    let fits = |(key, is): (&String, &Register)| match (resource_type, &**key) {
        (TAG | TAG_CATEGORY, EXISTS | DELETED) => is.value.is_boolean(),
        (TAG, "category") => match &is.value {
            serde_json::Value::Null => true,
            value => value.as_str().is_some_and(|id| ResourceId::new(TAG_CATEGORY, id).check().is_ok()),
        },
        (TAG | TAG_CATEGORY, name) => properties(resource_type).contains(&name) && fits_property(name, &is.value),
        (_, GONE) => is.value.is_boolean(),
        (_, tag) => is.value.is_boolean() && ResourceId::new(TAG, tag).check().is_ok(),
    };
    if !stamps.is.iter().all(fits) {
        return Err("a value that does not fit");
    }
    if is_edited_whole(id) && !stamps.is.contains_key(EXISTS) {
        return Err("whether it is there is not said");
    }
    Ok(())
}

fn fits_property(name: &str, value: &serde_json::Value) -> bool {
    let is_text = |value: &serde_json::Value| value.as_str().is_some_and(|text| text.len() <= TEXT_BYTES_MAX);
    match (name, value) {
        (_, serde_json::Value::Null) => true,
        ("associable_types" | "used_by", serde_json::Value::Array(texts)) => {
            texts.len() <= TEXTS_MAX && texts.iter().all(is_text)
        }
        ("associable_types" | "used_by", _) => false,
        (_, value) => is_text(value),
    }
}
