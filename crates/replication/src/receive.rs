//! The destination's side of a sync: drafts that other sites fill, and the instances that come of them.
//!
//! ```text
//!             open                    put, have                   commit
//!   (nothing) ────► draft, on disk ──────────────► draft, fuller ────────► instance
//!                     │  ▲    found again                 │
//!                     │  └──── after a restart ◄──────────┤
//!                     └── abandon; open anew; replication removed; another instance of it committed ──► gone
//! ```
//! # What is not believed
//! Names become names of files, so they are held to letters and digits. Every length is checked before anything is taken by it, every
//! block against its hash before it is stored, every number against the disk. Unpacking never writes more than a block. The map is
//! taken as it comes, since it is the source's own: at the commit it must have the root that the source reckoned, and all its blocks.
//!
//! # Whose
//! A replication belongs to a link; [`Owners`] knows which. Whoever else asks is told that there is no such replication. A draft is a
//! replication's, and goes with it ([`Receive::forget`]).
//!
//! # What may run at the same time
//! Any number of `have` and `put` of a draft. `open`, `commit` and `abandon` wait until those under way have ended, and others wait for
//! them. Frames are bounded by [`PUTS_MAX`], those that are being checked by [`CHECKS_MAX`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lockstep_contract::services::replication_receive::{
    self as declared, Base, CommitInput, Disk, HASHES_MAX, Had, HaveInput, Instance, InstanceInput, LEAVES_MAX, Leaf,
    LeafInput, Leaves, MapInput, OpenInput, Opened, PutInput, Taken,
};
use lockstep_contract::{Binary, Error, ErrorData, ErrorKind};
use lockstep_site::caller::Caller;
use lockstep_site::table::{Context, Table};
use parking_lot::Mutex;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, Semaphore};

use crate::frame::{Frame, Run};
use crate::receive_check as check;
pub use crate::receive_store::{Changes, Committed, DiskSize, Doing, Draft, InstanceStore, Key, StoreError};
use crate::ship_map::{hex, read_hex};

/// The id of the refusal of a root that differs.
pub const ROOT_DIFFERS: &str = "lockstep.replication.root";

/// The id of the refusal of a map with blocks that are not there.
pub const BLOCKS_MISSING: &str = "lockstep.replication.blocks";

/// The id of the refusal of a draft that is not there.
pub const NO_DRAFT: &str = "lockstep.replication.draft";

/// Frames that are held at a time, 6 MiB each at the most: a link has four on their way. Beyond it the source is told to wait.
pub const PUTS_MAX: usize = 48;

/// Frames whose blocks are checked at a time: more would only share the processors.
pub const CHECKS_MAX: usize = 4;

/// Most drafts of a replication: the one that is being filled, and those before, whose blocks are kept for it.
pub const DRAFTS_MAX: usize = 3;

/// Most drafts that are held open; beyond it those that nobody uses are closed, and found again when they are wanted.
const OPEN_MAX: usize = 1024;

/// Which link a replication belongs to.
pub trait Owners: Send + Sync + 'static {
    /// Whether the caller may store for a replication.
    ///
    /// # Errors
    /// `not_found` when there is no such replication, or it is another link's.
    fn check(&self, caller: &Caller, replication: &str) -> Result<(), Error>;
}

/// The service of one site.
pub struct Receive {
    store: Arc<dyn InstanceStore>,
    owners: Arc<dyn Owners>,
    /// Changes with every start of the server.
    life: String,
    /// Drafts that are open. Held for a look-up.
    open: Mutex<HashMap<Key, Arc<Slot>>>,
    puts: Semaphore,
    checks: Semaphore,
    /// Whether drafts were dropped whose blocks nobody may need.
    has_dropped: AtomicBool,
}

/// A draft's place; empty until it was looked for, and after its end. Written by who changes what it is.
type Slot = RwLock<Option<Arc<dyn Draft>>>;

/// A draft that is held open.
type Held = OwnedRwLockReadGuard<Option<Arc<dyn Draft>>, Arc<dyn Draft>>;

