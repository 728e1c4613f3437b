//! Lockstep: one binary that keeps inventories, caches, sites and disks in step.
//!
//! Here everything is wired together, and nowhere else: the commands of the server stand in this crate, those of its clients in
//! `lockstep-cli`.

mod agent;
mod collector;
mod demo;
mod in_process;
mod links;
mod password;
mod provider;
mod replication;
mod serve;
mod stats;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Documents are many small allocations, made on one thread and freed on another: an import costs two thirds of the CPU with this
/// allocator, and the commits at start-up half (`cargo bench -p lockstep-journal`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps inventories, caches, sites and VM disks in step, and speaks the interfaces that VMware's clients speak.
#[derive(Parser)]
#[command(
    name = "lockstep",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
struct Cli {
    #[command(flatten)]
    globals: lockstep_cli::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a server with a generated inventory that keeps changing, to look around.
    Demo(demo::DemoArgs),
    /// Run a server.
    Serve(serve::ServeArgs),
    /// Sample the machine that this runs on for a site.
    Agent(agent::AgentArgs),
    #[command(flatten)]
    Client(lockstep_cli::Command),
}

fn main() -> ExitCode {
    // The allocator would ask for huge pages, and every parked reader's buffers would take whole ones: twice the memory. A kernel
    // that has no such switch has no huge pages to switch off.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // One crypto provider for everything that speaks TLS; fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Demo(args) => demo::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Serve(args) => serve::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Agent(args) => agent::run(&args, &cli.globals).map(|()| ExitCode::SUCCESS),
        Command::Client(command) => return lockstep_cli::run(command, &cli.globals, Cli::command()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("lockstep: {error:#}");
        ExitCode::FAILURE
    })
}
