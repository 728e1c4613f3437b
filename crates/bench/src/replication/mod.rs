//! Replication of a changed disk image, beside what people use for it without: rsync, BorgBackup and restic; and of a running machine's
//! disk, beside a plain pull over NBD of what its dirty bitmap lists.
//!
//! Each of them first copies the image, untimed; then one in a hundred of its 64 KiB blocks changes, and the second copy is timed. All
//! of them read the image from the page cache and write to the same file system. Our own copy goes between two servers, with TLS.
//! The machine's disk is changed some times more, and what each change took is told by the median.

mod image;
mod machine;
mod ours;
mod peers;
mod pull;
mod timed;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use tempfile::TempDir;

use crate::report::{Report, show_bytes};
use image::{BLOCK_BYTES, Changed, Image};
use machine::Machine;
use ours::{Pair, Synced};
use peers::Peer;
use pull::{Pulled, Puller};
use timed::Timed;

/// Most bytes on the wire, of the changed blocks' when each is packed by itself with zstd at level 1.
const WIRE_SHARE_MAX: f64 = 1.02;

/// Most CPU time of a sync without a bitmap, of that of one `b3sum`.
const HASH_SHARE_MAX: f64 = 1.25;

/// Most time of a sync with a bitmap, of that of a plain pull.
const PULL_SHARE_MAX: f64 = 1.5;

/// How many times faster than the fastest peer a sync is.
const PEER_SHARE_MIN: f64 = 5.0;

/// Measure replication of a changed disk image, beside rsync, BorgBackup and restic, and of a running QEMU's, beside a pull over NBD.
///
/// The image is made up: half of each block is random, half is text, so it compresses to about half. `b3sum` is run over it as the
/// least that a comparison by hash costs.
#[derive(Args)]
pub struct ReplicationArgs {
    /// Directory for the image and its copies, some four times the image's size; they are removed in the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    work_dir: PathBuf,
    /// The server.
    #[arg(long, value_name = "PROGRAM", default_value = "lockstep")]
    lockstep: PathBuf,
    /// Size of the image, such as 256M or 4G.
    #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = size)]
    size: u64,
    /// One in so many blocks changes.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    one_in: u64,
    /// How often the running machine's disk is changed and copied.
    #[arg(long, value_name = "N", default_value_t = 9, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Leave the peers out: rsync, BorgBackup and restic.
    #[arg(long)]
    no_peers: bool,
}

/// A whole number of blocks.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(['M', 'G']);
    let factor = match &text[digits.len()..] {
        "M" => 1_u64 << 20,
        "G" => 1 << 30,
        _ => return Err("a number and M or G".to_owned()),
    };
    let bytes = digits.parse().ok().and_then(|count: u64| count.checked_mul(factor));
    bytes.filter(|bytes| (1..=1 << 44).contains(bytes)).ok_or_else(|| "1M to 16384G".to_owned())
}

impl ReplicationArgs {
    fn fresh_dir(&self) -> anyhow::Result<TempDir> {
        // Servers, and QEMU, have working directories of their own.
        let within = std::path::absolute(&self.work_dir)?;
        let make = tempfile::Builder::new().prefix("lockstep-bench-").tempdir_in(&within);
        make.with_context(|| format!("make a directory in {}", within.display()))
    }
}

/// Rows of a table, with the figures of each.
struct Rows {
    rows: Vec<Vec<String>>,
    /// The changed blocks, each packed with zstd.
    least: u64,
}

impl Rows {
    fn add(&mut self, report: &mut Report, name: &str, timed: &Timed, bytes: Option<u64>) {
        let share = bytes.map(|bytes| format!("{:.3}", bytes as f64 / self.least as f64));
        self.rows.push(vec![
            name.to_owned(),
            seconds(timed.wall),
            seconds(timed.cpu),
            bytes.map(show_bytes).unwrap_or_default(),
            share.unwrap_or_default(),
        ]);
        let figures =
            json!({"seconds": timed.wall.as_secs_f64(), "cpu_seconds": timed.cpu.as_secs_f64(), "bytes": bytes});
        report.figure(name, figures);
    }

