//! `lockstep collect`: what keeps the inventory as real sources have it.
//!
//! A vCenter is collected by the server, and the commands make and show its collectors (`sources`). This machine is read here, and
//! written from outside the server.

mod sources;

use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use lockstep_agent::reconcile::{self, Write};
use lockstep_agent::{HostReader, Observed};
use lockstep_client::{Client, ClientError};
use lockstep_contract::services::TypedId;
use lockstep_contract::services::resource_model::{
    ComparableType, ComparisonOperator, CompositeFilter, CompositeOperator, FilterType, PropertyFilter, Query,
    QueryInput, QuerySpec, ResourceFilter,
};
use lockstep_contract::services::resources::{
    Create, CreateInput, Delete, DeleteInput, Get, GetInput, Patch, PatchInput,
};
use lockstep_contract::{ErrorKind, Opaque};
use serde_json::{Map, Value};
use tokio::sync::Notify;

use super::Context;
use crate::{json, times};

/// The types of resources that a host has, as far as the collector goes.
const TYPES_OF_HOST: [&str; 3] = ["VirtualMachine", "Datastore", "Network"];

/// Rows of a page of what the inventory has of a host.
const PAGE_ROWS: i64 = 1000;

/// Keep the inventory as real sources have it.
#[derive(Debug, clap::Args)]
pub struct CollectArgs {
    #[command(subcommand)]
    command: Option<CollectCommand>,
}

/// Keep the inventory as real sources have it.
#[derive(Debug, clap::Subcommand)]
pub enum CollectCommand {
    /// List the sources: how far behind they are, how many resources each keeps, and what is wrong.
    #[command(after_help = "Examples:\n  lockstep collect list\n  lockstep collect list --output json")]
    List,
    /// Show all of one source: resources by type, and what it does not show.
    #[command(after_help = "Example:\n  lockstep collect show vc.example")]
    Show {
        /// The collector's name
        collector: String,
    },
    /// Let the server collect from a vCenter or an ESXi host, and wait for the first read.
    ///
    /// The server reads all that the account may see, and follows the changes from then on; it needs the role Read-only on the root,
    /// propagated. The password is kept on the server, sealed. The certificate is checked before the password is sent: by its
    /// thumbprint, or by the roots that the server's system trusts. One that is not trusted is shown.
    #[command(after_help = "Examples:\n  \
        lockstep collect vcenter vc.example --source-username lockstep@vsphere.local --source-password-file vc.password\n  \
        lockstep collect vcenter 10.0.0.9 --name esx9 --source-username root --source-thumbprint AB:CD:…")]
    Vcenter(sources::VcenterArgs),
    /// End a collector.
    ///
    /// The resources that it keeps stay and are anyone's, unless --purge has them deleted too.
    #[command(
        after_help = "Examples:\n  lockstep collect delete vc.example\n  lockstep collect delete vc.example --purge"
    )]
    Delete {
        /// The collector's name
        collector: String,
        /// Also delete the resources that it keeps
        #[arg(long)]
        purge: bool,
    },
    /// Keep this machine, and the virtual machines on it, in the inventory.
    ///
    /// Writes what changed and nothing else, in the name of the account that is given: the role `agent` is enough. What
    /// others set (tags, annotations, folders) stays. A VM whose process has ended is off, and known again when it is started; to be rid of
    /// one, delete its resource.
    #[command(after_help = "Examples:\n  \
        lockstep collect host --url https://site-a:8443 --username agent-7 --once\n  \
        lockstep collect host --interval 10s")]
    Host(CollectHostArgs),
}

/// How often, and how long.
#[derive(Debug, clap::Args)]
pub struct CollectHostArgs {
    /// Read once, and end
    #[arg(long)]
    once: bool,
    /// How often to read, e.g. 5s, 500ms, 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = times::pause, conflicts_with = "once")]
    interval: Duration,
}

