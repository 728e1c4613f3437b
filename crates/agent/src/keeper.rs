//! Keeps a host in a site's inventory, as its collector, and does there what the site orders.
//!
//! ```text
//!   attach ──► read, send all ──► read, send when it differs ──┐
//!     ▲                ▲                    └──────────────────┘   beside it: wait for orders, do them, answer
//!     │                └── the site was away: all is sent again
//!     └── the site does not know this run any more
//! ```
//! The site compares: what differs from its inventory is written there, and what is missing in a reading is gone, so only whole readings are
//! sent. A reading that is as the last one is told in a few bytes.
//!
//! # Orders
//! An order comes once. It is done at once and beside others, or not at all when its time is over; what became of it is told, and told again a
//! few times where the connection fails. Nothing that an order says leads to another process than one that this host's own reading finds by
//! the machine's id ([`HostReader::switch`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_client::{Client, ClientError};
use lockstep_contract::services::collectors::hosts::{
    Action, Answer, AnswerInput, Attach, AttachInput, Detach, Keep, KeepInput, Kept, Order, Outcome, Reading, RunInput,
    TakeOrders,
};
use lockstep_contract::{Data, ErrorKind, Opaque};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::{HostReader, LibvirtAddress, Observed, ReadError};

/// How long the site may take for a call; beyond it the connection counts as broken.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause after a failure of a call that is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// How often an outcome is told before it is given up.
const ANSWER_TRIES: usize = 5;

/// How long saying farewell may take.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// How a host is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// How often it is read, besides at once when there is news.
    pub interval: Duration,
    /// Whether orders to switch machines are taken.
    pub takes_orders: bool,
    /// Where libvirt is; unset: where this machine has it.
    pub libvirt: Option<LibvirtAddress>,
}

/// What happens meanwhile, for people.
#[derive(Debug)]
pub enum Event {
    /// It is the host's collector now.
    Attached {
        /// Which one.
        collector: String,
    },
    /// Something was written.
    Wrote(Kept),
    /// The site does not do what it was asked for; it is tried again.
    Away(ClientError),
    /// An order was done, or not.
    Switched {
        /// The virtual machine.
        vm: String,
        /// What was ordered.
        action: Action,
        /// What became of it.
        outcome: Outcome,
    },
}

