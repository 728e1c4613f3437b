//! The block store as the place where instances are kept. Its calls wait for a disk, so each has a thread of its own meanwhile.

use std::sync::Arc;

use bytes::Bytes;
use lockstep_blocks::{Error, Form, Instance, Name, Store};

use crate::frame::{Block, Hash};
use crate::receive_store::{Changes, Committed, DiskSize, Doing, Draft, InstanceStore, Key, StoreError};

/// Does something that waits for a disk.
fn work<'a, T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Doing<'a, T> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|_| StoreError::Away("the server is stopping".to_owned()))?
    })
}

fn name(key: &Key) -> Result<Name, StoreError> {
    Name::new(&key.replication, &key.instance)
        .ok_or_else(|| StoreError::Invalid(format!("{:?} is no name of an instance", key.instance)))
}

fn told(error: Error) -> StoreError {
    match error {
        Error::NoInstance(_) => StoreError::NotFound("such instance"),
        Error::NoDraft(_) => StoreError::NotFound("such draft"),
        Error::NoDisk(_) => StoreError::NotFound("such disk"),
        Error::Exists(_) | Error::Invalid(_) => StoreError::Invalid(error.to_string()),
        Error::Full => StoreError::Full,
        Error::Away { .. } => StoreError::Away(error.to_string()),
        Error::RootDiffers { .. } => StoreError::RootDiffers,
        // What is damaged counts as missing, and is healed by who brings everything anew.
        Error::BlockMissing { .. } | Error::Damaged { .. } => {
            tracing::error!(%error, "an instance cannot be made");
            StoreError::BlocksMissing
        }
        Error::Poisoned | Error::Locked => StoreError::Failed(error.to_string()),
        Error::Io { what, source } => StoreError::Failed(format!("{what}: {source}")),
    }
}

fn committed(instance: &Instance) -> Committed {
    Committed {
        time_ms: instance.state.time_ms,
        root: instance.root,
        sequence: instance.state.sequence,
        transfer_bytes: instance.state.stored_bytes,
        disks: instance.disks().map(|disk| DiskSize { key: disk.key, bytes: disk.bytes }).collect(),
    }
}

impl InstanceStore for Store {
    fn committed<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Committed>> {
        let found = name(key).map(|name| self.instance(&name).map(|instance| committed(&instance)));
        Box::pin(std::future::ready(found))
    }

    fn leaves<'a>(&'a self, key: &'a Key, disk: u32, first: u32, count: u32) -> Doing<'a, Vec<Hash>> {
        let hashes = || self.leaf_hashes(&name(key)?, disk, first, count).map_err(told);
        Box::pin(std::future::ready(hashes()))
    }

    fn leaf<'a>(&'a self, key: &'a Key, disk: u32, number: u32) -> Doing<'a, Bytes> {
        let (store, key) = (self.clone(), key.clone());
        work(move || Store::leaf(&store, &name(&key)?, disk, number).map_err(told))
    }

    fn begin<'a>(&'a self, key: &'a Key, base: Option<&'a str>, disks: &'a [DiskSize]) -> Doing<'a, Arc<dyn Draft>> {
        let size = |disk: &DiskSize| lockstep_blocks::DiskSize { key: disk.key, bytes: disk.bytes };
        let (store, key, disks) = (self.clone(), key.clone(), disks.iter().map(size).collect::<Vec<_>>());
        let base = base.map(|base| Key { replication: key.replication.clone(), instance: base.to_owned() });
        work(move || {
            let base = base.as_ref().map(name).transpose()?;
            let draft = Store::begin(&store, &name(&key)?, base.as_ref(), &disks).map_err(told)?;
            Ok(Arc::new(draft) as Arc<dyn Draft>)
        })
    }

    fn draft<'a>(&'a self, key: &'a Key) -> Doing<'a, Option<Arc<dyn Draft>>> {
        let (store, key) = (self.clone(), key.clone());
        work(move || {
            let draft = Store::draft(&store, &name(&key)?).map_err(told)?;
            Ok(draft.map(|draft| Arc::new(draft) as Arc<dyn Draft>))
        })
    }

    fn drafts<'a>(&'a self, replication: &'a str) -> Doing<'a, Vec<String>> {
        let (store, replication) = (self.clone(), replication.to_owned());
        work(move || {
            let drafts = Store::drafts(&store, &replication);
            Ok(drafts.iter().map(|draft| draft.instance().to_owned()).collect())
        })
    }
}

impl Draft for lockstep_blocks::Draft {
    fn have<'a>(&'a self, hashes: &'a [Hash]) -> Doing<'a, Vec<bool>> {
        let (draft, hashes) = (self.clone(), hashes.to_vec());
        work(move || lockstep_blocks::Draft::have(&draft, &hashes).map_err(told))
    }

    fn store(&self, blocks: Vec<Block>, changes: Vec<Changes>) -> Doing<'_, ()> {
        let draft = self.clone();
        work(move || {
            let block = |block: Block| lockstep_blocks::Block {
                hash: block.hash,
                form: if block.is_zstd { Form::Zstd } else { Form::Plain },
                plain_bytes: block.plain_bytes,
                bytes: block.bytes,
            };
            let blocks: Vec<_> = blocks.into_iter().map(block).collect();
            draft.put(&blocks).map_err(told)?;
            changes.iter().try_for_each(|of_disk| draft.set(of_disk.disk, &of_disk.entries)).map_err(told)?;
            draft.flush().map_err(told)
        })
    }

    fn commit(&self, root: Hash, time_ms: i64) -> Doing<'_, Committed> {
        let draft = self.clone();
        work(move || lockstep_blocks::Draft::commit(&draft, &root, time_ms).map(|i| committed(&i)).map_err(told))
    }

    fn abandon(&self) -> Doing<'_, ()> {
        let draft = self.clone();
        work(move || lockstep_blocks::Draft::abandon(&draft).map_err(told))
    }
}
