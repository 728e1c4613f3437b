//! How a sync begins: the draft is opened, and what its base is at the destination is learned and checked.

use lockstep_contract::services::replication_receive::{
    DISKS_MAX, Disk as DiskInput, LEAVES_MAX, Map, MapInput, Open, OpenInput,
};

use crate::frame::Hash;
use crate::ship::{Base, Disk, Shared, ShipError};
use crate::ship_map::{leaf_count, read_hashes, read_hex, root_hash};
use crate::ship_peer::malformed;
use crate::ship_plan::block_count;

/// A source that lists changes lists those to a disk of the same size.
pub(crate) fn check_sizes(disks: &[Disk], base: Option<&BaseMap>) -> Result<(), ShipError> {
    let is_there = |disk: &&Disk| {
        let same = |old: &BaseDisk| old.key == disk.key && old.bytes == disk.source.bytes();
        base.is_some_and(|base| base.disks.iter().any(same))
    };
    match disks.iter().find(|disk| !is_there(disk)) {
        None => Ok(()),
        Some(disk) => Err(ShipError::Resized(disk.key)),
    }
}

/// Opens the draft; answers what the base is at the destination.
pub(crate) async fn open(shared: &Shared, base: Option<&Base>) -> Result<Option<BaseMap>, ShipError> {
    let disk = |disk: &Disk| DiskInput { key: i64::from(disk.key), bytes: disk.source.bytes() as i64 };
    let input = || OpenInput {
        replication: shared.replication.clone(),
        instance: shared.instance.clone(),
        base: base.map(|base| base.instance.clone()),
        disks: shared.disks.iter().map(disk).collect(),
    };
    let opened = shared.peer.call(Open, input).await?;
    shared.peer.got_on();
    if let Some(instance) = opened.committed {
        return Err(ShipError::Committed(Box::new(instance)));
    }
    let Some(base) = base else { return Ok(None) };
    let found = opened.base.ok_or_else(|| malformed("the base"))?;
    let root = read_hex(&found.root).ok_or_else(|| malformed("the base's root"))?;
    if let Some(here) = base.root.clone().filter(|here| *here != found.root) {
        return Err(ShipError::BaseDiffers { here, there: found.root });
    }
    if found.disks.len() > DISKS_MAX {
        return Err(malformed("the base's disks"));
    }
    let mut disks = Vec::new();
    for disk in found.disks {
        let (Ok(key), Ok(bytes)) = (u32::try_from(disk.key), u64::try_from(disk.bytes)) else {
            return Err(malformed("the base's disks"));
        };
        disks.push(read_leaves(shared, &base.instance, key, bytes).await?);
    }
    let parts: Vec<(u32, u64, &[Hash])> = disks.iter().map(|disk| (disk.key, disk.bytes, &disk.leaves[..])).collect();
    if root_hash(&parts) != root {
        return Err(malformed("the base's map does not have its root"));
    }
    Ok(Some(BaseMap { instance: base.instance.clone(), disks }))
}

/// The base's map, as far as it is needed from the start.
pub(crate) struct BaseMap {
    pub(crate) instance: String,
    pub(crate) disks: Vec<BaseDisk>,
}

pub(crate) struct BaseDisk {
    pub(crate) key: u32,
    pub(crate) bytes: u64,
    pub(crate) leaves: Vec<Hash>,
}

async fn read_leaves(shared: &Shared, instance: &str, key: u32, bytes: u64) -> Result<BaseDisk, ShipError> {
    let count = leaf_count(block_count(bytes).map_err(|_| malformed("the size of a disk of the base"))?);
    let mut leaves = Vec::new();
    while leaves.len() < count as usize {
        let wanted = (count as usize - leaves.len()).min(LEAVES_MAX);
        let input = || MapInput {
            replication: shared.replication.clone(),
            instance: instance.to_owned(),
            disk: i64::from(key),
            first: leaves.len() as i64,
            count: wanted as i64,
        };
        let told = shared.peer.call(Map, input).await?.hashes.0;
        shared.peer.got_on();
        shared.count_wire(told.len());
        let hashes = read_hashes(&told).filter(|hashes| hashes.len() == wanted);
        leaves.extend(hashes.ok_or_else(|| malformed("hashes of leaves"))?);
    }
    Ok(BaseDisk { key, bytes, leaves })
}
