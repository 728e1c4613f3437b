//! A copy of a site's acquisition specifications, brought up to date by cache sync.
//!
//! ```text
//!             pull                          take, page after page                apply
//! SpecCache --------> SpecPull (a window) ------------------------> all pages ---------> SpecCache at the window's end
//!                        |      ^
//!                        +------+ the site no longer knows what changed since: once more, from nothing
//! ```
//! The copy changes only by [`SpecCache::apply`], and that only with all pages of a window: a sync that breaks off, on whichever page,
//! leaves the copy as it was, at the epoch where it was, and the next one asks for the same change again.
//!
//! [`SpecPull`] does no I/O. [`SpecCache::sync`] drives it over HTTP; whoever can call the operation without a network drives it
//! in the same way.
//!
//! # The file
//! Plain JSON: `{"format": 1, "epoch": 1795633298, "specs": [{…}, …]}`, the specifications as the operation answers them.
//! It is replaced as a whole, by a rename of a flushed file, so a crash leaves the earlier or the later one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use lockstep_contract::services::stats::cache::{self, AcqSpec, GetInput, SyncResult};
use lockstep_contract::{Data, Encoding, Error, ErrorKind, Place, PlainJson, Wire as _, structure};

use crate::{Client, ClientError};

/// The message id of the error that asks for a full sync: the site no longer knows all that changed since the start.
const EXPIRED: &str = "lockstep.stats.sync_expired";

/// Pages of one sync. At a thousand specifications a page, a site that goes on after that repeats itself.
const PAGES_MAX: usize = 10_000;

/// The format of the file.
const FORMAT: i64 = 1;

/// A copy of a site's acquisition specifications.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SpecCache {
    /// The epoch up to which the copy is in sync, in seconds since 1970; 0: it was never synced.
    pub epoch: i64,
    /// The specifications by id.
    pub specs: BTreeMap<String, AcqSpec>,
}

/// What a sync did to the copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncSummary {
    /// Ids that are new. In a full sync: those that the copy did not have.
    pub created: Vec<String>,
    /// Ids of specifications that changed. In a full sync: those that differ from the copy's.
    pub updated: Vec<String>,
    /// Ids that are gone. In a full sync: those that only the copy had.
    pub deleted: Vec<String>,
    /// Answers that it took.
    pub pages: usize,
    /// Whether everything was fetched, not only what changed.
    pub full: bool,
}

impl SyncSummary {
    /// Whether the copy is what it was before, but for the epoch.
    pub fn is_unchanged(&self) -> bool {
        self.created.is_empty() && self.updated.is_empty() && self.deleted.is_empty()
    }
}

/// Why a sync failed. The copy is as it was.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The call failed.
    #[error(transparent)]
    Call(#[from] ClientError),
    /// The answer does not say up to which epoch it tells all, so nothing could follow it.
    #[error("the answer has no header {}", cache::END_EPOCH_HEADER)]
    NoEpoch,
    /// The answer is about another time than what was asked for.
    #[error("the answer is up to epoch {found}, expected {expected} or later")]
    WrongEpoch {
        /// What the answer says.
        found: i64,
        /// The epoch of the copy, or of the page before.
        expected: i64,
    },
    /// There is no end of pages.
    #[error("the answer has more than {PAGES_MAX} pages")]
    Endless,
}

/// Why a file holds no copy.
#[derive(Debug, thiserror::Error)]
pub enum CacheFileError {
    /// It cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else, or is damaged. A full sync makes a new one.
    #[error("{} is no copy of acquisition specifications: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Whether an error says that the site no longer knows what changed since the start, so that only a full sync helps.
pub fn is_sync_expired(error: &Error) -> bool {
    error.kind == ErrorKind::InvalidArgument && error.messages.iter().any(|message| message.id == EXPIRED)
}

/// The pages of one sync, while they come in.
#[derive(Debug)]
pub struct SpecPull {
    start_epoch: i64,
    end_epoch: Option<i64>,
    next: Option<String>,
    pages: usize,
    changes: SyncResult,
}

impl SpecPull {
    fn new(start_epoch: i64) -> Self {
        let changes = SyncResult {
            next: None,
            created_acq_specs: Vec::new(),
            updated_acq_specs: Vec::new(),
            deleted_acq_specs: Vec::new(),
        };
        Self { start_epoch, end_epoch: None, next: None, pages: 0, changes }
    }

