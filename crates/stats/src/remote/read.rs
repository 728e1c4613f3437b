//! Reading data points from the store outside.
//!
//! A page wants the first points of its series in the order of counter, address and time, and nobody outside pages by that. So series are
//! asked for a few at a time, and one with many points by slices of time. How many and how long is guessed from an interval of
//! [`USUAL_INTERVAL_S`] and corrected by what comes: an answer beyond [`ANSWER_BYTES_MAX`] is thrown away and less is asked for,
//! after a small one more. So memory is bounded whatever there is outside, and a gap of a year costs a few queries.
//!
//! The embedded store knows when each series had its last point, since every point came in here: beyond that nobody is asked.
//!
//! Series are matched by all labels that this site gives them. More labels than those may be there, as relays add, and so may be two
//! series for one of ours, as of a scrape of `/metrics`: their points are taken together, each second once.

use std::collections::HashMap;
use std::time::Duration;

use lockstep_contract::counters::Counter;
use lockstep_contract::{Error, ErrorKind};
use lockstep_series::Point;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::peer::{Peer, PeerError, Trouble};
use super::promql::{self, AnswerError, Found};
use crate::Stats;
use crate::addresses::Rid;
use crate::data::{Asked, Page};
use crate::metrics::metric_name;
use crate::series::SeriesRef;

/// Most bytes of an answer: some 300,000 points.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// Most series that one query asks for: their numbers make a query of at most some 4 KiB; VictoriaMetrics takes 16.
const QUERY_SERIES_MAX: usize = 200;

/// Queries under way at a time: each with an answer in memory.
const QUERIES_AT_ONCE: usize = 8;

/// The interval of sampling that the first guess is made from, in seconds.
const USUAL_INTERVAL_S: i64 = 10;

/// How long a page may take, with all its queries.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// By how much less is asked for after an answer that was too large, and more after an empty one.
const STEP: i64 = 16;

/// Reads points.
pub(crate) struct Reader {
    peer: Peer,
    turns: Semaphore,
}

/// Why points cannot be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the answer is too large")]
    TooLarge,
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the store outside answers with an error")]
    Answer(#[from] AnswerError),
    #[error("the server stops")]
    Stopping,
}

/// A series with the part of the window in which it may have points.
#[derive(Clone, Copy)]
struct Wanted {
    one: SeriesRef,
    start_s: i64,
    end_s: i64,
    /// Where points are to be expected from.
    likely_s: i64,
}

impl Wanted {
    /// How many points there are likely to be.
    fn estimate(&self) -> usize {
        usize::try_from((self.end_s - self.likely_s) / USUAL_INTERVAL_S + 1).unwrap_or(usize::MAX)
    }
}

impl Reader {
    pub(super) fn new(peer: Peer) -> Self {
        Self { peer, turns: Semaphore::new(QUERIES_AT_ONCE) }
    }

    /// Asks for the points in `[start_s, end_s)`; what is found is not matched to series yet.
    async fn ask(
        &self,
        labels: &[(&str, &str)],
        rids: &[Rid],
        start_s: i64,
        end_s: i64,
    ) -> Result<Vec<Found>, ReadError> {
        let _turn = self.turns.acquire().await.map_err(|_| ReadError::Stopping)?;
        let query = promql::range_query(labels, rids, start_s, end_s);
        let time = query.time_s.to_string();
        let form = form(&[("query", &query.query), ("time", &time), ("nocache", "1")]);
        let build = |request: reqwest::RequestBuilder| {
            request.header("content-type", "application/x-www-form-urlencoded").body(form)
        };
        let mut response = match self.peer.post(build).await {
            Ok(response) => response,
            Err(error) => return Err(explain(error)),
        };
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.peer.transport(&error))? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(ReadError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        let read = tokio::task::spawn_blocking(move || promql::read(&body)).await;
        Ok(read.map_err(|_| ReadError::Stopping)??)
    }
}

/// A status that is no success comes with the reason in its body, if the other side is what we think it is.
fn explain(error: PeerError) -> ReadError {
    match (error.trouble, promql::read(&error.body)) {
        (Trouble::Refused | Trouble::Failed, Err(answer @ AnswerError::Error { .. })) => ReadError::Answer(answer),
        _ => ReadError::Peer(error),
    }
}

