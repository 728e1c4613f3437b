//! The commands, one module for each noun.

mod account;
mod check;
mod collect;
mod completions;
mod export;
mod filter;
mod import;
mod login;
mod model;
mod query;
mod resource;
mod stats;
mod watch;

use std::process::ExitCode;

use anyhow::Result;
use lockstep_client::Client;

use crate::globals::Globals;
use crate::output::Format;

/// A command that talks to a site.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Load resources from a file of one JSON object a line.
    Import(import::ImportArgs),
    /// Write resources as one JSON object a line.
    Export(export::ExportArgs),
    /// Ask for resources and their properties.
    Query(query::QueryArgs),
    /// Show changes as they happen.
    Watch(watch::WatchArgs),
    /// Read and write resources one at a time.
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// List, register and delete resource models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// See what can be sampled, ask for samples, and look at them.
    ///
    /// A counter is a metric of one type of resource: cpu.capacity.usage.HOST. An acquisition specification asks for samples: of
    /// which counters, of which resources, how often, until when. Nothing is sampled that no specification asks for.
    #[command(subcommand)]
    Stats(stats::StatsCommand),
    /// Manage accounts.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Log in, and remember the site and the session for the commands that follow.
    Login(login::LoginArgs),
    /// End the session that `login` made, and forget it.
    Logout(login::LogoutArgs),
    /// Show what the site says of itself, and who you are there.
    Status(login::StatusArgs),
    /// Replay the change feed against the state, and tell every difference.
    Check(check::CheckArgs),
    /// Read a real machine and keep the inventory as it is.
    #[command(subcommand)]
    Collect(collect::CollectCommand),
    /// Print a script that completes this program's commands in a shell.
    Completions(completions::CompletionsArgs),
}

/// What a command works with.
pub(crate) struct Context {
    /// The site.
    pub(crate) client: Client,
    /// In which form to print results.
    pub(crate) output: Format,
}

/// Runs a command.
///
/// # Errors
/// Whatever hinders it.
pub(crate) async fn run(command: Command, globals: &Globals) -> Result<ExitCode> {
    match command {
        Command::Login(args) => return Box::pin(args.run(globals)).await,
        Command::Logout(args) => return Box::pin(args.run(globals)).await,
        _ => {}
    }
    let context = Context { client: globals.client()?, output: globals.output };
    let result = match command {
        Command::Import(args) => Box::pin(args.run(&context)).await,
        Command::Export(args) => Box::pin(args.run(&context)).await,
        Command::Query(args) => Box::pin(args.run(&context)).await,
        Command::Watch(args) => Box::pin(args.run(&context)).await,
        Command::Resource(command) => Box::pin(command.run(&context)).await,
        Command::Model(command) => Box::pin(command.run(&context)).await,
        Command::Stats(command) => Box::pin(command.run(&context)).await,
        Command::Account(command) => Box::pin(command.run(&context)).await,
        Command::Status(args) => Box::pin(args.run(&context)).await,
        Command::Check(args) => Box::pin(args.run(&context)).await,
        Command::Collect(command) => Box::pin(command.run(&context)).await,
        Command::Login(_) | Command::Logout(_) | Command::Completions(_) => Ok(ExitCode::SUCCESS),
    };
    // A session that is left behind ends by itself: that this one could not be ended is no failure of the command.
    let _ = context.client.close().await;
    result
}

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read_input(file: &std::path::Path) -> Result<Vec<u8>> {
    use anyhow::Context as _;
    use std::io::Read as _;
    if file == std::path::Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