    /// What to ask for next.
    pub fn request(&self) -> GetInput {
        GetInput { start_epoch: self.start_epoch, end_epoch: None, page: self.next.clone() }
    }

    /// Takes the answer to [`SpecPull::request`] and answers whether it was the last one.
    ///
    /// # Errors
    /// [`SyncError::NoEpoch`], [`SyncError::WrongEpoch`], [`SyncError::Endless`]: give the pull up.
    pub fn take(&mut self, page: SyncResult, end_epoch: Option<i64>) -> Result<bool, SyncError> {
        let end_epoch = end_epoch.or(self.end_epoch).ok_or(SyncError::NoEpoch)?;
        let expected = self.end_epoch.unwrap_or(self.start_epoch);
        if end_epoch < expected || self.end_epoch.is_some_and(|first| first != end_epoch) {
            return Err(SyncError::WrongEpoch { found: end_epoch, expected });
        }
        self.pages += 1;
        if self.pages > PAGES_MAX {
            return Err(SyncError::Endless);
        }
        self.end_epoch = Some(end_epoch);
        self.changes.created_acq_specs.extend(page.created_acq_specs);
        self.changes.updated_acq_specs.extend(page.updated_acq_specs);
        self.changes.deleted_acq_specs.extend(page.deleted_acq_specs);
        self.next = page.next;
        Ok(self.next.is_none())
    }

    /// Begins anew with a full sync, after an error that [`is_sync_expired`]. Answers false when this is one already.
    pub fn restart_in_full(&mut self) -> bool {
        let was_partial = self.start_epoch != 0;
        *self = Self::new(0);
        was_partial
    }
}

impl SpecCache {
    /// A sync of this copy, to be driven with [`SpecPull::request`] and [`SpecPull::take`].
    pub fn pull(&self) -> SpecPull {
        SpecPull::new(self.epoch)
    }

    /// Makes the change that a pull has fetched. One that did not come to its last page changes nothing.
    pub fn apply(&mut self, pull: SpecPull) -> SyncSummary {
        let (Some(end_epoch), None) = (pull.end_epoch, pull.next) else { return SyncSummary::default() };
        let full = pull.start_epoch == 0;
        let mut summary = SyncSummary { pages: pull.pages, full, ..SyncSummary::default() };
        // In a full sync what the copy had is compared with what there is; otherwise the site has compared.
        let mut before = if full { std::mem::take(&mut self.specs) } else { BTreeMap::new() };
        for spec in pull.changes.created_acq_specs {
            match before.remove(&spec.id) {
                None => summary.created.push(spec.id.clone()),
                Some(old) if old != spec => summary.updated.push(spec.id.clone()),
                Some(_) => {}
            }
            self.specs.insert(spec.id.clone(), spec);
        }
        for spec in pull.changes.updated_acq_specs {
            summary.updated.push(spec.id.clone());
            self.specs.insert(spec.id.clone(), spec);
        }
        summary.deleted.extend(before.into_keys());
        for id in pull.changes.deleted_acq_specs {
            self.specs.remove(&id);
            summary.deleted.push(id);
        }
        self.epoch = end_epoch;
        summary
    }