    fn show(self, report: &mut Report, title: String) {
        report.table(title, &["", "time", "CPU", "bytes", "of zstd-1"], self.rows);
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}

/// Runs the subcommand.
pub fn run(args: &ReplicationArgs) -> anyhow::Result<Report> {
    let dir = args.fresh_dir()?;
    let mut image = Image::create(dir.path().join("image.raw"), args.size)?;
    let mut report = Report::default();
    let mut pair = compared(args, &mut image, &mut report)?;
    if timed::is_installed(machine::QEMU) {
        by_bitmap(args, &mut image, &mut pair, &mut report)?;
    } else {
        eprintln!("{} is not installed: a running machine's disk is left out", machine::QEMU);
    }
    Ok(report)
}

/// The image of a machine that is off, by all who compare it with what they have. Answers the servers, with the image replicated.
fn compared(args: &ReplicationArgs, image: &mut Image, report: &mut Report) -> anyhow::Result<Pair> {
    let mut rows = Rows { rows: Vec::new(), least: 1 };
    let mut fastest: Option<(Peer, Duration)> = None;
    for peer in Peer::ALL.into_iter().filter(|_| !args.no_peers) {
        let Some(copies) = peer.first_copy(&image.path, args)? else {
            eprintln!("{} is not installed: left out", peer.name());
            continue;
        };
        rows.least = image.change(args.one_in)?.zstd_bytes;
        let (timed, bytes) = copies.next_copy(&image.path)?;
        rows.add(report, peer.name(), &timed, Some(bytes));
        if fastest.is_none_or(|(_, wall)| timed.wall < wall) {
            fastest = Some((peer, timed.wall));
        }
    }
    let mut pair = Pair::first_copy(args, &image.path)?;
    let changed = image.change(args.one_in)?;
    rows.least = changed.zstd_bytes;
    let hashed = peers::b3sum(&image.path)?;
    rows.add(report, "b3sum of the image", &hashed, None);
    let synced = pair.sync()?;
    check(&synced, &changed, "COMPARE", report)?;
    rows.add(report, "lockstep, without a bitmap", &synced.timed, Some(synced.wire_bytes));
    let source = Timed { wall: synced.timed.wall, cpu: synced.source_cpu, output: String::new() };
    rows.add(report, "its source alone", &source, None);
    // Who compares is the source; what the destination stores is not of the comparison.
    judge(report, "CPU time of a compare, of b3sum's", synced.source_cpu, hashed.cpu, HASH_SHARE_MAX);
    if let Some((peer, wall)) = fastest {
        let what = format!("time of a sync without a bitmap, of {}'s", peer.name());
        judge(report, &what, synced.timed.wall, wall, PEER_SHARE_MIN.recip());
    }
    let title = format!(
        "An image of {} MiB, {} of its 64 KiB blocks changed: {} of zstd-1",
        args.size >> 20,
        changed.blocks,
        show_bytes(changed.zstd_bytes)
    );
    rows.show(report, title);
    Ok(pair)
}

/// The disk of a machine that runs, by its dirty bitmap.
fn by_bitmap(args: &ReplicationArgs, image: &mut Image, pair: &mut Pair, report: &mut Report) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new().context("start the runtime")?;
    let machine = Machine::start(args, &image.path, &runtime)?;
    pair.power_on(&machine.ours())?;
    let mut puller = Puller::begin(args, machine.theirs(), &runtime)?;
    let mut all: Vec<(Changed, Pulled, Synced)> = Vec::new();
    for round in 0..args.rounds {
        let changed = image.change_by(args.one_in, |offset, content| machine.write(offset, content, &runtime))?;
        // Who goes first pays for what the other then finds in a cache: they take turns.
        let (pulled, synced) = if round % 2 == 0 {
            let pulled = puller.pull(&runtime)?;
            (pulled, pair.sync()?)
        } else {
            let synced = pair.sync()?;
            (puller.pull(&runtime)?, synced)
        };
        let bytes = changed.blocks * BLOCK_BYTES as u64;
        ensure!(pulled.bytes == bytes, "{} bytes were pulled, {bytes} had changed", pulled.bytes);
        check(&synced, &changed, "LIVE_BITMAP", report)?;
        all.push((changed, pulled, synced));
    }
    let least = all.iter().map(|(changed, ..)| changed.zstd_bytes).sum::<u64>() / args.rounds;
    let wire = all.iter().map(|(.., synced)| synced.wire_bytes).sum::<u64>() / args.rounds;
    let pulled = median(all.iter().map(|(_, pulled, _)| &pulled.whole));
    let synced = median(all.iter().map(|(.., synced)| &synced.timed));
    let mut blocks: Vec<Duration> = all.iter().map(|(_, pulled, _)| pulled.blocks).collect();
    blocks.sort_unstable();
    let blocks = Timed { wall: blocks[blocks.len() / 2], cpu: pulled.cpu, output: String::new() };
    let bytes = all.first().map(|(_, pulled, _)| pulled.bytes);
    let mut rows = Rows { rows: Vec::new(), least };
    rows.add(report, "plain NBD pull", &pulled, bytes);
    rows.add(report, "its blocks alone", &blocks, bytes);
    rows.add(report, "lockstep, with a bitmap", &synced, Some(wire));
    judge(report, "time of a sync with a bitmap, of a plain NBD pull's", synced.wall, pulled.wall, PULL_SHARE_MAX);
    let title = format!(
        "A running QEMU's disk of {} MiB, the median of {} changes of one in {} blocks",
        args.size >> 20,
        args.rounds,
        args.one_in
    );
    rows.show(report, title);
    Ok(())
}