impl CollectArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let args = match self.command.unwrap_or(CollectCommand::List) {
            CollectCommand::List => return sources::list(context).await,
            CollectCommand::Show { collector } => return sources::show(context, collector).await,
            CollectCommand::Vcenter(args) => return args.run(context).await,
            CollectCommand::Delete { collector, purge } => return sources::delete(context, collector, purge).await,
            CollectCommand::Host(args) => args,
        };
        args.run(context).await
    }
}

impl CollectHostArgs {
    async fn run(self, context: &Context) -> Result<ExitCode> {
        let args = self;
        if args.once {
            round(&context.client, &Arc::new(HostReader::new())).await?;
            return Ok(ExitCode::SUCCESS);
        }
        tokio::select! {
            outcome = keep_host(&context.client, args.interval) => outcome.map(|()| ExitCode::SUCCESS),
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Keeps this machine, and the virtual machines on it, in a site's inventory; ends only with an error that trying again does not mend.
///
/// # Errors
/// A machine that cannot be read, a site that refuses.
pub async fn keep_host(client: &Client, interval: Duration) -> Result<()> {
    let news = Arc::new(Notify::new());
    let told = news.clone();
    let reader = Arc::new(HostReader::new().with_libvirt(None, move || told.notify_one()));
    let mut timer = tokio::time::interval(interval);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = news.notified() => {}
        }
        match round(client, &reader).await {
            // The next round is the retry.
            Err(error) if error.downcast_ref::<ClientError>().is_some_and(ClientError::is_transient) => {
                eprintln!("lockstep: {error:#}");
            }
            outcome => outcome?,
        }
    }
}

/// Reads the machine once and writes what differs.
async fn round(client: &Client, reader: &Arc<HostReader>) -> Result<()> {
    let reading = reader.clone();
    let observed = tokio::task::spawn_blocking(move || reading.read()).await??;
    let of_host = of_hosts(client, &observed).await?;
    let stored = stored(client, &observed, &of_host).await?;
    let key = |resource_type: &str, id: &str| (resource_type.to_owned(), id.to_owned());
    let writes = reconcile::plan(
        &observed,
        &|resource_type, id| stored.get(&key(resource_type, id)).cloned(),
        &|resource_type, host| of_host.get(&key(resource_type, host)).cloned().unwrap_or_default(),
    );
    for write in writes {
        let told = describe(&write);
        match apply(client, write).await {
            Ok(()) => eprintln!("{told}"),
            // Somebody else was faster, or keeps it; the next round sees what is there.
            Err(error)
                if matches!(
                    error.kind(),
                    Some(
                        ErrorKind::AlreadyExists
                            | ErrorKind::NotFound
                            | ErrorKind::ConcurrentChange
                            | ErrorKind::NotAllowedInCurrentState
                    )
                ) => {}
            Err(error) => return Err(error).context(told),
        }
    }
    Ok(())
}

/// Properties by type and id.
type Resources = HashMap<(String, String), Map<String, Value>>;

/// Ids by type and host.
type IdsOfHosts = HashMap<(String, String), Vec<String>>;

/// What the inventory has of what was observed, and of the virtual machines that were not: they may be off.
async fn stored(client: &Client, observed: &[Observed], of_host: &IdsOfHosts) -> Result<Resources> {
    let mut stored = HashMap::new();
    let machines = of_host.iter().filter(|((resource_type, _), _)| resource_type == "VirtualMachine");
    let machines = machines.flat_map(|(_, ids)| ids).map(|id| ("VirtualMachine", id.as_str()));
    let wanted: BTreeSet<(&str, &str)> =
        observed.iter().map(|one| (one.resource_type, one.id.as_str())).chain(machines).collect();
    for (resource_type, id) in wanted {
        let input = GetInput { resource_type: resource_type.to_owned(), id: id.to_owned() };
        match client.call(Get, input).await {
            Ok(resource) => {
                if let Value::Object(properties) = json::of_data(&resource.properties.0) {
                    stored.insert((resource.resource_type, resource.id), properties);
                }
            }
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(stored)
}

/// What the inventory has of the observed hosts: ids by type and host.
async fn of_hosts(client: &Client, observed: &[Observed]) -> Result<IdsOfHosts> {
    let mut found = HashMap::new();
    for host in observed.iter().filter(|one| one.resource_type == "HostSystem") {
        for resource_type in TYPES_OF_HOST {
            let ids = referrers(client, resource_type, &host.id).await?;
            found.insert((resource_type.to_owned(), host.id.clone()), ids);
        }
    }
    Ok(found)
}

/// The ids of a type's resources whose `host` is this one.
async fn referrers(client: &Client, resource_type: &str, host: &str) -> Result<Vec<String>> {
    let host = TypedId { resource_type: "HostSystem".to_owned(), id: host.to_owned() };
    let by_type = ResourceFilter {
        filter_type: FilterType::Type,
        resource_type: Some(resource_type.to_owned()),
        resource_id: None,
        property_filter: None,
        composite_filter: None,
    };
    let property = PropertyFilter {
        property: format!("{resource_type}/host"),
        operator: ComparisonOperator::Equal,
        comparable_type: ComparableType::Id,
        comparable_long: None,
        comparable_double: None,
        comparable_boolean: None,
        comparable_string: None,
        comparable_id: Some(host),
    };
    let by_host = ResourceFilter {
        filter_type: FilterType::Property,
        resource_type: None,
        property_filter: Some(property),
        ..by_type.clone()
    };
    let both = CompositeFilter { operator: CompositeOperator::Intersect, filters: vec![by_type.clone(), by_host] };
    let resource_filter = ResourceFilter {
        filter_type: FilterType::Composite,
        resource_type: None,
        composite_filter: Some(Box::new(both)),
        ..by_type
    };
    let mut ids = Vec::new();
    loop {
        let query_spec = QuerySpec {
            resource_filter: resource_filter.clone(),
            property_spec: Vec::new(),
            sort_criteria: None,
            offset: Some(i64::try_from(ids.len())?),
            limit: Some(PAGE_ROWS),
            compute_total_item_count: None,
        };
        let page = client.call(Query, QueryInput { query_spec }).await?;
        let rows = page.items.len();
        ids.extend(page.items.into_iter().map(|item| item.resource_id.id));
        if rows < PAGE_ROWS as usize {
            return Ok(ids);
        }
    }
}

fn describe(write: &Write) -> String {
    match write {
        Write::Create { resource_type, id, .. } => format!("created {resource_type} {id}"),
        Write::Patch { resource_type, id, properties } => {
            let paths: Vec<&str> = properties.keys().map(String::as_str).collect();
            format!("changed {resource_type} {id}: {}", paths.join(", "))
        }
        Write::Delete { resource_type, id } => format!("deleted {resource_type} {id}"),
    }
}

async fn apply(client: &Client, write: Write) -> Result<(), ClientError> {
    let opaque = |properties: Map<String, Value>| {
        // Properties that were read as JSON are JSON; were they not, the site would refuse the null.
        Opaque(json::to_data(&Value::Object(properties)).unwrap_or(lockstep_contract::Data::Null))
    };
    match write {
        Write::Create { resource_type, id, properties } => {
            client.call(Create, CreateInput { resource_type, id, properties: opaque(properties) }).await.map(|_| ())
        }
        Write::Patch { resource_type, id, properties } => {
            let input = PatchInput { resource_type, id, properties: opaque(properties), expected_position: None };
            client.call(Patch, input).await.map(|_| ())
        }
        Write::Delete { resource_type, id } => {
            let input = DeleteInput { resource_type, id, expected_position: None, cascade: None };
            client.call(Delete, input).await.map(|_| ())
        }
    }
}