    /// Brings the copy up to the site's present: by what changed since its epoch or, where the site no longer knows that, in full.
    ///
    /// # Errors
    /// [`SyncError`]; the copy is as it was then.
    pub async fn sync(&mut self, client: &Client) -> Result<SyncSummary, SyncError> {
        let mut pull = self.pull();
        loop {
            match client.ask(cache::Get, pull.request()).await {
                Ok(answer) => {
                    if pull.take(answer.output, answer.end_epoch)? {
                        return Ok(self.apply(pull));
                    }
                }
                Err(ClientError::Refusal { error, .. }) if is_sync_expired(&error) && pull.restart_in_full() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads a copy from a file; an empty one when there is no file.
    ///
    /// # Errors
    /// [`CacheFileError`].
    pub fn load(path: &Path) -> Result<Self, CacheFileError> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(CacheFileError::Io { path: path.to_owned(), source }),
        };
        let damaged = |reason: String| CacheFileError::Damaged { path: path.to_owned(), reason };
        let data = Data::from_json(&bytes).map_err(damaged)?;
        let file = Stored::decode(data, &Place::root(Encoding::Plain)).map_err(|fault| damaged(fault.to_string()))?;
        if file.format != FORMAT || file.epoch < 0 {
            return Err(damaged(format!("format {}, epoch {}", file.format, file.epoch)));
        }
        let specs = file.specs.into_iter().map(|spec| (spec.id.clone(), spec)).collect();
        Ok(Self { epoch: file.epoch, specs })
    }

    /// Writes the copy into a file, in the place of an earlier one.
    ///
    /// # Errors
    /// [`CacheFileError::Io`]; an earlier file is as it was then.
    pub fn save(&self, path: &Path) -> Result<(), CacheFileError> {
        let mut json = PlainJson::default();
        let specs = self.specs.values().cloned().collect();
        Stored { format: FORMAT, epoch: self.epoch, specs }.encode(&mut json);
        json.out.push(b'\n');
        replace(path, &json.out).map_err(|source| CacheFileError::Io { path: path.to_owned(), source })
    }
}

structure! {
    /// What the file holds.
    pub struct Stored = "lockstep.stats.spec_cache" {
        /// The format's number.
        format: i64,
        /// The epoch up to which the copy is in sync.
        epoch: i64,
        /// The specifications.
        specs: Vec<AcqSpec>,
    }
}

/// Puts a file of that content in the place of another, so that a crash leaves one of the two whole.
fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Of this process alone: two that keep the same file must not write into each other's.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The name is durable with the directory.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_contract::services::stats::acq_specs::{CounterSpec, Status};
    use lockstep_contract::services::stats::{CidMid, Predicate, RsrcId};

    fn spec(id: &str, interval: i64) -> AcqSpec {
        AcqSpec {
            endpoints: Vec::new(),
            counters: CounterSpec {
                cid_mid: Some(CidMid { cid: "cpu.capacity.usage.HOST".to_owned(), mid: None }),
                set_id: None,
            },
            resources: vec![RsrcId {
                key: None,
                resource_type: Some("HOST".to_owned()),
                id_value: String::new(),
                predicate: Some(Predicate::All),
                scheme: Some("moid".to_owned()),
            }],
            interval,
            expiration: 2_000_000_000,
            memo_: "\"quoted\" ü".to_owned(),
            id: id.to_owned(),
            status_reason: String::new(),
            status: Status::Enabled,
        }
    }

    /// Lists are `id:interval` or, of deleted ones, ids.
    fn page(created: &[(&str, i64)], updated: &[(&str, i64)], deleted: &[&str], next: Option<&str>) -> SyncResult {
        let specs = |list: &[(&str, i64)]| list.iter().map(|(id, interval)| spec(id, *interval)).collect();
        SyncResult {
            next: next.map(str::to_owned),
            created_acq_specs: specs(created),
            updated_acq_specs: specs(updated),
            deleted_acq_specs: deleted.iter().map(|id| (*id).to_owned()).collect(),
        }
    }

    fn held(cache: &SpecCache) -> Vec<(&str, i64)> {
        cache.specs.iter().map(|(id, spec)| (id.as_str(), spec.interval)).collect()
    }

    fn synced() -> SpecCache {
        let mut cache = SpecCache::default();
        let mut pull = cache.pull();
        assert!(pull.take(page(&[("1", 10), ("2", 10), ("3", 10)], &[], &[], None), Some(100)).unwrap());
        let summary = cache.apply(pull);
        assert!(summary.full && summary.created == ["1", "2", "3"]);
        cache
    }