impl Receive {
    /// The service over a store.
    ///
    /// # Errors
    /// `internal_server_error` when the operating system has no random numbers.
    pub fn new(store: Arc<dyn InstanceStore>, owners: Arc<dyn Owners>) -> Result<Arc<Self>, Error> {
        let mut life = [0u8; 8];
        getrandom::fill(&mut life).map_err(|error| {
            tracing::error!(%error, "no random numbers for replication");
            Error::internal()
        })?;
        let life = format!("{:016x}", u64::from_le_bytes(life));
        let (puts, checks) = (Semaphore::new(PUTS_MAX), Semaphore::new(CHECKS_MAX));
        // Nobody remembers what was dropped before a restart.
        let has_dropped = AtomicBool::new(true);
        Ok(Arc::new(Self { store, owners, life, open: Mutex::default(), puts, checks, has_dropped }))
    }

    /// Registers the operations that the source of a replication calls.
    pub fn register(self: &Arc<Self>, table: &mut Table) {
        macro_rules! serve {
            ($($operation:path => $handler:ident),* $(,)?) => {
                $( let here = self.clone();
                   table.register($operation, move |context, input| {
                       let here = here.clone();
                       async move { here.$handler(context, input).await }
                   }); )*
            };
        }
        serve! {
            declared::Open => begin,
            declared::Map => map,
            declared::GetLeaf => leaf,
            declared::Have => have,
            declared::Put => put,
            declared::Commit => commit,
            declared::Abandon => abandon,
        }
    }

