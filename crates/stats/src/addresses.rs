//! Resource addresses: a number for each concrete resource that there are points of.
//!
//! An address is a resource of the journal, made when the first point of it comes; it stays as long as points may refer to it. This
//! table is the same in memory, for the way of points: from identifiers to the number and back.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockstep_contract::Error;
use lockstep_contract::counters::ResourceKind;
use lockstep_contract::services::stats::addresses::{FilterSpec, IdInput, Info, ListInput, ListResult};
use lockstep_contract::services::stats::{Predicate, RsrcId, SCHEME};
use lockstep_journal::{Batch, Change, CommitError, Expect, Operation};
use lockstep_model::builtin::RESOURCE_ADDRESS;
use lockstep_model::{Document, ResourceId, Value};
use lockstep_site::table::Context;
use lockstep_site::{Site, commit_error};
use parking_lot::RwLock;

use crate::Stats;
use crate::filter::{AddressFilter, selects_nothing};
use crate::page::Scope;

/// Addresses of one page of a list.
const PAGE_ADDRESSES: usize = 1000;

/// Addresses that one commit makes.
const BATCH_ADDRESSES: usize = 1000;

/// Tries before new addresses are given up against others that make addresses too.
const TRIES_MAX: usize = 16;

/// Most addresses of a site: at some 200 bytes each.
pub(crate) const ADDRESSES_MAX: usize = 5_000_000;

/// The author of the commits.
const AUTHOR: &str = "lockstep/stats";

/// The number of an address: the `rid` of points.
pub(crate) type Rid = u64;

/// A concrete resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// A host.
    Host { host: Box<str> },
    /// A virtual machine on the host it was sampled on.
    Vm { vm: Box<str>, host: Box<str> },
}

impl Address {
    /// The type that it is of.
    pub(crate) fn kind(&self) -> ResourceKind {
        match self {
            Self::Host { .. } => ResourceKind::Host,
            Self::Vm { .. } => ResourceKind::Vm,
        }
    }

    /// Its identifier of that type.
    pub(crate) fn id_of(&self, kind: ResourceKind) -> Option<&str> {
        match (self, kind) {
            (Self::Host { host } | Self::Vm { host, .. }, ResourceKind::Host) => Some(host),
            (Self::Vm { vm, .. }, ResourceKind::Vm) => Some(vm),
            (Self::Host { .. }, ResourceKind::Vm) => None,
        }
    }

    /// Its identifiers.
    pub(crate) fn show(&self) -> Vec<RsrcId> {
        let identifier = |kind: &ResourceKind| {
            Some(RsrcId {
                key: Some(kind.name().to_owned()),
                resource_type: Some(kind.name().to_owned()),
                id_value: self.id_of(*kind)?.to_owned(),
                predicate: Some(Predicate::Equal),
                scheme: Some(SCHEME.to_owned()),
            })
        };
        self.kind().address_types().iter().filter_map(identifier).collect()
    }

    fn from_document(document: &Document) -> Option<Self> {
        let id = |name: &str| match document.get(name) {
            Some(Value::Id(id)) => Some(id.id.clone()),
            _ => None,
        };
        let host = id("host")?;
        Some(match id("vm") {
            Some(vm) => Self::Vm { vm, host },
            None => Self::Host { host },
        })
    }

    fn to_document(&self) -> Document {
        let mut document = Document::default();
        let vm = self.id_of(ResourceKind::Vm).map(|id| Value::from(ResourceId::new("VirtualMachine", id)));
        document.set("vm", vm);
        let host = self.id_of(ResourceKind::Host).map(|id| Value::from(ResourceId::new("HostSystem", id)));
        document.set("host", host);
        document
    }
}

/// All addresses of the site.
pub(crate) struct Addresses {
    /// Held for look-ups and insertions.
    known: RwLock<Known>,
    last: AtomicU64,
}

#[derive(Default)]
struct Known {
    rids: HashMap<Address, Rid>,
    by_rid: BTreeMap<Rid, Address>,
}

impl Known {
    fn insert(&mut self, rid: Rid, address: Address) {
        self.rids.insert(address.clone(), rid);
        self.by_rid.insert(rid, address);
    }
}

impl Addresses {
    /// What the site knows.
    pub(crate) fn read(site: &Site) -> Self {
        let mut known = Known::default();
        let view = site.view();
        for id in view.ids(RESOURCE_ADDRESS, None) {
            let address = view.get(&id).and_then(|stored| Address::from_document(&stored.document));
            if let (Some(address), Ok(rid)) = (address, id.id.parse()) {
                known.insert(rid, address);
            }
        }
        let last = known.by_rid.last_key_value().map_or(0, |(rid, _)| *rid);
        Self { known: RwLock::new(known), last: AtomicU64::new(last) }
    }

