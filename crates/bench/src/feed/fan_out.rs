//! One commit to all readers, beside a bare loop that writes the same bytes to as many sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::baseline::Baseline;
use super::commits::{Committer, vm};
use super::parked::Parked;
use super::readers::Readers;
use crate::latency::{Latencies, ratio, show};
use crate::report::Report;

/// How long one commit may take to reach everybody before the run is given up.
const ROUND_TIME_MAX: Duration = Duration::from_secs(60);

/// How many times the bare loop's time a commit may take to reach all readers.
const RATIO_MAX: f64 = 2.0;

/// The times of one round, all from the first sign that the bytes are on their way: the acknowledgement, or the first delivery,
/// whichever came first.
struct Round {
    /// From the request to the acknowledgement.
    commit: Duration,
    deliveries: Latencies,
    last: Duration,
}

/// Commits `rounds` times, each to all parked readers.
pub fn run(
    parked: &mut Parked,
    committer: &Committer,
    rounds: usize,
    mut baseline: Option<Baseline>,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    // The first round, of each, only warms up.
    for round in 0..=rounds {
        parked.settle()?;
        let (times, bytes) = commit_to_all(parked, committer, round)?;
        ours.push(times);
        if let Some(baseline) = &mut baseline {
            parked.park_all()?;
            parked.settle()?;
            bare.push(write_to_all(baseline, parked.request(), &bytes)?);
        }
        parked.park_all()?;
    }
    let readers = parked.len();
    let mut rows = Vec::new();
    let ours = add(&mut rows, report, "lockstep", ours.split_off(1))?;
    if !bare.is_empty() {
        let bare = add(&mut rows, report, "bare epoll loop", bare.split_off(1))?;
        let times = ratio(ours, bare);
        rows.push(vec![
            "ratio to the last reader".into(),
            String::new(),
            String::new(),
            String::new(),
            format!("{times:.2}"),
        ]);
        report.figure("ratio", json!(times));
        if times > RATIO_MAX {
            report
                .failures
                .push(format!("a commit takes {times:.2} times as long as a bare loop, more than {RATIO_MAX}"));
        }
    }
    let header = ["", "commit p50", "reader p50", "reader p99", "last reader (median of the rounds)"];
    report.table(format!("One commit to {readers} readers, {rounds} rounds"), &header, rows);
    Ok(())
}

/// Adds the row of one side, and returns the median time to the last reader.
fn add(rows: &mut Vec<Vec<String>>, report: &mut Report, name: &str, rounds: Vec<Round>) -> anyhow::Result<Duration> {
    let commits: Latencies = rounds.iter().map(|r| r.commit).collect();
    let lasts: Latencies = rounds.iter().map(|r| r.last).collect();
    let mut deliveries = Latencies::default();
    for round in rounds {
        deliveries.extend(round.deliveries);
    }
    let (commit, each, last) = (commits.summary(), deliveries.summary(), lasts.summary());
    let (Some(commit), Some(each), Some(last)) = (commit, each, last) else { bail!("no rounds were run") };
    rows.push(vec![name.to_owned(), show(commit.p50), show(each.p50), show(each.p99), show(last.p50)]);
    report.figure(name, json!({"commit": commit.json(), "reader": each.json(), "last_reader": last.json()}));
    Ok(last.p50)
}

/// One commit through the server. Also returns the bytes that a reader got.
fn commit_to_all(parked: &mut Parked, committer: &Committer, round: usize) -> anyhow::Result<(Round, Vec<u8>)> {
    let mut arrivals = vec![None; parked.len()];
    let mut missing = parked.len();
    let mut committed = None;
    let mut bytes = Vec::new();
    let begin = Instant::now();
    committer.order(begin)?;
    while missing > 0 || committed.is_none() {
        ensure!(begin.elapsed() < ROUND_TIME_MAX, "{missing} readers did not get the commit in {ROUND_TIME_MAX:?}");
        parked.poll(Duration::from_millis(10), |parked| {
            ensure!(parked.changes.vms == [vm(round)], "a reader got {:?}, not {}", parked.changes.vms, vm(round));
            ensure!(arrivals[parked.reader].replace(parked.at).is_none(), "a reader got one commit twice");
            if bytes.is_empty() {
                bytes.extend_from_slice(parked.bytes);
            }
            missing -= 1;
            Ok(())
        })?;
        if committed.is_none() {
            committed = committer.next()?;
        }
    }
    let committed = committed.context("the loop ends with a commit")?;
    let round = times(committed.sent, committed.acked, arrivals.into_iter().flatten().collect());
    Ok((round, bytes))
}

/// The same bytes through the bare loop.
fn write_to_all(baseline: &mut Baseline, request: &[u8], bytes: &[u8]) -> anyhow::Result<Round> {
    baseline.park(request)?;
    let mut writer = baseline.writer()?;
    let readers: &mut Readers = &mut baseline.readers;
    let mut arrivals = Vec::with_capacity(readers.len());
    let written = std::thread::scope(|scope| {
        let write = scope.spawn(|| writer.write(bytes));
        let begin = Instant::now();
        while arrivals.len() < readers.len() {
            ensure!(begin.elapsed() < ROUND_TIME_MAX, "the bare loop did not reach all sockets in {ROUND_TIME_MAX:?}");
            readers.poll(Duration::from_millis(10), |delivery| {
                arrivals.push(delivery.at);
                Ok(())
            })?;
        }
        write.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(times(written.sent, written.acked, arrivals))
}

fn times(sent: Instant, acked: Instant, arrivals: Vec<Instant>) -> Round {
    let start = arrivals.iter().min().map_or(acked, |first| acked.min(*first));
    let deliveries: Latencies = arrivals.iter().map(|at| at.saturating_duration_since(start)).collect();
    let last = arrivals.iter().max().map_or(Duration::ZERO, |last| last.saturating_duration_since(start));
    Round { commit: acked - sent, deliveries, last }
}
