//! One commit to all readers, beside a bare loop that writes the same bytes to as many sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::Site;
use super::baseline::Baseline;
use super::commits::Committer;
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

/// What one reader sends and gets: what the bare loop has to carry too.
struct Exchange {
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// Commits `rounds` times, each to `readers` parked readers. The bare loop has half of its rounds before and half after, so that a
/// machine that gets slower or faster meanwhile disturbs both alike; at the same time there would be too many open files.
pub fn run(site: &Site, readers: usize, rounds: usize, with_baseline: bool, report: &mut Report) -> anyhow::Result<()> {
    let exchange = probe(site)?;
    let half = rounds.div_ceil(2);
    let mut bare = if with_baseline { write_rounds(readers, &exchange, half)? } else { Vec::new() };
    let ours = commit_rounds(site, readers, rounds, report)?;
    if with_baseline {
        bare.extend(write_rounds(readers, &exchange, half)?);
    }
    let mut rows = Vec::new();
    let ours = add(&mut rows, report, "lockstep", ours)?;
    if with_baseline {
        let bare = add(&mut rows, report, "bare epoll loop", bare)?;
        let times = ratio(ours, bare);
        rows.push(["ratio", "", "", "", &format!("{times:.2}")].map(str::to_owned).to_vec());
        report.figure("ratio", json!(times));
        if times > RATIO_MAX {
            report
                .failures
                .push(format!("a commit takes {times:.2} times as long as a bare loop, more than {RATIO_MAX}"));
        }
    }
    let header = ["", "commit p50", "reader p50", "reader p99", "last reader, median of the rounds"];
    let bytes = exchange.answer.len();
    report.table(format!("One commit to {readers} readers, {rounds} rounds, {bytes} bytes a reader"), &header, rows);
    Ok(())
}

/// One commit to one reader, to learn the bytes.
fn probe(site: &Site) -> anyhow::Result<Exchange> {
    let mut parked = Parked::start(&site.server, 1, site.process)?;
    parked.settle()?;
    let request = parked.request().to_vec();
    let (_, answer) = commit_to_all(&mut parked, &site.committer)?;
    Ok(Exchange { request, answer })
}

/// The rounds through the server; the first one only warms up.
fn commit_rounds(site: &Site, readers: usize, rounds: usize, report: &mut Report) -> anyhow::Result<Vec<Round>> {
    let mut parked = site.park(readers, report)?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        parked.settle()?;
        let (time, _) = commit_to_all(&mut parked, &site.committer)?;
        parked.park_all()?;
        if round > 0 {
            times.push(time);
        }
    }
    Ok(times)
}

/// The rounds through the bare loop; the first one only warms up.
fn write_rounds(readers: usize, exchange: &Exchange, rounds: usize) -> anyhow::Result<Vec<Round>> {
    let mut baseline = Baseline::start(readers)?;
    let mut times = Vec::with_capacity(rounds);
    for round in 0..=rounds {
        baseline.park(&exchange.request)?;
        let time = write_to_all(&mut baseline, &exchange.answer)?;
        if round > 0 {
            times.push(time);
        }
    }
    Ok(times)
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
fn commit_to_all(parked: &mut Parked, committer: &Committer) -> anyhow::Result<(Round, Vec<u8>)> {
    let mut arrivals = vec![None; parked.len()];
    let mut missing = parked.len();
    let mut committed = None;
    let mut bytes = Vec::new();
    let begin = Instant::now();
    let vm = committer.order(begin)?;
    while missing > 0 || committed.is_none() {
        ensure!(begin.elapsed() < ROUND_TIME_MAX, "{missing} readers did not get the commit in {ROUND_TIME_MAX:?}");
        parked.poll(Duration::from_millis(10), |parked| {
            ensure!(parked.changes.vms == [vm.as_str()], "a reader got {:?}, not {vm}", parked.changes.vms);
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
fn write_to_all(baseline: &mut Baseline, bytes: &[u8]) -> anyhow::Result<Round> {
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