    /// Drops all drafts of a replication: it was removed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, replication: &str) -> Result<(), StoreError> {
        self.drop_drafts(replication, None, 0).await
    }

    /// Whether drafts were dropped since this was asked last.
    pub(crate) fn take_dropped(&self) -> bool {
        self.has_dropped.swap(false, Ordering::SeqCst)
    }

    /// Drops the oldest drafts of a replication until `most` are left, besides `but`.
    async fn drop_drafts(&self, replication: &str, but: Option<&str>, most: usize) -> Result<(), StoreError> {
        let mut drafts = self.store.drafts(replication).await?;
        drafts.retain(|draft| Some(&**draft) != but);
        drafts.truncate(drafts.len().saturating_sub(most));
        for instance in drafts {
            let key = Key { replication: replication.to_owned(), instance };
            self.drop_draft(&key).await?;
        }
        Ok(())
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let mut open = self.open.lock();
        if open.len() >= OPEN_MAX {
            open.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        open.entry(key.clone()).or_default().clone()
    }

    /// The names in a request, when the caller may use them.
    fn admit(&self, context: &Context, replication: String, instance: String) -> Result<Key, Error> {
        let key = check::key(replication, instance)?;
        self.owners.check(&context.caller, &key.replication)?;
        Ok(key)
    }

    /// Forgets a slot that nobody else uses: two slots of one draft would be two drafts.
    fn leave(&self, key: &Key, slot: Arc<Slot>) {
        let mut open = self.open.lock();
        // The map's, and this one.
        if Arc::strong_count(&slot) <= 2 {
            open.remove(key);
        }
    }

    /// A draft, held open: it is neither committed nor dropped meanwhile.
    async fn hold(&self, key: &Key) -> Result<Held, Error> {
        let slot = self.slot(key);
        let mut place = slot.clone().read_owned().await;
        if place.is_none() {
            drop(place);
            {
                let mut place = slot.write().await;
                if place.is_none() {
                    *place = self.store.draft(key).await.map_err(|error| told(&error))?;
                }
            }
            place = slot.clone().read_owned().await;
        }
        OwnedRwLockReadGuard::try_map(place, Option::as_ref).map_err(|place| {
            drop(place);
            self.leave(key, slot);
            no_draft(key)
        })
    }

    /// Drops a draft; answers whether there was one.
    async fn drop_draft(&self, key: &Key) -> Result<bool, StoreError> {
        let slot = self.slot(key);
        let dropped = {
            let mut place = slot.write().await;
            let draft = match place.take() {
                Some(draft) => Some(draft),
                None => self.store.draft(key).await?,
            };
            match draft {
                Some(draft) => {
                    self.has_dropped.store(true, Ordering::SeqCst);
                    draft.abandon().await.map(|()| true)
                }
                None => Ok(false),
            }
        };
        self.leave(key, slot);
        dropped
    }

    async fn begin(&self, context: Context, input: OpenInput) -> Result<Opened, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let disks = check::disks(&input.disks)?;
        if input.base.as_ref().is_some_and(|base| !check::is_instance(base)) {
            return Err(check::invalid("base", "h4replica- and a UUID in lower case"));
        }
        // Before this draft is held: whoever holds one must not wait for another.
        self.drop_drafts(&key.replication, Some(&key.instance), DRAFTS_MAX - 1).await.map_err(|error| told(&error))?;
        let slot = self.slot(&key);
        let mut place = slot.write().await;
        let life = self.life.clone();
        if let Some(committed) = self.store.committed(&key).await.map_err(|error| told(&error))? {
            let committed = Some(instance(key.instance, &committed));
            return Ok(Opened { life, committed, base: None });
        }
        let base = match &input.base {
            None => None,
            Some(base) => {
                let at = Key { replication: key.replication.clone(), instance: base.clone() };
                let found = self.store.committed(&at).await.map_err(|error| told(&error))?;
                let missing = || {
                    let message = format!("there is no instance {base} to begin with");
                    Error::not_found("lockstep.replication.base", message, vec![base.clone()])
                };
                let found = found.ok_or_else(missing)?;
                let disk = |disk: &DiskSize| Disk { key: i64::from(disk.key), bytes: disk.bytes as i64 };
                Some(Base { root: hex(&found.root), disks: found.disks.iter().map(disk).collect() })
            }
        };
        let begun = self.store.begin(&key, input.base.as_deref(), &disks).await.map_err(|error| told(&error))?;
        *place = Some(begun);
        tracing::info!(replication = key.replication, instance = key.instance, base = input.base, "a draft was begun");
        Ok(Opened { life, committed: None, base })
    }

    async fn map(&self, context: Context, input: MapInput) -> Result<Leaves, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let (disk, first) = (check::number(input.disk, "disk")?, check::number(input.first, "first")?);
        let count = check::number(input.count, "count")?;
        if count as usize > LEAVES_MAX {
            return Err(check::invalid("count", &format!("at most {LEAVES_MAX}")));
        }
        let leaves = self.store.leaves(&key, disk, first, count).await.map_err(|error| told(&error))?;
        Ok(Leaves { hashes: Binary(leaves.concat().into()) })
    }

    async fn leaf(&self, context: Context, input: LeafInput) -> Result<Leaf, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let (disk, number) = (check::number(input.disk, "disk")?, check::number(input.leaf, "leaf")?);
        let leaf = self.store.leaf(&key, disk, number).await.map_err(|error| told(&error))?;
        Ok(Leaf { leaf: Binary(leaf) })
    }

    async fn have(&self, context: Context, input: HaveInput) -> Result<Had, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let hashes = check::hashes(&input.hashes.0, HASHES_MAX)?;
        let present = self.hold(&key).await?.have(&hashes).await.map_err(|error| told(&error))?;
        let mut bits = vec![0u8; hashes.len().div_ceil(8)];
        for (i, is_there) in present.iter().take(hashes.len()).enumerate() {
            bits[i / 8] |= u8::from(*is_there) << (i % 8);
        }
        Ok(Had { life: self.life.clone(), present: Binary(bits.into()) })
    }

    async fn put(&self, context: Context, input: PutInput) -> Result<Taken, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let Ok(_place) = self.puts.try_acquire() else { return Err(busy()) };
        let bytes = input.frame.0;
        let checked = {
            let _turn = self.checks.acquire().await.map_err(|_| Error::internal())?;
            let checked = tokio::task::spawn_blocking(move || {
                let frame = Frame::read(bytes).map_err(|error| check::invalid("frame", &error.to_string()))?;
                check::blocks(&frame).map(|()| frame)
            });
            checked.await.map_err(|_| told(&StoreError::Away("the server is stopping".to_owned())))??
        };
        let draft = self.hold(&key).await?;
        let changes = changes(&checked.runs);
        draft.store(checked.blocks, changes).await.map_err(|error| told(&error))?;
        Ok(Taken { life: self.life.clone() })
    }

    async fn commit(&self, context: Context, input: CommitInput) -> Result<Instance, Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        let root = read_hex(&input.root).ok_or_else(|| check::invalid("root", "64 hex digits in lower case"))?;
        let slot = self.slot(&key);
        let committed = {
            let mut place = slot.write().await;
            match self.store.committed(&key).await.map_err(|error| told(&error))? {
                // The answer to a commit was lost.
                Some(committed) if committed.root == root => committed,
                Some(_) => return Err(told(&StoreError::RootDiffers)),
                None => {
                    let held = match place.take() {
                        Some(draft) => Some(draft),
                        None => self.store.draft(&key).await.map_err(|error| told(&error))?,
                    };
                    let draft = held.ok_or_else(|| no_draft(&key))?;
                    draft.commit(root, input.time_ms).await.map_err(|error| told(&error))?
                }
            }
        };
        self.leave(&key, slot);
        // The blocks of the drafts before have found their place. What is not dropped now is with the next commit.
        if let Err(error) = self.drop_drafts(&key.replication, None, 0).await {
            tracing::warn!(%error, replication = key.replication, "drafts that are not needed any more were not dropped");
        }
        tracing::info!(
            replication = key.replication,
            instance = key.instance,
            root = input.root,
            "an instance was committed"
        );
        Ok(instance(key.instance, &committed))
    }

    async fn abandon(&self, context: Context, input: InstanceInput) -> Result<(), Error> {
        let key = self.admit(&context, input.replication, input.instance)?;
        if self.drop_draft(&key).await.map_err(|error| told(&error))? {
            tracing::info!(replication = key.replication, instance = key.instance, "a draft was dropped");
        }
        Ok(())
    }
}

