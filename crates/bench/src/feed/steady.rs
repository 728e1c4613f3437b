//! Commits at a steady rate, or one by one, and how long after its acknowledgement each is in the readers' hands.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use serde_json::json;

use super::Site;
use super::commits::{Committed, Committer};
use super::parked::Parked;
use crate::latency::{Latencies, show};
use crate::report::Report;

/// How long the last deliveries may take after the last commit.
const TAIL_TIME_MAX: Duration = Duration::from_secs(30);

/// When the next commit is made.
#[derive(Clone, Copy)]
pub enum Pace {
    /// So many a second, whether or not the ones before were delivered.
    Rate(f64),
    /// As soon as the one before has reached every reader, and the pause has passed.
    OneByOne(Duration),
}

/// Every reader must get every commit once, in order; the times of the deliveries are measured.
pub fn run(site: &Site, readers: usize, commits: usize, pace: Pace, report: &mut Report) -> anyhow::Result<()> {
    let mut parked = site.park(readers, report)?;
    let mut run = Run { arrivals: Vec::new(), ordered: Vec::new(), committed: Vec::new(), seen: vec![0; parked.len()] };
    parked.settle()?;
    let begin = Instant::now();
    match pace {
        Pace::Rate(rate) => {
            for commit in 0..commits {
                let when = begin + Duration::from_secs_f64(commit as f64 / rate);
                run.ordered.push(site.committer.order(when)?);
            }
            let until = begin + Duration::from_secs_f64(commits as f64 / rate) + TAIL_TIME_MAX;
            run.wait(&mut parked, &site.committer, commits, until)?;
        }
        Pace::OneByOne(pause) => {
            for commit in 0..commits {
                run.ordered.push(site.committer.order(Instant::now() + pause)?);
                run.wait(&mut parked, &site.committer, commit + 1, Instant::now() + TAIL_TIME_MAX)?;
            }
        }
    }
    run.report(parked.len(), begin.elapsed(), report)
}

struct Run {
    /// Which commit arrived, and when, at any reader.
    arrivals: Vec<(usize, Instant)>,
    /// The VM of each commit.
    ordered: Vec<String>,
    committed: Vec<Committed>,
    /// How many commits each reader has got.
    seen: Vec<usize>,
}

impl Run {
    /// Takes in deliveries until every reader has got the first `commits` commits. Readers are parked again at once.
    fn wait(
        &mut self,
        parked: &mut Parked,
        committer: &Committer,
        commits: usize,
        until: Instant,
    ) -> anyhow::Result<()> {
        let Run { arrivals, ordered, committed, seen } = self;
        let mut missing: usize = seen.iter().map(|n| commits.saturating_sub(*n)).sum();
        while missing > 0 || committed.len() < commits {
            if Instant::now() > until {
                bail!("{missing} deliveries of {commits} commits are missing");
            }
            parked.poll(Duration::from_millis(10), |arrived| {
                for id in &arrived.changes.vms {
                    let commit = seen[arrived.reader];
                    let expected = ordered.get(commit);
                    ensure!(expected == Some(id), "reader {} got {id}, not {expected:?}", arrived.reader);
                    arrivals.push((commit, arrived.at));
                    seen[arrived.reader] += 1;
                    missing = missing.saturating_sub(1);
                }
                Ok(())
            })?;
            parked.park_all()?;
            while let Some(next) = committer.next()? {
                committed.push(next);
            }
        }
        Ok(())
    }

    fn report(self, readers: usize, wall: Duration, report: &mut Report) -> anyhow::Result<()> {
        let Run { arrivals, committed, .. } = self;
        let commits: Latencies = committed.iter().map(|c| c.acked - c.sent).collect();
        // A reader may have a commit before its writer reads the acknowledgement: that counts as no time.
        let early = arrivals.iter().filter(|(commit, at)| *at < committed[*commit].acked).count();
        let deliveries: Latencies =
            arrivals.iter().map(|(commit, at)| at.saturating_duration_since(committed[*commit].acked)).collect();
        let from_request: Latencies =
            arrivals.iter().map(|(commit, at)| at.saturating_duration_since(committed[*commit].sent)).collect();
        let rate = committed.len() as f64 / wall.as_secs_f64();
        let mut rows = Vec::new();
        for (name, times) in [
            ("request to acknowledgement", commits),
            ("acknowledgement to delivery", deliveries),
            ("request to delivery", from_request),
        ] {
            let Some(summary) = times.summary() else { bail!("nothing was measured") };
            rows.push(vec![
                name.to_owned(),
                summary.count.to_string(),
                show(summary.p50),
                show(summary.p99),
                show(summary.max),
            ]);
            report.figure(name, summary.json());
        }
        let early_share = early as f64 / arrivals.len() as f64;
        report.figure("commits_per_s", json!(rate));
        report.figure("delivered_before_acknowledgement", json!(early_share));
        let title = format!(
            "{readers} reader(s), {} commits, {rate:.1} commits/s; {:.0} % of the deliveries came before the acknowledgement",
            committed.len(),
            early_share * 100.0
        );
        report.table(title, &["", "count", "p50", "p99", "max"], rows);
        Ok(())
    }
}
