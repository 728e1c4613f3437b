//! A store outside: points go to it by Prometheus remote write, and data points can be read back from it by PromQL.
//!
//! Any receiver of remote write takes the points: VictoriaMetrics, Mimir, Thanos, Prometheus itself. The embedded store goes on
//! taking every point first, since its log is the buffer: [`Stats::forward`](crate::Stats::forward) sends what is in the log and not
//! forwarded yet, and the place up to which it was forwarded is durable.
//!
//! # What is promised
//! - Every point that was acknowledged to an agent is sent until the receiver has answered 2xx, over restarts of either side, however
//!   long the receiver is away; only what exceeds the log that may wait (8 GiB) is dropped, the oldest first, and counted.
//! - *At least once.* When an answer is lost, the batch goes out again. A receiver that knows points by series and time does not notice;
//!   VictoriaMetrics counts them twice unless it runs with `-dedup.minScrapeInterval=1ms`. Reading from here takes each second once.
//! - Points of a series go out in the order in which they came in, in one request at a time. Prometheus refuses late ones, unless
//!   its `out_of_order_time_window` allows for them.
//! - What a receiver has acknowledged and lost afterwards, as VictoriaMetrics may lose the last seconds when it is killed, is lost there.
//!
//! # What becomes of a request
//! ```text
//!                    ┌──────────── 2xx ────────────► the cursor moves on: sent
//!   batch ── POST ───┼── 400, 409, 415, 422, … ────► the cursor moves on: refused, logged, counted
//!     ▲              ├── 413 ──► half as many points; a batch that is small already: refused
//!     └── back-off ◄─┴── 429, 5xx, 401, 403, 404, 3xx, …, no answer, no connection
//! ```
//! 401, 403, 404 and redirects say that the receiver was set up otherwise, not that the data is wrong: nothing is given up for a password
//! that is changed tomorrow. The credentials are read from their file again before the next try.
//!
//! # Names
//! A series is called as in `/metrics`: `lockstep_<metric with underscores>{cid,host,mid,rid,type,vm}`, and the labels of
//! [`Config::labels`] with it, which tell this site's series from another's. Times are whole seconds, in milliseconds.
//!
//! # Reading
//! `remote/read.rs` answers `data.query_data_points` from the outside, which may keep points for years. Which series there are is known here, so
//! only points are asked for. A point is seen there when it was forwarded and the receiver shows it, seconds after it came in. An outside
//! store that does not answer is an error: nobody takes what is kept here for all there is.

mod peer;
mod promql;
pub(crate) mod read;
mod wire;
mod write;

use std::path::PathBuf;
use std::time::Duration;

pub use peer::{Auth, AuthError, PeerError, Trouble};
pub use write::WriteStatus;

/// Where the store outside is, and how to talk to it.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where points are sent to, e.g. `http://127.0.0.1:8428/api/v1/write`; `None`: nowhere.
    pub write_url: Option<String>,
    /// What `/api/v1/query` is below of, e.g. `http://127.0.0.1:8428`; `None`: data points are read from the embedded store.
    pub read_url: Option<String>,
    /// A file with the credentials for both, see [`Auth::read`]; `None`: there are none.
    pub auth_file: Option<PathBuf>,
    /// A file with certificates in PEM to trust besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Labels that every series carries outside, by name.
    pub labels: Vec<(String, String)>,
    /// How hard to try.
    pub pace: Pace,
}

/// How hard to try. Every value is valid; tests hurry.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Most points of a request.
    pub points_max: usize,
    /// How long points are gathered for a request when there are few.
    pub gather: Duration,
    /// The first pause after a failure; each further one is twice as long.
    pub backoff_min: Duration,
    /// The longest pause, but for what a receiver asks for.
    pub backoff_max: Duration,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            // Measured on 2 cores: 129,000 points/s with 2,000 a request, 183,000 with 5,000, 461,000 with 20,000, 806,000 with 50,000
            // (`benches/forward.rs`). But when each point is of another series, 20,000 are some 5 MB of labels before compression, and
            // receivers take 32 MB at most.
            points_max: 20_000,
            gather: Duration::from_secs(1),
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            timeout: Duration::from_secs(30),
        }
    }
}

/// Why the store outside cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A URL cannot be used.
    #[error("{url:?} cannot be used: {reason}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A label's name is none, or one that series have already.
    #[error(
        "{name:?} cannot be a label: a name has letters, digits and underscores, and is none of cid, host, mid, rid, type, vm"
    )]
    Label {
        /// The name.
        name: String,
    },
    /// The credentials cannot be read.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The certificates to trust cannot be read.
    #[error("the certificates in {path} cannot be used: {reason}")]
    Certificates {
        /// The file; of the system's own, a word.
        path: String,
        /// Why.
        reason: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// The labels that series have by themselves.
const OWN_LABELS: [&str; 6] = ["cid", "host", "mid", "rid", "type", "vm"];

impl Config {
    fn check_labels(&self) -> Result<(), SetupError> {
        for (i, (name, value)) in self.labels.iter().enumerate() {
            let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && !name.starts_with("__")
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            let is_taken = OWN_LABELS.contains(&&**name) || self.labels[..i].iter().any(|(other, _)| other == name);
            if !is_name || is_taken || value.is_empty() {
                return Err(SetupError::Label { name: name.clone() });
            }
        }
        Ok(())
    }
}

/// The store outside, as far as it was set up.
pub(crate) struct Remote {
    pub(crate) writer: Option<write::Writer>,
    pub(crate) reader: Option<read::Reader>,
    /// Labels for every series, by name.
    labels: Vec<(String, String)>,
}

impl Remote {
    /// # Errors
    /// [`SetupError`]; nothing is sent, so a receiver that is away is none.
    pub(crate) fn new(config: &Config) -> Result<Self, SetupError> {
        config.check_labels()?;
        let mut labels = config.labels.clone();
        labels.sort();
        let peer = |url: &Option<String>, path| {
            let peer = |url| peer::Peer::new(url, path, config);
            url.as_deref().map(peer).transpose()
        };
        Ok(Self {
            writer: peer(&config.write_url, "")?.map(|peer| write::Writer::new(peer, config.pace)),
            reader: peer(&config.read_url, "/api/v1/query")?.map(read::Reader::new),
            labels,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_names_of_their_own() {
        let check = |names: &[&str]| {
            let labels = names.iter().map(|name| ((*name).to_owned(), "x".to_owned())).collect();
            Remote::new(&Config { labels, ..Config::default() }).is_ok()
        };
        assert!(check(&[]));
        assert!(check(&["site", "_x9"]));
        for wrong in [&["rid"][..], &["site", "site"], &[""], &["9a"], &["a-b"], &["__name__"], &["größe"]] {
            assert!(!check(wrong), "{wrong:?}");
        }
    }
}