    /// The numbers of these addresses, in their order; `None` for those that are new.
    pub(crate) fn find(&self, addresses: &[Address]) -> Vec<Option<Rid>> {
        let known = self.known.read();
        addresses.iter().map(|address| known.rids.get(address).copied()).collect()
    }

    /// The address of a number.
    pub(crate) fn get(&self, rid: Rid) -> Option<Address> {
        self.known.read().by_rid.get(&rid).cloned()
    }

    /// The numbers of the addresses that a filter takes.
    pub(crate) fn select(&self, filter: &AddressFilter) -> Vec<Rid> {
        let known = self.known.read();
        known.by_rid.iter().filter(|(_, address)| filter.takes(address)).map(|(rid, _)| *rid).collect()
    }

    /// Gives numbers to new addresses, durably.
    ///
    /// # Errors
    /// Those of the journal; `unable_to_allocate_resource` beyond [`ADDRESSES_MAX`].
    pub(crate) async fn add(&self, site: &Site, new: Vec<Address>) -> Result<(), Error> {
        for part in new.chunks(BATCH_ADDRESSES) {
            self.add_part(site, part).await?;
        }
        Ok(())
    }

    async fn add_part(&self, site: &Site, part: &[Address]) -> Result<(), Error> {
        for _ in 0..TRIES_MAX {
            // Another batch may have brought some of them meanwhile.
            let missing: Vec<(Rid, &Address)> = {
                let known = self.known.read();
                if known.by_rid.len() + part.len() > ADDRESSES_MAX {
                    let message = format!("the site has {ADDRESSES_MAX} resource addresses, and takes no more");
                    let kind = lockstep_contract::ErrorKind::UnableToAllocateResource;
                    return Err(Error::new(kind, "lockstep.stats.addresses_full", message, Vec::new()));
                }
                let missing = part.iter().filter(|address| !known.rids.contains_key(*address));
                missing.map(|address| (self.last.fetch_add(1, Ordering::Relaxed) + 1, address)).collect()
            };
            if missing.is_empty() {
                return Ok(());
            }
            let change = |(rid, address): &(Rid, &Address)| {
                let id = ResourceId::new(RESOURCE_ADDRESS, rid.to_string());
                let operation = Operation::Create(address.to_document());
                (Change { id, operation, parents: Arc::from([]) }, Expect::Absent)
            };
            let changes = missing.iter().map(change).collect();
            match site.commit(Batch { author: AUTHOR.into(), changes, relies_on: Vec::new() }).await {
                Ok(_) => {
                    let mut known = self.known.write();
                    for (rid, address) in missing {
                        // Of two numbers for one address that raced, the one that came first is used.
                        if !known.rids.contains_key(address) {
                            known.insert(rid, address.clone());
                        }
                    }
                    return Ok(());
                }
                Err(CommitError::Conflict { .. }) => {}
                Err(error) => return Err(commit_error(&error)),
            }
        }
        let message = "others keep making resource addresses";
        Err(Error::new(
            lockstep_contract::ErrorKind::ServiceUnavailable,
            "lockstep.stats.addresses_busy",
            message,
            Vec::new(),
        ))
    }
}

fn info(rid: Rid, address: &Address) -> Info {
    Info { id: rid.to_string(), resource_ids: address.show() }
}

pub(crate) async fn list(stats: &Arc<Stats>, _: Context, input: ListInput) -> Result<ListResult, Error> {
    let filter = input.filter.unwrap_or(FilterSpec { types: None, resources: None, page: None });
    let asked = format!("{:?} {:?}", filter.types, filter.resources);
    let scope = Scope { operation: "resource_addresses.list", asked: &asked };
    let wanted = AddressFilter::read(filter.types, filter.resources, "filter.resources")?;
    let page = filter.page.filter(|page| !page.is_empty());
    let after = match page.map(|page| scope.read(&page, "filter.page")).transpose()? {
        None => 0,
        Some(text) => text.parse().map_err(|_| Error::internal())?,
    };
    let known = stats.addresses.known.read();
    let mut rest = known.by_rid.range((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded));
    let mut matching = rest.by_ref().filter(|(_, address)| wanted.takes(address));
    let found: Vec<Info> = matching.by_ref().take(PAGE_ADDRESSES).map(|(rid, address)| info(*rid, address)).collect();
    let has_more = matching.next().is_some();
    if found.is_empty() && after == 0 && !wanted.takes_all() {
        return Err(selects_nothing("filter.resources"));
    }
    let next = found.last().filter(|_| has_more).map(|last| scope.token(&last.id));
    Ok(ListResult { rsrc_addrs: found, next })
}

pub(crate) async fn get(stats: &Arc<Stats>, _: Context, input: IdInput) -> Result<Info, Error> {
    let found = input.id.parse().ok().and_then(|rid| Some(info(rid, &stats.addresses.get(rid)?)));
    found.ok_or_else(|| {
        let message = format!("no resource address {}", input.id);
        Error::not_found("lockstep.stats.address_not_found", message, vec![input.id])
    })
}