/// A sync must have brought what changed, in the way that is measured, and hardly more than that on the wire.
fn check(synced: &Synced, changed: &Changed, method: &str, report: &mut Report) -> anyhow::Result<()> {
    let bytes = changed.blocks * BLOCK_BYTES as u64;
    ensure!(synced.method == method, "the sync was by {}, not by {method}", synced.method);
    ensure!(synced.changed_bytes == bytes, "{} bytes differed, {bytes} had changed", synced.changed_bytes);
    let share = synced.wire_bytes as f64 / changed.zstd_bytes as f64;
    if share > WIRE_SHARE_MAX {
        report.failures.push(format!("bytes on the wire, of zstd-1: {share:.3}, more than {WIRE_SHARE_MAX}"));
    }
    Ok(())
}

/// Keeps a share, and says when it is too large.
fn judge(report: &mut Report, what: &str, ours: Duration, theirs: Duration, most: f64) {
    let share = ours.as_secs_f64() / theirs.as_secs_f64();
    report.figure(what, json!(share));
    report.text(format!("{what}: {share:.2} (at most {most})"), String::new());
    if share > most {
        report.failures.push(format!("{what}: {share:.2}, more than {most}"));
    }
}

/// The median of the times, and that of the CPU times.
fn median<'a>(all: impl Iterator<Item = &'a Timed>) -> Timed {
    let (mut walls, mut cpus): (Vec<Duration>, Vec<Duration>) = all.map(|timed| (timed.wall, timed.cpu)).unzip();
    walls.sort_unstable();
    cpus.sort_unstable();
    let middle = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default();
    Timed { wall: middle(&walls), cpu: middle(&cpus), output: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_its_unit() {
        assert_eq!((size("256M"), size("4G")), (Ok(256 << 20), Ok(4 << 30)));
        for wrong in ["", "4", "G", "0M", "4T", "x4G", "99999999999G", "4GM"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
