//! The commands, one module for each noun.

mod account;
mod check;
mod collect;
mod completions;
mod export;
mod filter;
mod import;
mod link;
mod login;
mod model;
mod query;
mod replication;
mod resource;
mod stats;
mod tag;
mod task;
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
    ///
    /// Each line is {"type": …, "id": …, "properties": {…}}. Lines are committed in batches, in order; a batch is in whole or not
    /// at all. A broken connection is mended by itself. When a line is refused, everything before its batch is in, and the
    /// message says how to go on.
    Import(import::ImportArgs),
    /// Write resources as one JSON object a line.
    ///
    /// The lines are what `import` takes. They are from different moments while others write; the changes since the first are
    /// shown by `watch --from` with the token that is printed at the end.
    Export(export::ExportArgs),
    /// Ask for resources and their properties.
    ///
    /// A query is a type, and perhaps conditions, properties, an order and a page. Names are those of `lockstep model get TYPE`;
    /// the model may be left out, and a dot goes on into a structure or to a related resource.
    Query(query::QueryArgs),
    /// Show changes as they happen.
    ///
    /// With a filter, ENTER and LEAVE say that a resource began or ceased to match, by a change of its own or of what it is
    /// related to. Ends with Ctrl-C, and then says how to go on from there.
    Watch(watch::WatchArgs),
    /// Read and write resources one at a time.
    #[command(subcommand)]
    Resource(resource::ResourceCommand),
    /// List, register and delete resource models.
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// List, create, delete, attach and detach tags.
    ///
    /// A tag belongs to a category, which says how many of its tags an object may have, and of which types objects may be. Whatever is
    /// tagged can be queried by it: VirtualMachine where tags.name = 'gold'.
    #[command(subcommand)]
    Tag(tag::TagCommand),
    /// See what can be sampled, ask for samples, and look at them.
    ///
    /// A counter is a metric of one type of resource: cpu.capacity.usage.HOST. An acquisition specification asks for samples: of
    /// which counters, of which resources, how often, until when. Nothing is sampled that no specification asks for.
    #[command(subcommand)]
    Stats(stats::StatsCommand),
    /// Link this site with others, and see how they are in step.
    ///
    /// A link copies the other site's inventory, as read-only resources whose ids begin with that site's name, and follows its changes.
    #[command(subcommand)]
    Link(link::LinkCommand),
    /// Replicate virtual machines to a linked site, and bring them to life there.
    ///
    /// A replication brings what changed on a machine's disks to the other site, as often as its RPO demands, each time as an instance:
    /// all disks as they were at one point in time. Commands work at either site; what takes long is a task, and is waited for.
    #[command(subcommand)]
    Replication(replication::ReplicationCommand),
    /// List tasks, watch them, and cancel them.
    ///
    /// Whatever takes long is a task, which goes on when nobody waits for it.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Manage accounts.
    #[command(subcommand)]
    Account(account::AccountCommand),
    /// Log in, and remember the site and the session for the commands that follow.
    ///
    /// The profile holds the session's token, never the password. A session ends when it is not used for a while: log in again.
    Login(login::LoginArgs),
    /// End the session that `login` made, and forget it.
    Logout(login::LogoutArgs),
    /// Show what the site says of itself, and who you are there.
    Status(login::StatusArgs),
    /// Replay the change feed against the state, and tell every difference.
    ///
    /// Takes the whole state, follows the feed for a while, and compares with the state taken again. Told are: events that are
    /// missing, that come twice or out of order, changes of properties that no event names, and every difference at the end. It
    /// holds what it checks in memory: about as much as an export is long.
    ///
    /// Ends with 0 when there is nothing to tell, with 1 otherwise.
    Check(check::CheckArgs),
    /// Keep the inventory as real sources have it: a vCenter, an ESXi host, this machine.
    ///
    /// Without a command: the sources, how far behind they are, how many resources each keeps, and what is wrong.
    #[command(after_help = "Examples:\n  lockstep collect\n  \
        lockstep collect vcenter vc.example --source-username lockstep@vsphere.local --source-password-file vc.password")]
    Collect(collect::CollectArgs),
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
        Command::Tag(command) => Box::pin(command.run(&context)).await,
        Command::Stats(command) => Box::pin(command.run(&context)).await,
        Command::Link(command) => Box::pin(command.run(&context)).await,
        Command::Replication(command) => Box::pin(command.run(&context)).await,
        Command::Task(command) => Box::pin(command.run(&context)).await,
        Command::Account(command) => Box::pin(command.run(&context)).await,
        Command::Status(args) => Box::pin(args.run(&context)).await,
        Command::Check(args) => Box::pin(args.run(&context)).await,
        Command::Collect(args) => Box::pin(args.run(&context)).await,
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

#[cfg(test)]
mod tests {
    use clap::Subcommand as _;

    use super::Command;

    /// Whether a command and those below it say what they do; those that are run also by an example.
    fn check(command: &clap::Command, path: &str, silent: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let has_example = command.get_after_help().is_some_and(|help| help.to_string().contains("lockstep "));
        if command.get_about().is_none() || !(has_example || command.has_subcommands()) {
            silent.push(path.clone());
        }
        command.get_subcommands().for_each(|below| check(below, &path, silent));
    }

    #[test]
    fn every_command_says_what_it_does_and_has_an_example() {
        let program = Command::augment_subcommands(clap::Command::new("lockstep"));
        let mut silent = Vec::new();
        program.get_subcommands().for_each(|command| check(command, "", &mut silent));
        assert!(silent.is_empty(), "{silent:?}");
    }

    #[test]
    fn what_a_command_does_is_told_at_length_where_a_line_is_too_short() {
        let program = Command::augment_subcommands(clap::Command::new("lockstep"));
        for path in ["query", "watch", "check", "stats query", "stats top", "stats sync", "stats specs create"] {
            let command = path.split(' ').try_fold(&program, |command, name| command.find_subcommand(name));
            let long = command.and_then(clap::Command::get_long_about).map(ToString::to_string);
            assert!(long.is_some_and(|long| long.contains("\n\n")), "{path}");
        }
    }
}