/// Why a host is not kept, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// It cannot be read.
    #[error("this host cannot be read")]
    Read(#[from] ReadError),
    /// The site refuses; trying again does not mend it.
    #[error(transparent)]
    Site(#[from] ClientError),
    /// The system has no random numbers.
    #[error("no random numbers for the id of this run")]
    Random,
    /// A thread of ours failed.
    #[error("a reading of this host failed: this is a defect")]
    Defect,
}

/// Keeps this host until `stop` ends.
///
/// # Errors
/// [`KeepError`]. A site that is away is waited for.
pub async fn keep(
    client: &Client,
    config: Config,
    stop: impl Future<Output = ()>,
    tell: impl Fn(Event) + Send + Sync + 'static,
) -> Result<(), KeepError> {
    let news = Arc::new(Notify::new());
    let told = news.clone();
    let reader = HostReader::new().with_libvirt(config.libvirt.clone(), move || told.notify_one());
    let keeper = Arc::new(Keeper::new(client.clone(), config, Arc::new(reader), news, tell)?);
    tokio::pin!(stop);
    let mut last = Last::default();
    loop {
        let run = tokio::select! {
            attached = keeper.attach(&mut last) => attached?,
            () = &mut stop => return Ok(()),
        };
        let _orders = keeper.config.takes_orders.then(|| Ended::spawn(keeper.clone().follow_orders(run.clone())));
        let ended = tokio::select! {
            // Without an error it must attach anew.
            outcome = keeper.read_on(&run, &mut last) => outcome.err().map(Err),
            () = &mut stop => Some(Ok(())),
        };
        if let Some(outcome) = ended {
            // Else the next run would be refused until this one counts as silent.
            keeper.detach(run).await;
            return outcome;
        }
    }
}

/// Reads this host and keeps it so, once. Answers what was written.
///
/// # Errors
/// [`KeepError`].
pub async fn keep_once(client: &Client, interval: Duration) -> Result<Kept, KeepError> {
    let config = Config { interval, takes_orders: false, libvirt: None };
    let reader = Arc::new(HostReader::new());
    let keeper = Keeper::new(client.clone(), config, reader, Arc::default(), |_| {})?;
    let observed = keeper.read().await?;
    let input = keeper.attach_input(&observed);
    let attached = client.call(Attach, input).await?;
    let run = RunInput { collector: attached.collector, run: keeper.run.clone() };
    let kept = client.call(Keep, whole(&run, &observed)).await;
    keeper.detach(run).await;
    Ok(kept?)
}

/// What was told last.
#[derive(Default)]
struct Last {
    observed: Vec<Observed>,
    /// The site has all of it, and left nothing alone.
    is_there: bool,
}

struct Keeper {
    client: Client,
    config: Config,
    reader: Arc<HostReader>,
    news: Arc<Notify>,
    /// The id of this run.
    run: String,
    tell: Box<dyn Fn(Event) + Send + Sync>,
}

/// A task that ends with whoever started it.
struct Ended(AbortHandle);

impl Ended {
    fn spawn(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work).abort_handle())
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// All that was read, for the site.
fn whole(run: &RunInput, observed: &[Observed]) -> KeepInput {
    let reading = |one: &Observed| Reading {
        resource_type: one.resource_type.to_owned(),
        id: one.id.clone(),
        // What is a tree of JSON in memory is one as text; were it not, the site would refuse the null.
        properties: Opaque(
            serde_json::to_vec(&one.properties).ok().and_then(|json| Data::from_json(&json).ok()).unwrap_or(Data::Null),
        ),
    };
    let resources = Some(observed.iter().map(reading).collect());
    KeepInput { collector: run.collector.clone(), run: run.run.clone(), resources }
}

/// Whether the site does not know this run, or not any more.
fn is_detached(error: &ClientError) -> bool {
    error.kind() == Some(ErrorKind::NotAllowedInCurrentState)
}

impl Keeper {
    fn new(
        client: Client,
        config: Config,
        reader: Arc<HostReader>,
        news: Arc<Notify>,
        tell: impl Fn(Event) + Send + Sync + 'static,
    ) -> Result<Self, KeepError> {
        let (high, low) =
            getrandom::u64().and_then(|high| Ok((high, getrandom::u64()?))).map_err(|_| KeepError::Random)?;
        Ok(Self { client, config, reader, news, run: format!("{high:016x}{low:016x}"), tell: Box::new(tell) })
    }

    async fn read(&self) -> Result<Vec<Observed>, KeepError> {
        let reader = self.reader.clone();
        let observed = tokio::task::spawn_blocking(move || reader.read()).await.map_err(|_| KeepError::Defect)??;
        Ok(observed)
    }

    /// A call that does not hang; `None` when it is to be tried again.
    async fn call<O: lockstep_contract::Declared>(
        &self,
        operation: O,
        input: O::Input,
    ) -> Result<Option<O::Output>, ClientError> {
        let error = match timeout(CALL_TIMEOUT, self.client.call(operation, input)).await {
            Ok(Ok(output)) => return Ok(Some(output)),
            Ok(Err(error)) => error,
            Err(_) => ClientError::Broken {
                url: self.client.url().to_owned(),
                reason: format!("no answer within {} seconds", CALL_TIMEOUT.as_secs()),
            },
        };
        if !error.is_transient() {
            return Err(error);
        }
        (self.tell)(Event::Away(error));
        Ok(None)
    }

    fn attach_input(&self, observed: &[Observed]) -> AttachInput {
        // The first of a reading is the host.
        let host = observed.first();
        let text =
            |name: &str| host.and_then(|host| host.properties.get(name)?.as_str()).unwrap_or_default().to_owned();
        AttachInput {
            host: host.map(|host| host.id.clone()).unwrap_or_default(),
            name: text("name"),
            run: self.run.clone(),
            interval_s: i64::try_from(self.config.interval.as_secs().clamp(1, 3600)).unwrap_or(1),
            takes_orders: self.config.takes_orders,
        }
    }

    /// Becomes the host's collector; waits for the site.
    async fn attach(&self, last: &mut Last) -> Result<RunInput, KeepError> {
        *last = Last { observed: self.read().await?, is_there: false };
        loop {
            if let Some(attached) = self.call(Attach, self.attach_input(&last.observed)).await? {
                (self.tell)(Event::Attached { collector: attached.collector.clone() });
                return Ok(RunInput { collector: attached.collector, run: self.run.clone() });
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// Reads, and tells what differs; ends when it must attach anew.
    async fn read_on(&self, run: &RunInput, last: &mut Last) -> Result<(), KeepError> {
        let mut timer = interval(self.config.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = timer.tick() => {}
                () = self.news.notified() => {}
            }
            let observed = self.read().await?;
            let is_same = last.is_there && observed == last.observed;
            let input = match is_same {
                true => KeepInput { collector: run.collector.clone(), run: run.run.clone(), resources: None },
                false => whole(run, &observed),
            };
            match self.call(Keep, input).await {
                Ok(Some(_)) if is_same => {}
                Ok(Some(kept)) => {
                    *last = Last { observed, is_there: kept.left_alone.is_empty() };
                    if kept.created + kept.changed + kept.deleted > 0 || !kept.misfits.is_empty() {
                        (self.tell)(Event::Wrote(kept));
                    }
                }
                // It may have taken it or not.
                Ok(None) => last.is_there = false,
                Err(error) if is_detached(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn detach(&self, run: RunInput) {
        // Without it the site finds out by itself that nobody is there.
        let _ = timeout(FAREWELL_TIMEOUT, self.client.call(Detach, run)).await;
    }

    /// Waits for orders, and does them. Whether the site still knows this run is found out by who reads.
    async fn follow_orders(self: Arc<Self>, run: RunInput) {
        let mut switches = JoinSet::new();
        loop {
            match self.call(TakeOrders, run.clone()).await {
                Ok(Some(orders)) => {
                    for order in orders {
                        switches.spawn(self.clone().obey(run.clone(), order));
                    }
                }
                Ok(None) => sleep(RETRY_PAUSE).await,
                Err(error) => {
                    tracing::warn!(%error, "the site gives no orders");
                    sleep(RETRY_PAUSE).await;
                }
            }
            while switches.try_join_next().is_some() {}
        }
    }

    /// Does one order, and tells what became of it.
    async fn obey(self: Arc<Self>, run: RunInput, order: Order) {
        let valid = Duration::from_millis(order.valid_ms.max(0).unsigned_abs());
        let (reader, vm, action, came) = (self.reader.clone(), order.vm.clone(), order.action, Instant::now());
        let switched = tokio::task::spawn_blocking(move || {
            // It may have waited for a thread.
            if came.elapsed() >= valid {
                return (Outcome::Late, None);
            }
            match reader.switch(&vm, action) {
                Ok(()) => (Outcome::Done, None),
                Err(error) => error.outcome(),
            }
        });
        let (outcome, detail) =
            switched.await.unwrap_or((Outcome::Silent, Some("the switch failed by a defect".into())));
        // Also after a failure: it may have come of something that the inventory does not show yet.
        self.news.notify_one();
        (self.tell)(Event::Switched { vm: order.vm, action, outcome });
        for _ in 0..ANSWER_TRIES {
            let (collector, run) = (run.collector.clone(), run.run.clone());
            let input = AnswerInput { collector, run, order: order.order.clone(), outcome, detail: detail.clone() };
            match self.call(Answer, input).await {
                Ok(Some(())) => return,
                Ok(None) => sleep(RETRY_PAUSE).await,
                Err(error) => return tracing::warn!(%error, "the site does not want to know what became of an order"),
            }
        }
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Attached { collector } => write!(f, "keeps this host as the collector {collector}"),
            Self::Wrote(kept) => {
                write!(f, "{} created, {} changed, {} deleted", kept.created, kept.changed, kept.deleted)?;
                kept.misfits.iter().try_for_each(|misfit| write!(f, "; does not fit: {misfit}"))
            }
            Self::Away(error) => write!(f, "{error}"),
            Self::Switched { vm, action, outcome } => write!(f, "{} of {vm}: {}", action.name(), outcome.name()),
        }
    }
}
