//! Bytes a point on the disk, of this machine's own counters, beside VictoriaMetrics with the same points.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use clap::Args;
use lockstep_contract::counters::{COUNTERS, CounterSet, ResourceKind};
use lockstep_contract::points::{Batch, Identifier, Series};
use lockstep_series::{Config, Point, SeriesKey, Store};
use serde_json::{Value, json};

use crate::files::bytes_below;
use crate::report::{Report, show_bytes};
use crate::stats::Programs;
use crate::stats::site::{Site, call};
use crate::stats::victoria::{self, Victoria};

/// Bytes a point at most.
const POINT_BYTES_MAX: f64 = 2.0;

/// Points of a remote write.
const WRITE_POINTS: usize = 10_000;

/// Measure the bytes a point on disk, of this machine's own counters, beside VictoriaMetrics with the same points.
///
/// A server samples every counter of this machine for a while and is stopped; its store is sealed and measured, and its points are written to
/// VictoriaMetrics, which merges all of them before it is measured. Exits with 1 when the target is missed.
#[derive(Args)]
pub struct FootprintArgs {
    #[command(flatten)]
    programs: Programs,
    /// How long to sample, in seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Seconds between samples.
    #[arg(long, default_value_t = 1)]
    interval: u64,
    /// Data directory of a server that has sampled and is stopped, instead of sampling. It is copied, not changed.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// What the store says of itself, and all of its points.
struct Sealed {
    bytes: u64,
    points: u64,
    series: HashMap<SeriesKey, Vec<Point>>,
}

/// Runs the subcommand.
pub fn run(args: &FootprintArgs) -> anyhow::Result<Report> {
    let copy = args.programs.fresh_dir()?;
    match &args.data_dir {
        Some(dir) => copy_files(&dir.join("series"), copy.path())?,
        None => {
            let (_dir, data) = sample(args)?;
            copy_files(&data.join("series"), copy.path())?;
        }
    }
    let sealed = seal(copy.path())?;
    ensure!(sealed.points > 0, "there are no points");
    let (theirs, index) = in_victoria(&args.programs, &sealed)?;
    let per_point = |bytes: u64| bytes as f64 / sealed.points as f64;
    let constant = sealed.series.values().filter(|points| is_constant(points)).count();
    let varying: usize = sealed.series.values().filter(|points| !is_constant(points)).map(Vec::len).sum();

    let mut report = Report::default();
    let row = |name: &str, bytes: u64| {
        vec![
            name.to_owned(),
            show_bytes(bytes),
            format!("{:.3}", per_point(bytes)),
            format!("{:.2}", bytes as f64 / varying.max(1) as f64),
        ]
    };
    report.table(
        format!("{} points of {} series, {constant} of them constant", sealed.points, sealed.series.len()),
        &["", "bytes", "bytes/point", "bytes/point that is not of a constant series"],
        vec![
            row("ours, sealed", sealed.bytes),
            row("VictoriaMetrics, merged", theirs),
            row("VictoriaMetrics, its index of series besides", index),
        ],
    );
    report.figure(
        "footprint",
        json!({"points": sealed.points, "series": sealed.series.len(), "constant_series": constant,
            "varying_points": varying, "bytes": sealed.bytes, "victoria_metrics_bytes": theirs,
            "victoria_metrics_index_bytes": index}),
    );
    if per_point(sealed.bytes) > POINT_BYTES_MAX {
        let message = format!("{:.2} bytes a point, more than {POINT_BYTES_MAX}", per_point(sealed.bytes));
        report.failures.push(message);
    }
    Ok(report)
}

/// Bit for bit the same value throughout.
fn is_constant(points: &[Point]) -> bool {
    points.windows(2).all(|pair| pair[0].value.to_bits() == pair[1].value.to_bits())
}

/// Has a server sample this machine, and stops it.
fn sample(args: &FootprintArgs) -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let site = Site::start(&args.programs, "")?;
    let mut client = site.connect()?;
    let until = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + args.seconds + 3600;
    for set in CounterSet::all().into_iter().filter(|set| set.kind == ResourceKind::Host) {
        let spec = json!({"counters": {"set_id": set.id()}, "interval": args.interval, "expiration": until,
            "resources": [{"type": "HOST", "id_value": "", "predicate": "ALL"}]});
        call(&mut client, "POST", "/api/stats/acq-specs", &spec)?;
    }
    std::thread::sleep(Duration::from_secs(args.seconds));
    let mut client = site.connect()?;
    let info = call(&mut client, "GET", "/api/lockstep/stats/store", &Value::Null)?;
    ensure!(info["points"].as_i64() > Some(0), "nothing was sampled: {info}");
    site.stop()
}

fn copy_files(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))
            .with_context(|| format!("copy {}", entry.path().display()))?;
    }
    Ok(())
}

/// Seals all points of a store, as the server does two hours after they came, and reads them.
fn seal(dir: &Path) -> anyhow::Result<Sealed> {
    let store = Store::open(dir, Config::default())?;
    store.seal_all()?;
    let figures = store.stats();
    ensure!(figures.head_points == 0, "{} points were not sealed", figures.head_points);
    let mut series = HashMap::new();
    for (key, _) in store.series() {
        series.insert(key, store.read(key, i64::MIN, i64::MAX, usize::MAX)?);
    }
    let points = series.values().map(|points| points.len() as u64).sum();
    Ok(Sealed { bytes: figures.raw_bytes, points, series })
}

/// Bytes of the points, and of the index of series, that VictoriaMetrics has for them.
fn in_victoria(programs: &Programs, sealed: &Sealed) -> anyhow::Result<(u64, u64)> {
    let victoria = Victoria::start(programs)?;
    let mut client = victoria.connect()?;
    let mut write = |batch: &Batch| -> anyhow::Result<()> {
        let answer = client.request("POST", victoria::WRITE_PATH, &victoria::write_body(batch)?)?;
        ensure!(answer.status == 204, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(())
    };
    for (key, points) in &sealed.series {
        let counter = COUNTERS.iter().find(|counter| counter.mid() == key.counter);
        let series = |points: &[Point]| Series {
            cid: counter.map_or_else(|| format!("counter.{}", key.counter), |counter| counter.cid.to_owned()),
            address: vec![Identifier { r#type: "HOST".to_owned(), id: key.address.to_string() }],
            times: Series::deltas(points.iter().map(|point| point.time_s)),
            values: points.iter().map(|point| point.value).collect(),
        };
        for points in points.chunks(WRITE_POINTS) {
            write(&Batch { series: vec![series(points)] })?;
        }
    }
    victoria.merge()?;
    let (_dir, data) = victoria.stop()?;
    Ok((bytes_below(&data.join("data"))?, bytes_below(&data.join("indexdb"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_constant_when_no_value_differs() {
        let points = |values: &[f64]| -> Vec<Point> {
            values.iter().enumerate().map(|(i, &value)| Point { time_s: i as i64, value }).collect()
        };
        assert!(is_constant(&points(&[])) && is_constant(&points(&[1.0])) && is_constant(&points(&[1.0, 1.0])));
        assert!(!is_constant(&points(&[1.0, 1.0, 2.0])));
    }
}
