//! The change feed under many parked readers.

pub mod baseline;
mod commits;
mod fan_out;
mod parked;
mod protocol;
mod readers;
mod steady;

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::http::{Server, ServerArgs};
use crate::process::Process;
use crate::report::{Report, show_bytes};
use baseline::Baseline;
use commits::Committer;
use parked::Parked;
use readers::allow_sockets;
use steady::Pace;

/// Pause between commits that are made one by one: long enough for the reader's next request to be parked.
const SINGLE_PAUSE: Duration = Duration::from_millis(5);

/// Memory of the server that a parked reader may take.
const READER_BYTES_MAX: u64 = 16 << 10;

/// Drive the change feed: readers that wait on plain HTTP, one connection each, and commits that reach them.
///
/// The commits update `vm-1` to `vm-1000` of an imported inventory. Nothing else may write meanwhile, so that each reader must get
/// exactly these commits, once and in order. Exits with 1 when a target is missed.
#[derive(Args)]
pub struct FeedArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Mode::FanOut)]
    mode: Mode,
    /// Parked readers; by default 10000 for fan-out, 1000 for steady, 1 for single.
    #[arg(long)]
    readers: Option<usize>,
    /// Commits; by default 20 for fan-out, 1500 for steady, 500 for single.
    #[arg(long)]
    commits: Option<usize>,
    /// Commits a second, in the mode `steady`.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// In the mode `fan-out`, also write the same bytes from a bare epoll loop, in a process of its own, to as many sockets.
    #[arg(long)]
    baseline: bool,
    /// Process id of the server, to show memory and CPU; in every mode.
    #[arg(long)]
    pid: Option<u32>,
    /// How long the parked readers are left alone to measure the server's idle CPU; keep it below the server's long poll limit.
    #[arg(long, default_value_t = 10.0)]
    idle_seconds: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Mode {
    /// One commit at a time, to all readers.
    FanOut,
    /// Commits at a steady rate.
    Steady,
    /// One reader, one commit at a time.
    Single,
}

/// Runs the subcommand.
pub fn run(args: &FeedArgs) -> anyhow::Result<Report> {
    let server = Server::new(&args.server)?;
    ensure!(!server.is_tls(), "the readers speak plain HTTP: start the server with --plain-http");
    let (readers, commits) = match args.mode {
        Mode::FanOut => (10_000, 20),
        Mode::Steady => (1000, 1500),
        Mode::Single => (1, 500),
    };
    let (readers, commits) = (args.readers.unwrap_or(readers), args.commits.unwrap_or(commits));
    ensure!(readers > 0 && commits > 0 && args.rate > 0.0, "--readers, --commits and --rate must be above 0");
    allow_sockets(readers * 2)?;

    let process = args.pid.map(Process::new);
    let committer = Committer::start(&server)?;
    let before = process.map(|p| p.memory()).transpose()?;
    let mut parked = Parked::start(&server, readers, process)?;
    parked.settle()?;
    let mut report = Report::default();
    if let (Some(process), Some(before)) = (process, before) {
        let after = process.memory()?;
        let bytes = after.resident.saturating_sub(before.resident) / readers as u64;
        let idle = idle_cpu(&mut parked, process, args.idle_seconds)?;
        let rows = vec![
            vec!["resident before".to_owned(), show_bytes(before.resident)],
            vec!["resident with the readers parked".to_owned(), show_bytes(after.resident)],
            vec!["bytes a reader".to_owned(), bytes.to_string()],
            vec!["CPU while idle".to_owned(), format!("{:.2} % of a core", idle * 100.0)],
        ];
        report.table(format!("{readers} parked reader(s)"), &["server", "value"], rows);
        report.figure(
            "parked",
            json!({"readers": readers, "resident_before": before.resident,
            "resident_parked": after.resident, "bytes_per_reader": bytes, "idle_cpu": idle}),
        );
        if args.mode == Mode::FanOut && bytes > READER_BYTES_MAX {
            report.failures.push(format!("a parked reader takes {bytes} bytes, more than {READER_BYTES_MAX}"));
        }
    }
    match args.mode {
        Mode::FanOut => {
            let baseline = if args.baseline { Some(Baseline::start(readers)?) } else { None };
            fan_out::run(&mut parked, &committer, commits, baseline, &mut report)?;
        }
        Mode::Steady => steady::run(&mut parked, &committer, commits, Pace::Rate(args.rate), &mut report)?,
        Mode::Single => steady::run(&mut parked, &committer, commits, Pace::OneByOne(SINGLE_PAUSE), &mut report)?,
    }
    Ok(report)
}

/// The server's CPU time while nothing happens, as a share of one core.
fn idle_cpu(parked: &mut Parked, process: Process, seconds: f64) -> anyhow::Result<f64> {
    let window = Duration::from_secs_f64(seconds);
    let before = process.cpu()?;
    let begin = Instant::now();
    while begin.elapsed() < window {
        parked.poll(window.saturating_sub(begin.elapsed()), |_| Ok(()))?;
    }
    Ok((process.cpu()? - before).as_secs_f64() / begin.elapsed().as_secs_f64())
}
