//! Providers: who offers samples, and who of them is there.
//!
//! What a provider says of itself is a resource. That it is still there is kept in memory: writing it down every minute would fill the
//! log with nothing. After a restart of the server every provider counts as there until it has been silent for too long.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::Error;
use lockstep_contract::counters::{ResourceKind, counter};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::stats::SCHEME;
use lockstep_contract::services::stats::agents::{Provider, ProviderInput, RegisterInput, Registered, Summary};
use lockstep_model::builtin::STATS_PROVIDER;
use lockstep_model::{Document, ResourceId, Value};
use lockstep_site::table::Context;
use lockstep_site::{Site, WriteError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Stats;

/// Longest description that a provider gives of itself, in bytes.
const METADATA_BYTES_MAX: usize = 1024;

/// Providers of a site. A provider takes a few kilobytes of memory.
const PROVIDERS_MAX: usize = 20_000;

/// Counters that somebody offers who is there.
pub(crate) type Offered = BTreeSet<&'static str>;

/// How old what is known to be offered may be: somebody's absence is noticed by so much later.
const OFFERED_FOR: Duration = Duration::from_secs(1);

struct Seen {
    at: Instant,
    at_s: i64,
    counters: Arc<Offered>,
}

/// Who is there.
pub(crate) struct Presence {
    absent_after: Duration,
    /// By the provider's id. Held for a look-up.
    seen: Mutex<HashMap<String, Seen>>,
    /// What was last found to be offered, and when: asked for with every specification that is written.
    offered: Mutex<Option<(Instant, Arc<Offered>)>>,
    /// Rung when statuses may have to change.
    pub(crate) wake: Notify,
}

impl Presence {
    /// Everybody whom the site knows, as if they had been heard just now.
    pub(crate) fn read(site: &Site, absent_after: Duration) -> Self {
        let view = site.view();
        let now_s = site.log_now_s();
        let known = view.ids(STATS_PROVIDER, None).filter_map(|id| {
            let document = view.get(&id)?.document;
            Some((
                String::from(id.id),
                Seen { at: Instant::now(), at_s: now_s, counters: Arc::new(counters_of(&document)) },
            ))
        });
        Self { absent_after, seen: Mutex::new(known.collect()), offered: Mutex::new(None), wake: Notify::new() }
    }

    /// How many are there.
    pub(crate) fn count(&self) -> u64 {
        self.seen.lock().values().filter(|seen| seen.at.elapsed() < self.absent_after).count() as u64
    }

    /// All that is offered by those who are there.
    pub(crate) fn offered(&self) -> Arc<Offered> {
        let mut known = self.offered.lock();
        if let Some((_, offered)) = known.as_ref().filter(|(at, _)| at.elapsed() < OFFERED_FOR) {
            return offered.clone();
        }
        let offered: Offered = {
            let seen = self.seen.lock();
            let present = seen.values().filter(|seen| seen.at.elapsed() < self.absent_after);
            present.flat_map(|seen| seen.counters.iter().copied()).collect()
        };
        let offered = Arc::new(offered);
        *known = Some((Instant::now(), offered.clone()));
        offered
    }

    /// Somebody came, went, or changed what they offer.
    fn changed(&self) {
        *self.offered.lock() = None;
        self.wake.notify_one();
    }

    /// The provider was heard. Answers whether it is known.
    pub(crate) fn heard(&self, id: &str, now_s: i64) -> bool {
        let was_gone = match self.seen.lock().get_mut(id) {
            None => return false,
            Some(seen) => {
                let was_gone = seen.at.elapsed() >= self.absent_after;
                (seen.at, seen.at_s) = (Instant::now(), now_s);
                was_gone
            }
        };
        if was_gone {
            self.changed();
        }
        true
    }
}

fn resource(id: &str) -> ResourceId {
    ResourceId::new(STATS_PROVIDER, id)
}

fn counters_of(document: &Document) -> BTreeSet<&'static str> {
    let Some(Value::List(items)) = document.get("counters") else { return BTreeSet::new() };
    items.iter().filter_map(|cid| counter(cid.as_str()?)).map(|counter| counter.cid).collect()
}

fn text(document: &Document, path: &str) -> Option<String> {
    document.get(path).and_then(Value::as_str).map(str::to_owned)
}

/// Every provider that the site knows.
fn all(site: &Site) -> Vec<(String, Document)> {
    let view = site.view();
    let documents = view.ids(STATS_PROVIDER, None).filter_map(|id| Some((id.id.to_string(), view.get(&id)?.document)));
    documents.collect()
}