    #[test]
    fn changes_of_all_pages_are_made_at_once() {
        let mut cache = synced();
        let mut pull = cache.pull();
        assert_eq!(pull.request(), GetInput { start_epoch: 100, end_epoch: None, page: None });
        assert!(!pull.take(page(&[("4", 10)], &[("1", 20)], &[], Some("p2")), Some(150)).unwrap());
        assert_eq!(pull.request(), GetInput { start_epoch: 100, end_epoch: None, page: Some("p2".to_owned()) });
        assert_eq!(cache, synced(), "nothing yet");
        assert!(pull.take(page(&[], &[], &["2"], None), Some(150)).unwrap());
        let summary = cache.apply(pull);
        assert_eq!(held(&cache), [("1", 20), ("3", 10), ("4", 10)]);
        assert_eq!(cache.epoch, 150);
        let ids = |list: &[&str]| list.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let expected =
            SyncSummary { created: ids(&["4"]), updated: ids(&["1"]), deleted: ids(&["2"]), pages: 2, full: false };
        assert_eq!(summary, expected);
    }

    #[test]
    fn a_sync_that_breaks_off_changes_nothing() {
        let mut cache = synced();
        let mut pull = cache.pull();
        assert!(!pull.take(page(&[("4", 10)], &[], &["1"], Some("p2")), Some(150)).unwrap());
        assert!(cache.apply(pull).is_unchanged());
        assert_eq!(cache, synced());
    }

    #[test]
    fn a_full_sync_replaces_everything_and_tells_the_difference() {
        let mut cache = synced();
        let mut pull = cache.pull();
        assert!(!pull.take(page(&[("9", 10)], &[], &[], Some("p2")), Some(150)).unwrap());
        assert!(pull.restart_in_full());
        assert_eq!(pull.request(), GetInput { start_epoch: 0, end_epoch: None, page: None });
        assert!(pull.take(page(&[("1", 10), ("2", 60), ("5", 10)], &[], &[], None), Some(160)).unwrap());
        let summary = cache.apply(pull);
        assert_eq!(held(&cache), [("1", 10), ("2", 60), ("5", 10)]);
        assert_eq!(
            (summary.created, summary.updated, summary.deleted),
            (vec!["5".into()], vec!["2".into()], vec!["3".into()])
        );
        assert!(summary.full && cache.epoch == 160);
        assert!(!SpecCache::default().pull().restart_in_full(), "a full sync cannot be answered by another one");
    }

    #[test]
    fn answers_of_another_time_are_refused() {
        let cache = synced();
        let empty = || page(&[], &[], &[], Some("p"));
        assert!(matches!(cache.pull().take(empty(), None), Err(SyncError::NoEpoch)));
        assert!(matches!(
            cache.pull().take(empty(), Some(99)),
            Err(SyncError::WrongEpoch { found: 99, expected: 100 })
        ));
        let mut pull = cache.pull();
        pull.take(empty(), Some(120)).unwrap();
        assert!(matches!(pull.take(empty(), Some(121)), Err(SyncError::WrongEpoch { found: 121, expected: 120 })));
        let mut pull = cache.pull();
        let endless = (0..=PAGES_MAX).find_map(|_| pull.take(empty(), Some(120)).err());
        assert!(matches!(endless, Some(SyncError::Endless)));
    }

    #[test]
    fn a_file_holds_the_copy_and_damage_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("specs.json");
        assert_eq!(SpecCache::load(&path).unwrap(), SpecCache::default());
        let cache = synced();
        cache.save(&path).unwrap();
        cache.save(&path).unwrap();
        assert_eq!(SpecCache::load(&path).unwrap(), cache);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");

        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(SpecCache::load(&path), Err(CacheFileError::Damaged { .. })));
        fs::write(&path, r#"{"format":2,"epoch":1,"specs":[]}"#).unwrap();
        assert!(matches!(SpecCache::load(&path), Err(CacheFileError::Damaged { .. })));
        assert!(matches!(cache.save(&directory.path().join("no/such")), Err(CacheFileError::Io { .. })));
    }

    #[test]
    fn only_the_expiry_asks_for_a_full_sync() {
        assert!(is_sync_expired(&Error::invalid_argument(EXPIRED, "start_epoch", "too old")));
        assert!(!is_sync_expired(&Error::invalid_argument("lockstep.input.type", "start_epoch", "no number")));
    }
}
