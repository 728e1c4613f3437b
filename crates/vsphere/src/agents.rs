//! The service `lockstep.collectors.hosts`: what the collectors call that run on their hosts; and the switch whose orders they take.

use std::sync::Arc;
use std::time::Duration;

use lockstep_contract::services::collectors::Kind;
use lockstep_contract::services::collectors::hosts::{self as declared, AttachInput, Attached};
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::{COLLECTED_BY, ResourceId, builtin};
use lockstep_site::WriteError;
use lockstep_site::power::{Order, Refusal, Switch, Switching};
use lockstep_site::table::{Context, Table};
use lockstep_site::times;
use tokio::time::timeout;

use crate::hosts::{HOSTS_MAX, Host, ORDER_TIMEOUT, Unplaced, check};
use crate::service::{Collectors, HOST_NAME, Live, author, check_name};
use crate::stored::{Collector, resource};

/// How long an order may take once it was given: libvirt waits half a minute for a process.
const DONE_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn register(collectors: &Arc<Collectors>, table: &mut Table) {
    let here = collectors.clone();
    table.register(declared::Attach, move |context, input| {
        let here = here.clone();
        async move { here.attach(&context, input).await }
    });
    let here = collectors.clone();
    table.register(declared::Keep, move |context: Context, input: declared::KeepInput| {
        let here = here.clone();
        async move {
            let (live, host) = here.host_of(&input.collector)?;
            host.keep(&here.site, &here.elsewhere(&live), here.rules, &context.caller, input).await
        }
    });
    let here = collectors.clone();
    table.register(declared::TakeOrders, move |context: Context, input: declared::RunInput| {
        let here = here.clone();
        async move { here.host_of(&input.collector)?.1.take_orders(&here.site, &context.caller, &input).await }
    });
    let here = collectors.clone();
    table.register(declared::Answer, move |context: Context, input: declared::AnswerInput| {
        let here = here.clone();
        async move { here.host_of(&input.collector)?.1.answer(&context.caller, input) }
    });
    let here = collectors.clone();
    table.register(declared::Detach, move |context: Context, input: declared::RunInput| {
        let here = here.clone();
        async move { here.host_of(&input.collector)?.1.detach(&context.caller, &input) }
    });
}

impl Collectors {
    /// A host with an agent.
    fn host_of(&self, name: &str) -> Result<(Arc<Live>, Arc<Host>), Error> {
        let live = self.find(name).ok();
        let found = live.and_then(|live| live.host.clone().map(|host| (live, host)));
        found.ok_or_else(|| {
            let text = format!("no agent keeps a host {name:?} here: attach first");
            Error::new(ErrorKind::NotAllowedInCurrentState, "lockstep.collectors.detached", text, vec![name.to_owned()])
        })
    }

    async fn attach(&self, context: &Context, input: AttachInput) -> Result<Attached, Error> {
        check(&input)?;
        check_name(&input.host)?;
        let (name, account) = (&input.host, context.caller.name());
        let _turn = self.changing.lock().await;
        let (is_stored, known) = {
            let view = self.site.view();
            let stored = view.get(&resource(name));
            (stored.is_some(), stored.and_then(|stored| Collector::from_document(name, &stored.document)))
        };
        let known = known.filter(|known| known.kind == Kind::Host);
        if name == HOST_NAME || is_stored && known.is_none() {
            let text = format!("a collector of another kind has the name {name}");
            return Err(Error::new(ErrorKind::AlreadyExists, "lockstep.collectors.exists", text, vec![name.clone()]));
        }
        let host = self.host_of(name).ok().map(|(_, host)| host);
        self.demand_free(known.as_ref(), host.as_deref(), &account, &input)?;
        if known.is_none() && self.site.view().ids(builtin::COLLECTOR, None).count() >= HOSTS_MAX {
            let text = format!("there are {HOSTS_MAX} collectors, which is the most");
            return Err(Error::new(ErrorKind::ServiceUnavailable, "lockstep.collectors.full", text, Vec::new()));
        }
        let collector = Collector {
            name: name.clone(),
            kind: Kind::Host,
            address: input.name.clone(),
            user: account.to_string(),
            thumbprint: None,
            id_prefix: String::new(),
            source_id: None,
            product: None,
            created_ms: known.as_ref().map_or_else(times::now_ms, |known| known.created_ms),
            password: String::new(),
        };
        if known.as_ref() != Some(&collector) {
            let document = collector.to_document();
            let written = self.site.write_document(author(name), resource(name), document, None).await;
            written.map_err(WriteError::into_error)?;
        }
        let host = host.unwrap_or_default();
        let attached = host.attach(account.clone(), &input);
        self.keep_host(collector, host);
        tracing::info!(collector = %name, host = %input.name, %account, "an agent keeps a host");
        Ok(attached)
    }

