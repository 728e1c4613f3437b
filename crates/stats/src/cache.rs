//! Cache sync: the net change of the specifications between two epochs.
//!
//! An epoch is a second. Before an answer speaks of what happened up to an epoch, the epoch is closed: no later commit gets into it, in
//! this life of the server or another. So what happened in `(start, end]` is settled once and for all: its pages can be read at any
//! leisure while the world goes on, a page's token needs to name no more than the interval and a place in it, and a client that goes on from
//! the `end` it was told misses nothing.
//!
//! The specifications in the answer are as they were at `end`, also when they have changed since: applied to the copy as of `start`,
//! the answer gives the set as of `end`, exactly.
//!
//! Source: seed 000; `api/vstats.md`, section 7; "Epochs close" in `ARCHITECTURE.md`.

use std::sync::Arc;

use lockstep_contract::services::stats::cache::{END_EPOCH_HEADER, GetInput, SyncResult};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::builtin::ACQ_SPEC;
use lockstep_site::commit_error;
use lockstep_site::epochs::{EpochError, ListKind};
use lockstep_site::table::{Answer, Context};

use crate::Stats;
use crate::page::Scope;
use crate::spec::Spec;

/// How far ahead of the log's clock `end_epoch` may be. The epochs up to it close, so a client with a wrong clock must not get far.
pub const AHEAD_MAX_S: i64 = 60;

/// How far a sync without an end may go ahead of the clock, in seconds.
const LEAP_MAX_S: i64 = 5;

/// The id of the message that tells a client to begin anew from 0.
pub const EXPIRED: &str = "lockstep.stats.sync_expired";

fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.stats.sync", place, message)
}

/// Where a page begins, as its token says it: `end:list:last id`.
fn at(end_s: i64, next: &(ListKind, Arc<str>)) -> String {
    let list = match next.0 {
        ListKind::Created => 'c',
        ListKind::Updated => 'u',
        ListKind::Deleted => 'd',
    };
    format!("{end_s}:{list}:{}", next.1)
}

fn read_at(text: &str) -> Option<(i64, (ListKind, Arc<str>))> {
    let mut parts = text.splitn(3, ':');
    let end_s = parts.next()?.parse().ok()?;
    let list = match parts.next()? {
        "c" => ListKind::Created,
        "u" => ListKind::Updated,
        "d" => ListKind::Deleted,
        _ => return None,
    };
    Some((end_s, (list, parts.next()?.into())))
}

/// The end of a sync that names none: the present second, or the one into which the last change was put since the present was closed
/// already, so that a client sees what it has just written. Not further than [`LEAP_MAX_S`]: the log's time must not run away.
fn present_s(stats: &Stats, now_s: i64) -> i64 {
    let last_s = stats.site.last_touched_s().unwrap_or(now_s);
    last_s.clamp(now_s, now_s + LEAP_MAX_S)
}

pub(crate) async fn get(stats: &Arc<Stats>, _: Context, input: GetInput) -> Result<Answer, Error> {
    let (start_s, end_asked) = (input.start_epoch, input.end_epoch);
    let asked = format!("{start_s} {end_asked:?}");
    let scope = Scope { operation: "cache.get", asked: &asked };
    let now_s = stats.clock.now_s();
    let (end_s, after) = match input.page.filter(|page| !page.is_empty()) {
        Some(page) => {
            let place =
                read_at(&scope.read(&page, "page")?).ok_or_else(|| invalid("page", "no page of this question"))?;
            (place.0, Some(place.1))
        }
        None => (end_asked.unwrap_or_else(|| present_s(stats, now_s)), None),
    };
    if start_s < 0 {
        return Err(invalid("start_epoch", "seconds since 1970; 0 for a full sync"));
    }
    // Without an end of its own, a client that is ahead of a clock that went back gets nothing new instead of an error.
    let end_s = if end_asked.is_none() { end_s.max(start_s) } else { end_s };
    if end_s < start_s {
        return Err(invalid("end_epoch", "it is before start_epoch"));
    }
    if end_s > now_s + AHEAD_MAX_S {
        let place = if end_asked.is_some() { "end_epoch" } else { "start_epoch" };
        return Err(invalid(
            place,
            &format!("more than {AHEAD_MAX_S} s ahead of the server's clock, which says {now_s}"),
        ));
    }
    // A client cannot name a moment that nobody has closed yet: closing what is closed already costs nothing.
    stats.site.close_epoch(end_s).await.map_err(|error| commit_error(&error))?;

    let here = stats.clone();
    let change = tokio::task::spawn_blocking(move || {
        here.site.net_change(ACQ_SPEC, start_s, end_s, after, here.config.sync_page)
    });
    let change = change.await.map_err(|_| Error::internal())?.map_err(|error| refuse(&error))?;
    let show = |changed: Vec<(Arc<str>, lockstep_model::Document)>| {
        changed.into_iter().map(|(id, document)| Spec::from_document(&document).cached(&id)).collect()
    };
    let result = SyncResult {
        next: change.next.map(|next| scope.token(&at(end_s, &next))),
        created_acq_specs: show(change.created),
        updated_acq_specs: show(change.updated),
        deleted_acq_specs: change.deleted.iter().map(|id| id.to_string()).collect(),
    };
    let mut answer = Answer::new(result);
    answer.headers.push((END_EPOCH_HEADER, end_s.to_string()));
    Ok(answer)
}

fn refuse(error: &EpochError) -> Error {
    match error {
        EpochError::Expired { oldest, .. } => {
            let message = format!("{error}: sync in full, from 0 up to the present; the oldest epoch is {oldest}");
            Error::invalid_argument(EXPIRED, "start_epoch", &message)
        }
        other => {
            tracing::error!(error = %other, "a net change could not be read");
            Error::new(
                ErrorKind::InternalServerError,
                "lockstep.internal",
                "the server failed; its log says why",
                Vec::new(),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_reads_back() {
        for kind in [ListKind::Created, ListKind::Updated, ListKind::Deleted] {
            let next = (kind, Arc::from("id:with:colons"));
            assert_eq!(read_at(&at(17, &next)), Some((17, next)));
        }
        for wrong in ["", "1", "1:c", "x:c:1", "1:z:1"] {
            assert_eq!(read_at(wrong), None, "{wrong}");
        }
    }
}