pub(crate) async fn list(stats: &Arc<Stats>, _: Context, _: NoInput) -> Result<Vec<Summary>, Error> {
    let summary = |(id, document): (String, Document)| Summary {
        id_value: id.clone(),
        id,
        resource_type: ResourceKind::Host.name().to_owned(),
        scheme: Some(SCHEME.to_owned()),
        metadata: text(&document, "metadata"),
        tracking_sn: match document.get("tracking_sn") {
            Some(Value::Long(at)) => Some(*at),
            _ => None,
        },
    };
    Ok(all(&stats.site).into_iter().map(summary).collect())
}

pub(crate) async fn list_providers(stats: &Arc<Stats>, _: Context, _: NoInput) -> Result<Vec<Provider>, Error> {
    let seen = stats.presence.seen.lock();
    let provider = |(id, document): (String, Document)| {
        let last = seen.get(&id);
        Provider {
            host: id.clone(),
            metadata: text(&document, "metadata").unwrap_or_default(),
            counters: i64::try_from(counters_of(&document).len()).unwrap_or(i64::MAX),
            last_seen: last.map_or(0, |seen| seen.at_s),
            is_present: last.is_some_and(|seen| seen.at.elapsed() < stats.presence.absent_after),
            id,
        }
    };
    Ok(all(&stats.site).into_iter().map(provider).collect())
}

pub(crate) async fn register(stats: &Arc<Stats>, context: Context, input: RegisterInput) -> Result<Registered, Error> {
    let invalid = |place: &str, message: String| Error::invalid_argument("lockstep.stats.provider", place, &message);
    let id = resource(&input.host);
    id.check().map_err(|error| invalid("host", error.to_string()))?;
    if input.metadata.len() > METADATA_BYTES_MAX {
        return Err(invalid("metadata", format!("at most {METADATA_BYTES_MAX} bytes")));
    }
    let mut counters = BTreeSet::new();
    for (i, cid) in input.counters.iter().enumerate() {
        let known = counter(cid).ok_or_else(|| invalid(&format!("counters[{i}]"), format!("no counter {cid:?}")))?;
        counters.insert(known.cid);
    }
    let stored = stats.site.view().get(&id).map(|stored| stored.document);
    let is_new = stored.is_none();
    if is_new && stats.site.view().count(STATS_PROVIDER) >= PROVIDERS_MAX {
        return Err(invalid("host", format!("the site has {PROVIDERS_MAX} providers, and takes no more")));
    }
    let is_same = stored.as_ref().is_some_and(|stored| {
        counters_of(stored) == counters && text(stored, "metadata").unwrap_or_default() == input.metadata
    });
    let now_s = stats.now_s();
    if !is_same {
        let mut document = Document::default();
        document.set("host", Some(Value::from(ResourceId::new("HostSystem", &*input.host))));
        document.set("metadata", Some(&*input.metadata).filter(|m| !m.is_empty()).map(Value::from));
        let list: Vec<Value> = counters.iter().map(|cid| Value::from(*cid)).collect();
        document.set("counters", (!list.is_empty()).then(|| Value::List(list.into())));
        document.set("tracking_sn", Some(Value::Long(now_s)));
        stats.site.write_document(context.caller.name(), id, document, None).await.map_err(WriteError::into_error)?;
    }
    let seen = Seen { at: Instant::now(), at_s: now_s, counters: Arc::new(counters) };
    let before = stats.presence.seen.lock().insert(input.host.clone(), seen);
    if !is_same || before.is_none_or(|before| before.at.elapsed() >= stats.presence.absent_after) {
        stats.presence.changed();
    }
    let absent_after_s = i64::try_from(stats.presence.absent_after.as_secs()).unwrap_or(i64::MAX);
    Ok(Registered { id: input.host, absent_after_s })
}

pub(crate) async fn delete(stats: &Arc<Stats>, context: Context, input: ProviderInput) -> Result<(), Error> {
    let deleted = stats.site.delete_resource(context.caller.name(), resource(&input.provider), None, false).await;
    match deleted {
        Ok(_) => {
            stats.presence.seen.lock().remove(&input.provider);
            stats.presence.changed();
            Ok(())
        }
        Err(WriteError::NotFound(_)) => {
            let message = format!("no provider {}", input.provider);
            Err(Error::not_found("lockstep.stats.provider_not_found", message, vec![input.provider]))
        }
        Err(error) => Err(error.into_error()),
    }
}
