//! Replication of a changed disk image, beside what people use for it without: rsync, BorgBackup and restic.
//!
//! Each of them first copies the image, untimed; then one in a hundred of its 64 KiB blocks changes, and the second copy is timed. All
//! of them read the image from the page cache and write to the same file system. Our own copy goes between two servers, with TLS.

mod image;
mod ours;
mod peers;
mod timed;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use tempfile::TempDir;

use crate::report::{Report, show_bytes};
use image::Image;
use ours::Pair;
use peers::Peer;
use timed::Timed;

/// Measure replication of a changed disk image, beside rsync, BorgBackup and restic.
///
/// The image is made up: half of each block is random, half is text, so it compresses to about half. `b3sum` is run over it as the
/// least that a comparison by hash costs.
#[derive(Args)]
pub struct ReplicationArgs {
    /// Directory for the image and its copies, some three times the image's size; they are removed in the end.
    #[arg(long, value_name = "DIR", default_value = ".")]
    work_dir: PathBuf,
    /// The server.
    #[arg(long, value_name = "PROGRAM", default_value = "lockstep")]
    lockstep: PathBuf,
    /// Size of the image in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    image_mib: u64,
    /// One in so many blocks changes.
    #[arg(long, value_name = "N", default_value_t = 100)]
    one_in: u64,
}

impl ReplicationArgs {
    fn fresh_dir(&self) -> anyhow::Result<TempDir> {
        let within = &self.work_dir;
        let make = tempfile::Builder::new().prefix("lockstep-bench-").tempdir_in(within);
        make.with_context(|| format!("make a directory in {}", within.display()))
    }
}

/// Runs the subcommand.
pub fn run(args: &ReplicationArgs) -> anyhow::Result<Report> {
    let dir = args.fresh_dir()?;
    let mut image = Image::create(dir.path().join("image.raw"), args.image_mib << 20)?;
    let mut report = Report::default();
    let mut rows = Vec::new();
    let mut row = |report: &mut Report, name: &str, timed: &Timed, bytes: Option<u64>, least: u64| {
        let bytes_of_least = bytes.map(|bytes| format!("{:.2}", bytes as f64 / least as f64));
        rows.push(vec![
            name.to_owned(),
            format!("{:.2} s", timed.wall.as_secs_f64()),
            format!("{:.2} s", timed.cpu.as_secs_f64()),
            bytes.map(show_bytes).unwrap_or_default(),
            bytes_of_least.unwrap_or_default(),
        ]);
        let figures =
            json!({"seconds": timed.wall.as_secs_f64(), "cpu_seconds": timed.cpu.as_secs_f64(), "bytes": bytes});
        report.figure(name, figures);
    };
    let hashed = peers::b3sum(&image.path)?;
    row(&mut report, "b3sum of the image", &hashed, None, 1);
    for peer in Peer::ALL {
        let Some(copies) = peer.first_copy(&image.path, args)? else {
            eprintln!("{} is not installed: left out", peer.name());
            continue;
        };
        let changed = image.change(args.one_in)?;
        let (timed, bytes) = copies.next_copy(&image.path)?;
        row(&mut report, peer.name(), &timed, Some(bytes), changed.zstd_bytes);
    }
    let mut pair = Pair::first_copy(args, &image.path)?;
    let changed = image.change(args.one_in)?;
    let synced = pair.sync()?;
    let name = format!("lockstep, {}", synced.method.to_lowercase());
    row(&mut report, &name, &synced.timed, Some(synced.wire_bytes), changed.zstd_bytes);
    let title = format!(
        "An image of {} MiB, {} of its 64 KiB blocks changed: {} of zstd-1",
        args.image_mib,
        changed.blocks,
        show_bytes(changed.zstd_bytes)
    );
    report.table(title, &["", "time", "CPU", "bytes", "of zstd-1"], rows);
    Ok(report)
}
