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
use commits::Committer;
use parked::Parked;
use readers::allow_sockets;
use steady::Pace;

/// Pause between commits that are made one by one: long enough for the reader's next request to be parked.
const SINGLE_PAUSE: Duration = Duration::from_millis(5);

/// Memory of the server that a parked reader may take.
const READER_BYTES_MAX: u64 = 16 << 10;
/// Below so many readers, other growth of the process hides theirs.
const READERS_JUDGED: usize = 1000;

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

#[derive(Clone, Copy, ValueEnum)]
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
    allow_sockets(readers)?;
    let site = Site {
        committer: Committer::start(&server)?,
        process: args.pid.map(Process::new),
        idle_window: Duration::try_from_secs_f64(args.idle_seconds)?,
        server,
    };
    let mut report = Report::default();
    match args.mode {
        Mode::FanOut => fan_out::run(&site, readers, commits, args.baseline, &mut report)?,
        Mode::Steady => steady::run(&site, readers, commits, Pace::Rate(args.rate), &mut report)?,
        Mode::Single => steady::run(&site, readers, commits, Pace::OneByOne(SINGLE_PAUSE), &mut report)?,
    }
    Ok(report)
}

/// The measured server, and who commits to it.
struct Site {
    server: Server,
    committer: Committer,
    process: Option<Process>,
    idle_window: Duration,
}

impl Site {
    /// Parks readers, and reports what they cost the server while nothing happens.
    fn park(&self, readers: usize, report: &mut Report) -> anyhow::Result<Parked> {
        let Some(process) = self.process else { return Parked::start(&self.server, readers, None) };
        let before = process.memory()?.resident;
        let mut parked = Parked::start(&self.server, readers, self.process)?;
        parked.settle()?;
        let after = process.memory()?.resident;
        let bytes = after.saturating_sub(before) / readers as u64;
        let idle = idle_cpu(&mut parked, process, self.idle_window)?;
        let rows = vec![
            vec!["resident before".to_owned(), show_bytes(before)],
            vec!["resident with the readers parked".to_owned(), show_bytes(after)],
            vec!["bytes a reader".to_owned(), bytes.to_string()],
            vec!["CPU while idle".to_owned(), format!("{:.2} % of a core", idle * 100.0)],
        ];
        report.table(format!("{readers} parked reader(s)"), &["server", "value"], rows);
        report.figure(
            "parked",
            json!({"readers": readers, "resident_before": before, "resident_parked": after,
                   "bytes_per_reader": bytes, "idle_cpu": idle}),
        );
        if readers >= READERS_JUDGED && bytes > READER_BYTES_MAX {
            report.failures.push(format!("a parked reader takes {bytes} bytes, more than {READER_BYTES_MAX}"));
        }
        Ok(parked)
    }
}

/// The server's CPU time while nothing happens, as a share of one core.
fn idle_cpu(parked: &mut Parked, process: Process, window: Duration) -> anyhow::Result<f64> {
    let before = process.cpu()?;
    let begin = Instant::now();
    while begin.elapsed() < window {
        parked.poll(window.saturating_sub(begin.elapsed()), |_| Ok(()))?;
    }
    Ok((process.cpu()? - before).as_secs_f64() / begin.elapsed().as_secs_f64())
}