/// `application/x-www-form-urlencoded`.
fn form(fields: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("form:").map_err(drop);
    if let Ok(url) = &mut url {
        url.query_pairs_mut().extend_pairs(fields);
    }
    url.ok().and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

impl ReadError {
    /// What the caller hears; the rest goes to the log.
    fn to_error(&self, peer: &Peer) -> Error {
        tracing::warn!(
            url = peer.shown(),
            "data points cannot be read from the store outside: {}",
            super::write::chain(self)
        );
        let unavailable = |message: &str| {
            Error::new(ErrorKind::ServiceUnavailable, "lockstep.stats.remote_unavailable", message, Vec::new())
        };
        let refused =
            |message: String| Error::new(ErrorKind::Error, "lockstep.stats.remote_refused", message, Vec::new());
        match self {
            Self::TooLarge => refused(format!(
                "the store outside that data points are read from answers with more than {} MiB for a second of one series",
                ANSWER_BYTES_MAX >> 20
            )),
            Self::Peer(error) if error.trouble == Trouble::Login => {
                refused("the store outside that data points are read from refuses this server's credentials".to_owned())
            }
            Self::Peer(error) if matches!(error.trouble, Trouble::Misdirected | Trouble::Refused) => {
                let status = error.status.unwrap_or_default();
                refused(format!(
                    "the store outside that data points are read from refuses the query with status {status}"
                ))
            }
            Self::Answer(error) if !error.is_transient() => refused(
                "the store outside that data points are read from refuses the query; the server's log says why"
                    .to_owned(),
            ),
            Self::Peer(_) | Self::Answer(_) | Self::Stopping => unavailable(
                "the store outside that data points are read from does not answer; the server's log says why",
            ),
        }
    }
}

impl Stats {
    /// Fills a page from the store outside.
    ///
    /// # Errors
    /// `service_unavailable` when it does not answer, `timed_out` when it takes too long; `error` when it refuses.
    pub(crate) async fn fill_from_outside(&self, reader: &Reader, asked: Asked, page: &mut Page) -> Result<(), Error> {
        match tokio::time::timeout(PAGE_TIMEOUT, self.fill(reader, &asked, page)).await {
            Ok(filled) => filled.map_err(|error| error.to_error(&reader.peer)),
            Err(_) => {
                let message = format!(
                    "the store outside took more than {} s: ask for a shorter time or fewer series",
                    PAGE_TIMEOUT.as_secs()
                );
                Err(Error::new(ErrorKind::TimedOut, "lockstep.stats.remote_slow", message, Vec::new()))
            }
        }
    }

    async fn fill(&self, reader: &Reader, asked: &Asked, page: &mut Page) -> Result<(), ReadError> {
        let started = Instant::now();
        let mut queries = 0u32;
        let mut place = 0;
        // How many series a query may ask for, as far as it is known.
        let mut series_max = QUERY_SERIES_MAX;
        while place < asked.series.len() && !page.is_full() {
            let mut group: Vec<Wanted> = Vec::new();
            let (mut next, mut estimate) = (place, 0usize);
            while next < asked.series.len() && group.len() < series_max && estimate < page.wanted() {
                let one = asked.series[next];
                if group.first().is_some_and(|first| first.one.counter.cid != one.counter.cid) {
                    break;
                }
                let start_s = if next == 0 { asked.from_s } else { asked.start_s };
                if let Some(wanted) = self.wanted(one, start_s, asked.end_s) {
                    estimate = estimate.saturating_add(wanted.estimate());
                    group.push(wanted);
                }
                next += 1;
            }
            match &group[..] {
                [] => place = next,
                [alone] => {
                    queries += self.fill_alone(reader, *alone, page).await?;
                    place = next;
                }
                several => {
                    queries += 1;
                    match self.points(reader, several).await {
                        Ok(found) => {
                            place = next;
                            for (wanted, points) in several.iter().zip(found) {
                                page.push(wanted.one, points);
                            }
                        }
                        // `place` stays: the same series again, fewer at a time.
                        Err(ReadError::TooLarge) => series_max = (several.len() / STEP as usize).max(1),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        tracing::debug!(
            queries,
            series = place,
            ms = started.elapsed().as_millis() as u64,
            "read from the store outside"
        );
        Ok(())
    }

    /// The window of a series, cut to where it may have points; `None` when it has none there.
    fn wanted(&self, one: SeriesRef, start_s: i64, end_s: i64) -> Option<Wanted> {
        // No point is older: such a one would be past any retention. VictoriaMetrics finds nothing at all in an interval that
        // begins before 1970, and the one that is asked for begins a second before this.
        let start_s = start_s.max(1);
        let range = self.store.range(one.key());
        // A series that the embedded store has let go of entirely may go on outside.
        let (first_s, after_s) =
            range.map_or((start_s, self.now_s()), |range| (range.first_s, range.last_s.saturating_add(1)));
        let end_s = end_s.min(after_s);
        (start_s < end_s).then(|| Wanted { one, start_s, end_s, likely_s: first_s.clamp(start_s, end_s) })
    }

    /// Fills a page with points of one series, slice by slice. Answers how many queries it took.
    async fn fill_alone(&self, reader: &Reader, wanted: Wanted, page: &mut Page) -> Result<u32, ReadError> {
        let mut queries = 0;
        let mut start_s = wanted.start_s;
        let mut width_s = i64::try_from(page.wanted()).unwrap_or(i64::MAX).saturating_mul(USUAL_INTERVAL_S * 3 / 2);
        // All that comes before the first point that is known here, and is most often empty, costs no slice of its own.
        let mut is_first = true;
        while start_s < wanted.end_s && !page.is_full() {
            let from_s = if is_first { wanted.likely_s } else { start_s };
            let end_s = from_s.saturating_add(width_s).min(wanted.end_s);
            queries += 1;
            match self.points(reader, &[Wanted { start_s, end_s, ..wanted }]).await {
                Ok(found) => {
                    let points: Vec<Point> = found.into_iter().flatten().collect();
                    match points.len() {
                        0 => width_s = width_s.saturating_mul(STEP),
                        few if few < page.wanted() / 4 => width_s = width_s.saturating_mul(4),
                        _ => {}
                    }
                    page.push(wanted.one, points);
                    start_s = end_s;
                    is_first = false;
                }
                Err(ReadError::TooLarge) if end_s - start_s > 1 => {
                    width_s = ((end_s - start_s) / STEP).max(1);
                    is_first = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(queries)
    }

    /// The points of some series of one counter, each in its window, in the order of time.
    async fn points(&self, reader: &Reader, group: &[Wanted]) -> Result<Vec<Vec<Point>>, ReadError> {
        let (Some(counter), Some(start_s), Some(end_s)) = (
            group.first().map(|wanted| wanted.one.counter),
            group.iter().map(|wanted| wanted.start_s).min(),
            group.iter().map(|wanted| wanted.end_s).max(),
        ) else {
            return Ok(Vec::new());
        };
        let rids: Vec<Rid> = group.iter().map(|wanted| wanted.one.rid).collect();
        let name = metric_name(counter);
        let mid = counter.mid().to_string();
        let mut labels = vec![("__name__", &*name), ("cid", counter.cid), ("mid", &*mid)];
        labels.extend(self.remote.labels.iter().map(|(name, value)| (&**name, &**value)));
        let found = reader.ask(&labels, &rids, start_s, end_s).await?;
        Ok(self.matched(counter, group, found))
    }

    fn matched(&self, counter: &Counter, group: &[Wanted], found: Vec<Found>) -> Vec<Vec<Point>> {
        let mut by_rid: HashMap<String, Vec<Found>> = HashMap::new();
        for one in found {
            if let Some(rid) = one.labels.get("rid") {
                by_rid.entry(rid.clone()).or_default().push(one);
            }
        }
        let of = |wanted: &Wanted| {
            let rid = wanted.one.rid;
            let (Some(found), Some(address)) = (by_rid.remove(&rid.to_string()), self.addresses.get(rid)) else {
                return Vec::new();
            };
            let ours = self.remote.name(counter, rid, &address);
            let is_ours =
                |one: &Found| ours.iter().all(|(name, value)| one.labels.get(name).is_some_and(|v| v == value));
            let points = found.into_iter().filter(is_ours).flat_map(|one| one.points);
            let mut points: Vec<Point> =
                points.filter(|point| (wanted.start_s..wanted.end_s).contains(&point.time_s)).collect();
            points.sort_by_key(|point| point.time_s);
            points.dedup_by_key(|point| point.time_s);
            points
        };
        group.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_encoded() {
        let text = form(&[("query", "{a=\"b c\"}[5s]"), ("time", "1")]);
        assert_eq!(text, "query=%7Ba%3D%22b+c%22%7D%5B5s%5D&time=1");
    }
}