fn busy() -> Error {
    let message = format!("{PUTS_MAX} frames are taken in already; try again in a moment");
    let mut error = Error::new(ErrorKind::ServiceUnavailable, "lockstep.replication.busy", message, Vec::new());
    error.data = Some(ErrorData::Transient(true));
    error
}

fn no_draft(key: &Key) -> Error {
    let message = format!("there is no draft of {}", key.instance);
    Error::not_found(NO_DRAFT, message, vec![key.instance.clone()])
}

/// What a frame says of the maps. Blocks that changed here and there make many short runs: a disk's are changed at once.
fn changes(runs: &[Run]) -> Vec<Changes> {
    let of_disk = |runs: &[Run]| Changes {
        disk: runs.first().map_or(0, |run| run.disk),
        entries: runs.iter().flat_map(Run::entries).collect(),
    };
    runs.chunk_by(|run, next| run.disk == next.disk).map(of_disk).collect()
}

fn instance(name: String, committed: &Committed) -> Instance {
    // Numbers of a store that are larger than a long there are not.
    let long = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Instance {
        instance: name,
        time_ms: committed.time_ms,
        root: hex(&committed.root),
        sequence: long(committed.sequence),
        transfer_bytes: long(committed.transfer_bytes),
    }
}

/// A store's error as the contract's.
fn told(error: &StoreError) -> Error {
    let text = error.to_string();
    let of = |kind, id: &str| Error::new(kind, id, text.clone(), Vec::new());
    match error {
        StoreError::NotFound(_) => Error::not_found("lockstep.replication.not_found", text, Vec::new()),
        StoreError::Full => of(ErrorKind::UnableToAllocateResource, "lockstep.replication.full"),
        StoreError::Away(_) => {
            let mut error = of(ErrorKind::ServiceUnavailable, "lockstep.replication.away");
            error.data = Some(ErrorData::Transient(true));
            error
        }
        StoreError::HashDiffers => check::invalid("frame", &text),
        StoreError::RootDiffers => of(ErrorKind::NotAllowedInCurrentState, ROOT_DIFFERS),
        StoreError::BlocksMissing => of(ErrorKind::NotAllowedInCurrentState, BLOCKS_MISSING),
        StoreError::Invalid(_) => check::invalid("frame", &text),
        StoreError::Failed(_) => {
            tracing::error!(%error, "the block store has failed");
            Error::internal()
        }
    }
}
