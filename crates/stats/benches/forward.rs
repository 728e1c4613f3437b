//! How fast points go from the log to VictoriaMetrics: `cargo bench -p lockstep-stats --bench forward`.
//!
//! Two million points of 4,000 series, 500 of each, wait in the log; what is measured is the time from the start until the receiver has
//! acknowledged all of them, for several sizes of a request, each into an empty VictoriaMetrics.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on stops")]

#[path = "../tests/remote/servers.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod servers;
#[path = "../tests/remote/site.rs"]
#[allow(dead_code, reason = "tests use all of it")]
mod site;

use std::time::{Duration, Instant};

use lockstep_contract::counters::{COUNTERS, ResourceKind};
use lockstep_stats::remote::Pace;

use crate::servers::Server;
use crate::site::{Home, Written, now_s, write_to};

const POINTS_OF_SERIES: i64 = 500;
const SERIES: usize = 4000;

/// What agents bring: each of their batches has a point of each of its series.
fn batch(start_s: i64, round: i64) -> Vec<Written> {
    let counters: Vec<&str> = COUNTERS
        .iter()
        .filter(|counter| counter.kind == ResourceKind::Vm)
        .map(|counter| counter.cid)
        .take(20)
        .collect();
    let point = |i: usize| vec![(start_s + round, ((i as i64 * 31 + round * 7) % 9973) as f64 / 100.0)];
    let one = |i: usize| {
        let vm = format!("vm-{}", i / counters.len());
        Written::of_vm(counters[i % counters.len()], &vm, "host-1", point(i))
    };
    (0..SERIES).map(one).collect()
}

#[tokio::main]
async fn main() {
    for points_max in [2_000, 5_000, 20_000, 50_000] {
        let Some(outside) = Server::victoria_metrics(&[]).await else { return };
        let home = Home::new();
        // Nobody listens there: what is written waits.
        let here = home.open(write_to("http://127.0.0.1:9/")).await;
        let start_s = now_s() - POINTS_OF_SERIES;
        for round in 0..POINTS_OF_SERIES {
            here.write(&batch(start_s, round)).await;
        }
        here.close().await;
        let mut config = write_to(&outside.write_url());
        config.pace = Pace { points_max, gather: Duration::from_millis(1), ..Pace::default() };
        let here = home.open(config).await;
        let started = Instant::now();
        let status = here.until_forwarded().await;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{points_max:>6} points a request: {} points in {seconds:.2} s, {:.0} points/s, {} requests",
            status.sent,
            status.sent as f64 / seconds,
            status.requests
        );
        here.close().await;
    }
}
