//! Comparing: what differs between the copies that are here and their originals.
//!
//! Three steps, each only where the one before found a difference: digests of ranges, digests of single resources, the resources. A
//! copy that is all right costs some twenty bytes for 256 resources.

use std::collections::HashMap;
use std::time::Duration;

use lockstep_contract::services::link_pull::{
    AfterInput, DigestRange, Digests, Entries, EntriesInput, FETCH_MAX, Fetch, FetchInput,
};
use lockstep_model::ResourceId;
use lockstep_query::{ResourceRef, View};

use super::batch::{Batch, Bounds, Range, commit_place, copies, prefix};
use super::frame::Frame;
use super::peer::{call, malformed, next_place};
use super::place::{Place, typed};
use super::set::Set;
use super::{Sync, digest};
use crate::{Run, Stage, SyncError};

/// Most ranges that are looked at in one answer.
const RANGES_MAX: usize = 10_000;

/// Most resources of a range that is listed.
const ENTRIES_MAX: usize = 200_000;

/// So many differences are written at a time.
const DIFFERENCES: usize = 1000;

/// What was found to differ, and not been written yet.
#[derive(Default)]
struct Differences {
    /// Originals to be fetched.
    fetch: Vec<ResourceId>,
    /// Originals that are gone.
    gone: Vec<ResourceId>,
}

impl Differences {
    fn len(&self) -> usize {
        self.fetch.len() + self.gone.len()
    }
}

impl Sync<'_> {
    /// Makes the copies behind `after` like their originals.
    pub(super) async fn compare(&mut self, token: String, after: Option<ResourceId>) -> Result<Place, SyncError> {
        let at = |after: &Option<ResourceId>| Place::Comparing { token: token.clone(), after: after.clone() };
        let mut after = after;
        let mut found = Differences::default();
        loop {
            let input =
                AfterInput { after: after.as_ref().map(typed), set: Some(self.run.provider().to_owned()), link: None };
            let answer = call(&self.run.client, Digests, input, Duration::ZERO).await?;
            self.provider.demand_models(self.run, &answer.models).await?;
            let ranges = checked_ranges(Set::of(self.run), &answer.ranges, after.as_ref())?;
            if answer.more && ranges.is_empty() {
                return Err(malformed("digests of nothing, and a promise of more"));
            }
            for (range, is_same) in same(self.run, ranges).await? {
                let last = range.last.clone();
                if !is_same {
                    self.run.stage(Stage::ChangeEnumeration);
                    self.list(range, &mut found).await?;
                }
                after = last;
                if found.len() >= DIFFERENCES {
                    self.write(&mut found, &at(&after)).await?;
                }
            }
            if !answer.more {
                break;
            }
        }
        let behind = Range { after: after.clone(), last: None };
        found.gone.extend(ids_there(self.run, behind).await?);
        if found.len() > 0 {
            self.write(&mut found, &at(&after)).await?;
        }
        let place = Place::Following { token };
        commit_place(self.run, self.cursor.as_deref(), &place).await?;
        self.moved(&place);
        Ok(place)
    }

    /// Finds out which resources of a range differ.
    async fn list(&self, range: Range, found: &mut Differences) -> Result<(), SyncError> {
        let Some(last) = range.last.clone() else { return Ok(()) };
        let mut there: Vec<(ResourceId, String)> = Vec::new();
        let mut after = range.after.clone();
        loop {
            let set = Set::of(self.run);
            let input = EntriesInput {
                after: after.as_ref().map(typed),
                last: typed(&last),
                set: Some(self.run.provider().to_owned()),
            };
            let answer = call(&self.run.client, Entries, input, Duration::ZERO).await?;
            for entry in answer.entries {
                let id = next_place(set, entry.resource, there.last().map(|(id, _)| id).or(range.after.as_ref()))?;
                if id > last || there.len() >= ENTRIES_MAX {
                    return Err(malformed(format!("{id} in the range up to {last}")));
                }
                there.push((id, entry.digest));
            }
            match answer.next {
                None => break,
                Some(next) => after = Some(next_place(set, next, after.as_ref())?),
            }
        }
        let mut here = digests_here(self.run, range).await?;
        for (id, digest) in there {
            if here.remove(&id).is_none_or(|known| known != digest) {
                found.fetch.push(id);
            }
        }
        found.gone.extend(here.into_keys());
        Ok(())
    }

    /// Fetches what differs, and writes it with the place behind it.
    async fn write(&mut self, found: &mut Differences, place: &Place) -> Result<(), SyncError> {
        let Differences { mut fetch, gone } = std::mem::take(found);
        let count = (fetch.len() + gone.len()) as u64;
        self.count(count)?;
        self.run.total(self.work);
        self.run.stage(Stage::ChangeApplication);
        let mut gone = Some(gone);
        while !fetch.is_empty() || gone.is_some() {
            let asked: Vec<ResourceId> = fetch.iter().take(FETCH_MAX).cloned().collect();
            let frame = if asked.is_empty() {
                Frame::default()
            } else {
                let set = Some(self.run.provider().to_owned());
                let input = FetchInput { resources: asked.iter().map(typed).collect(), set };
                Frame::open(&call(&self.run.client, Fetch, input, Duration::ZERO).await?.frame)?
            };
            let told = usize::try_from(frame.len()).unwrap_or(usize::MAX).min(asked.len());
            if told == 0 && !asked.is_empty() {
                return Err(malformed("nothing of what was asked for"));
            }
            fetch.drain(..told);
            let batch =
                Batch::read(self.run, frame, Bounds::Asked(asked)).await?.and_gone(gone.take().unwrap_or_default());
            let units = batch.len();
            // Until all is written, the place is the one before: what was written is found to be the same then.
            match (fetch.is_empty(), self.cursor.as_deref().and_then(Place::read)) {
                (false, Some(before @ Place::Comparing { .. })) => {
                    batch.commit(self.run, self.cursor.as_deref(), &before).await?
                }
                (false, _) => {
                    let Place::Comparing { token, .. } = place else { return Ok(()) };
                    let before = Place::Comparing { token: token.clone(), after: None };
                    batch.commit(self.run, self.cursor.as_deref(), &before).await?;
                    self.moved(&before);
                }
                (true, _) => {
                    batch.commit(self.run, self.cursor.as_deref(), place).await?;
                    self.moved(place);
                }
            }
            self.run.advance(units);
        }
        Ok(())
    }
}