    /// Refuses who is not first, and says who is.
    fn demand_free(
        &self,
        known: Option<&Collector>,
        host: Option<&Host>,
        account: &str,
        input: &AttachInput,
    ) -> Result<(), Error> {
        let name = &input.host;
        let in_use = |text: String, first: &str| {
            let args = vec![name.clone(), first.to_owned()];
            Err(Error::new(ErrorKind::ResourceInUse, "lockstep.collectors.taken", text, args))
        };
        // It stands in the inventory as somebody else's.
        let keeper = {
            let view = self.site.view();
            let keeper = view.reference(&ResourceId::new("HostSystem", &**name), COLLECTED_BY);
            keeper.filter(|keeper| *keeper != resource(name) && view.modified(keeper).is_some())
        };
        if let Some(keeper) = keeper {
            let first = &keeper.id;
            let text = format!("the host {} is kept by the collector {first}: end that one first", input.name);
            return in_use(text, first);
        }
        let Some(known) = known else { return Ok(()) };
        if let Some((first, silent)) = host.and_then(Host::keeper) {
            if host.is_some_and(|host| host.is_run(account, &input.run)) {
                return Ok(());
            }
            let silent_s = silent.as_secs();
            let text = format!(
                "the host {} is kept by another run of the collector {name} (account {first}, heard {silent_s} seconds ago)",
                input.name
            );
            return in_use(text, name);
        }
        if known.user != account && !host.is_some_and(Host::is_released) {
            let text = format!(
                "the host {} is kept by the collector {name} of the account {}: let that account keep it, or end the collector \
                 with `lockstep collect delete {name}`",
                input.name, known.user
            );
            return in_use(text, name);
        }
        Ok(())
    }

    /// The switch of machines whose hosts have an agent.
    pub fn switch_of_hosts(self: &Arc<Self>) -> Arc<dyn Switch> {
        Arc::new(OfHosts(self.clone()))
    }
}

/// Switches machines by orders to the agents of their hosts.
struct OfHosts(Arc<Collectors>);

impl Switch for OfHosts {
    fn switch(&self, order: Order) -> Switching<'_> {
        Box::pin(self.order(order))
    }
}

impl OfHosts {
    async fn order(&self, order: Order) -> Result<(), Refusal> {
        let name = order.collector.as_ref().map_or("", |collector| &*collector.id);
        let away = |reason: String| Refusal::Away { reason };
        let (live, host) = self.0.host_of(name).map_err(|error| away(error.to_string()))?;
        let machine = &live.collector.address;
        let id = order.task.id();
        let placed = host.place(id, &order.vm.id, order.action);
        let mut told = placed.map_err(|why| match why {
            Unplaced::Detached => away(format!("no agent keeps its host {machine} at the moment")),
            Unplaced::Silent(silent) => {
                away(format!("the agent of its host {machine} was not heard for {} seconds", silent.as_secs()))
            }
            Unplaced::TakesNone => {
                Refusal::NoWay { reason: format!("the agent of its host {machine} runs with --no-power") }
            }
            Unplaced::TooMany => Refusal::Busy { reason: format!("too many orders wait for its host {machine}") },
        })?;
        order.task.log(format!("waits for the agent of {machine}"));
        tokio::select! {
            outcome = &mut told => return Self::came(machine, outcome),
            () = tokio::time::sleep(ORDER_TIMEOUT) => {}
            () = order.task.cancelled() => {}
        }
        if host.withdraw(id) {
            let limit_s = ORDER_TIMEOUT.as_secs();
            return Err(away(format!(
                "the agent of its host {machine} did not take the order within {limit_s} seconds"
            )));
        }
        // It was given: what becomes of it is worth knowing, also for who does not want it any more.
        order.task.log(format!("the agent of {machine} has the order"));
        let outcome = timeout(DONE_TIMEOUT, &mut told).await;
        host.forget(id);
        outcome.map_or_else(|_| Err(Self::silent(machine)), |outcome| Self::came(machine, outcome))
    }

    fn came<E>(
        machine: &str,
        outcome: Result<(lockstep_site::power::Outcome, Option<String>), E>,
    ) -> Result<(), Refusal> {
        let (outcome, detail) = outcome.map_err(|_| Self::silent(machine))?;
        Refusal::of_outcome(outcome, detail)
    }

    fn silent(machine: &str) -> Refusal {
        Refusal::Silent { reason: format!("the agent of its host {machine} took the order, and has not answered") }
    }
}
