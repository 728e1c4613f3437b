//! `lockstep stats`: what can be sampled, what shall be, and the samples.
//!
//! One module for each noun: what there is to sample ([`discover`]), what shall be sampled ([`specs`]), a copy of that
//! ([`sync`]), the samples ([`query`], [`top`] and its [`board`]), and where they are kept ([`store`]). [`resources`], [`units`], [`names`] and
//! [`known`] are how things are written and completed.
//!
//! What a counter's values are, its units and digits, comes from the catalogue that this program is built with; the site is
//! asked only for counters that it has beyond it.

mod board;
mod discover;
mod known;
mod names;
mod query;
mod resources;
mod specs;
mod store;
mod sync;
mod top;
mod units;

use std::process::ExitCode;

use anyhow::Result;

use super::Context;

/// See what can be sampled, ask for samples, and look at them.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "First steps:\n  \
    lockstep stats counters cpu --type HOST\n  \
    lockstep stats specs create --counter cpu.utilization.usage.HOST --resource HOST=ALL --for 2h\n  \
    lockstep stats query cpu.utilization.usage.HOST --since 10m\n  \
    lockstep stats top --sample")]
pub enum StatsCommand {
    /// List the counters: what can be sampled, in which units.
    Counters(discover::CountersArgs),
    /// List the sets of counters: a specification may name one instead of a counter.
    #[command(after_help = "Examples:\n  \
        lockstep stats sets\n  \
        lockstep stats specs create --set mem.HOST --resource HOST=ALL")]
    Sets,
    /// List the metrics: what can be measured, of any type of resource.
    #[command(
        after_help = "Examples:\n  lockstep stats metrics\n  lockstep stats counters --metric cpu.capacity.usage"
    )]
    Metrics,
    /// List the providers: the agents that sample.
    ///
    /// One that was not heard lately is not present: what only it offers is DISABLED.
    #[command(after_help = "Example:\n  lockstep stats providers")]
    Providers,
    /// List the resource addresses: the concrete resources that there are samples of.
    Addresses(discover::AddressesArgs),
    /// List, create, change and delete acquisition specifications: what is sampled.
    ///
    /// A specification names a counter or a set of counters, the resources, the time between samples, and its end.
    #[command(subcommand)]
    Specs(specs::SpecsCommand),
    /// Show samples: a line with a chart for each series, or every point.
    ///
    /// A series is the points of one counter and one resource. The chart goes from the least to the greatest value of its own series; it is
    /// blank where points are missing. Of coarser resolutions the points are means; the least and the greatest stay true.
    Query(query::QueryArgs),
    /// Show the busiest hosts or VMs, again and again.
    ///
    /// It shows the newest points of CPU, memory, disk and network counters, and their age. Only what an acquisition specification asks for
    /// is sampled: --sample asks for what is shown here, and only while this runs. Ends with Ctrl-C; prints once where there is no terminal.
    Top(top::TopArgs),
    /// Keep a copy of the acquisition specifications, and show what changes.
    ///
    /// The first sync fetches all of them, the next ones only what has changed since, also when that was in an earlier run with the same
    /// file. When the site no longer knows what has changed since, all are fetched again.
    Sync(sync::SyncArgs),
    /// Show what the series store holds.
    #[command(after_help = "Examples:\n  lockstep stats store\n  lockstep stats store --output json")]
    Store,
}

impl StatsCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::Counters(args) => Box::pin(args.run(context)).await?,
            Self::Sets => Box::pin(discover::sets(context)).await?,
            Self::Metrics => Box::pin(discover::metrics(context)).await?,
            Self::Providers => Box::pin(discover::providers(context)).await?,
            Self::Addresses(args) => Box::pin(args.run(context)).await?,
            Self::Specs(command) => Box::pin(command.run(context)).await?,
            Self::Query(args) => Box::pin(args.run(context)).await?,
            Self::Top(args) => Box::pin(args.run(context)).await?,
            Self::Sync(args) => Box::pin(args.run(context)).await?,
            Self::Store => Box::pin(store::show(context)).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}