/// A range, and what it should add up to.
struct Expected {
    range: Range,
    count: i64,
    digest: String,
}

/// The ranges, each behind the one before.
fn checked_ranges(set: Set, ranges: &[DigestRange], after: Option<&ResourceId>) -> Result<Vec<Expected>, SyncError> {
    if ranges.len() > RANGES_MAX {
        return Err(malformed(format!("{} ranges; {RANGES_MAX} are the most", ranges.len())));
    }
    let mut after = after.cloned();
    ranges
        .iter()
        .map(|range| {
            let last = next_place(set, range.last.clone(), after.as_ref())?;
            let after = after.replace(last.clone());
            let (count, digest) = (range.count, range.digest.clone());
            Ok(Expected { range: Range { after, last: Some(last) }, count, digest })
        })
        .collect()
}

/// Which of the ranges are here as they are there.
async fn same(run: &Run, ranges: Vec<Expected>) -> Result<Vec<(Range, bool)>, SyncError> {
    let (site, set) = (run.site.clone(), Set::of(run));
    let (prefix, link) = (prefix(&run.domain), run.link.clone());
    let work = move || {
        let reckon = |Expected { range, count: expected, digest }: Expected| {
            let view = site.view();
            let (mut count, mut sum) = (0i64, 0u64);
            for copy in copies(&view, set, &prefix, &range) {
                count += 1;
                sum = sum.wrapping_add(of_copy(&view, set, &copy, &prefix, link.as_str()));
            }
            let is_same = count == expected && digest::write(sum) == digest;
            drop(view);
            (range, is_same)
        };
        ranges.into_iter().map(reckon).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Cancelled)
}

/// The digest of a copy; that of a copy by an earlier link to the same site is never right, so that it is taken over.
fn of_copy(view: &View, set: Set, copy: &ResourceRef<'_>, prefix: &str, link: &str) -> u64 {
    let resource_type = set.there(copy.resource_type()).unwrap_or_default();
    let digest = digest::of_resource(view, copy, resource_type, prefix);
    if copy.linked_from() == Some(link) { digest } else { !digest }
}

/// The digests of the copies of a range, by the ids of their originals.
async fn digests_here(run: &Run, range: Range) -> Result<HashMap<ResourceId, String>, SyncError> {
    let (site, set) = (run.site.clone(), Set::of(run));
    let (prefix, link) = (prefix(&run.domain), run.link.clone());
    let work = move || {
        let view = site.view();
        let digests = copies(&view, set, &prefix, &range).filter_map(|copy| {
            Some((original(set, &copy, &prefix)?, digest::write(of_copy(&view, set, &copy, &prefix, link.as_str()))))
        });
        digests.collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Cancelled)
}

/// The originals of the copies of a range.
async fn ids_there(run: &Run, range: Range) -> Result<Vec<ResourceId>, SyncError> {
    let (site, set, prefix) = (run.site.clone(), Set::of(run), prefix(&run.domain));
    let work = move || {
        let view = site.view();
        copies(&view, set, &prefix, &range).filter_map(|copy| original(set, &copy, &prefix)).collect()
    };
    tokio::task::spawn_blocking(work).await.map_err(|_| SyncError::Cancelled)
}

fn original(set: Set, copy: &ResourceRef<'_>, prefix: &str) -> Option<ResourceId> {
    let id = copy.id().strip_prefix(prefix)?;
    Some(ResourceId::new(set.there(copy.resource_type())?, id))
}
