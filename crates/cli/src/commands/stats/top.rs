//! `lockstep stats top`: the busiest hosts or VMs, again and again.
//!
//! ```text
//!              every interval
//! newest points ------------> rows ---> a frame on the terminal's other screen, or once to standard output
//!        ^
//! --sample: specifications for what is shown; made at the start, given more time while this runs, deleted at the end.
//! ```
//! They expire by themselves [`SAMPLE_FOR_S`] after the last renewal: a killed program leaves nothing that samples on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::Result;
use lockstep_client::{Client, ClientError};
use lockstep_contract::ErrorKind;
use lockstep_contract::counters::ResourceKind;
use lockstep_contract::services::stats::acq_specs::{
    Create, CreateInput, CreateSpec, Delete, IdInput, Update, UpdateInput, UpdateSpec,
};
use lockstep_contract::services::stats::series::{FilterSpec, Query, QueryInput, Resolution};
use tokio::time::{Instant, MissedTickBehavior};

use super::board::{self, Column, Row};
use super::names::Names;
use super::resources::Resource;
use super::specs;
use crate::commands::Context;
use crate::output::{Format, Listing, print, table_lines};
use crate::terminal::Screen;
use crate::{spark, terminal, times};

/// A point that is older says nothing of the present, in seconds.
const AGE_MAX_S: i64 = 900;

/// For how long --sample asks at a time, in seconds; it asks again when half of that is over.
const SAMPLE_FOR_S: i64 = 120;

/// Beyond the three intervals that a rate's first point may take: the time for a provider to hear of a specification.
const SAMPLE_WAIT: Duration = Duration::from_secs(10);

/// How often the first points are looked for.
const POLL_EVERY: Duration = Duration::from_millis(500);

/// How many values a trend shows.
const TREND_MAX: usize = 20;

/// What is said of the missing is looked up again after so many frames.
const FRAMES_PER_LOOK: u64 = 5;

/// What to show, and how often.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep stats top --sample\n  \
    lockstep stats top --type VM --sort disk --interval 5s\n  \
    lockstep stats top --once --output csv\n  \
    lockstep stats top --type HOST --once --sample")]
pub struct TopArgs {
    /// What to show
    #[arg(long = "type", value_enum, ignore_case = true, value_name = "TYPE", default_value = "HOST")]
    kind: Kind,
    /// What the first have most of
    #[arg(long, value_enum, value_name = "BY", default_value = "cpu")]
    sort: Sort,
    /// How often to look
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = times::pause)]
    interval: Duration,
    /// Print once, and end
    #[arg(long)]
    once: bool,
    /// Ask for samples of what is shown, every interval, while this runs
    #[arg(long)]
    sample: bool,
}

/// A type of resources, as it is typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Kind {
    /// Hosts
    #[value(name = "HOST")]
    Host,
    /// Virtual machines
    #[value(name = "VM")]
    Vm,
}

/// An order, as it is typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Sort {
    /// CPU time, in percent
    Cpu,
    /// Memory in use
    Mem,
    /// Read from and written to disks
    Disk,
    /// Received and sent
    Net,
}

impl TopArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let samples = match self.sample {
            true => Some(Samples::create(&context.client, self.kind(), self.interval).await?),
            false => None,
        };
        let mut top = Top { client: &context.client, args: &self, samples, names: Names::default() };
        let is_live = !self.once && context.output == Format::Table && terminal::size().is_some();
        let outcome = tokio::select! {
            outcome = async { if is_live { Box::pin(top.live()).await } else { Box::pin(top.once(context.output)).await } } => outcome,
            interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
            () = terminated() => Ok(()),
        };
        if let Some(samples) = &top.samples {
            samples.delete(&context.client).await;
        }
        outcome
    }

    fn kind(&self) -> ResourceKind {
        match self.kind {
            Kind::Host => ResourceKind::Host,
            Kind::Vm => ResourceKind::Vm,
        }
    }

    fn sort(&self) -> Column {
        match self.sort {
            Sort::Cpu => Column::Cpu,
            Sort::Mem => Column::Memory,
            Sort::Disk => Column::Disk,
            Sort::Net => Column::Net,
        }
    }
}

/// Waits until the program is asked to end; the terminal and the specifications are put in order then.
async fn terminated() {
    #[cfg(unix)]
    if let Ok(mut signal) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        signal.recv().await;
        return;
    }
    std::future::pending().await
}

struct Top<'c> {
    client: &'c Client,
    args: &'c TopArgs,
    samples: Option<Samples>,
    names: Names,
}

impl Top<'_> {
    /// The rows of this moment.
    async fn rows(&self) -> Result<Vec<Row>, ClientError> {
        let kind = self.args.kind();
        let filter = FilterSpec {
            start: Some(times::now_s() - AGE_MAX_S),
            end: None,
            cids: Some(Column::ALL.map(|column| column.cid(kind)).to_vec()),
            metric: None,
            types: None,
            resources: None,
            resolution: Some(Resolution::Raw),
            latest: Some(true),
        };
        let result = self.client.call(Query, QueryInput { filter }).await?;
        Ok(board::rows(&result.series, kind, self.args.sort()))
    }

    async fn once(&mut self, output: Format) -> Result<()> {
        let mut rows = self.rows().await?;
        if let Some(samples) = &self.samples {
            let until = Instant::now() + self.args.interval * 3 + SAMPLE_WAIT;
            eprintln!("asked for samples; waiting for the first");
            while !samples.have_come(&rows) && Instant::now() < until {
                tokio::time::sleep(POLL_EVERY).await;
                rows = self.rows().await?;
            }
        }
        self.names.look_up(self.client, rows.iter().map(|row| &row.id)).await?;
        let listing = board::listing(output, &rows, self.args.kind(), &self.names, times::now_s(), None);
        print(output, &listing, &board::value(&rows, &self.names))?;
        for note in self.notes(&rows).await? {
            eprintln!("{note}");
        }
        Ok(())
    }

    /// What to know of what is missing.
    async fn notes(&self, rows: &[Row]) -> Result<Vec<String>, ClientError> {
        let is_complete = Column::ALL.iter().all(|column| rows.iter().any(|row| row.value(*column).is_some()));
        let specs = if is_complete { Vec::new() } else { specs::all(self.client).await? };
        Ok(board::missing(rows, self.args.kind(), &specs))
    }

    async fn live(&mut self) -> Result<()> {
        let mut timer = tokio::time::interval(self.args.interval);
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut trends = Trends::default();
        let mut notes = Vec::new();
        let screen = Screen::enter()?;
        for frame in 0u64.. {
            timer.tick().await;
            let lines = match Box::pin(self.frame(&mut trends, &mut notes, frame % FRAMES_PER_LOOK == 0)).await {
                Ok(lines) => lines,
                // The next frame is the retry.
                Err(error) if error.is_transient() => vec![format!("{error}; trying again")],
                Err(error) => {
                    drop(screen);
                    return Err(error.into());
                }
            };
            screen.show(&lines)?;
        }
        Ok(())
    }

    /// The lines of this moment.
    async fn frame(
        &mut self,
        trends: &mut Trends,
        notes: &mut Vec<String>,
        looks_up: bool,
    ) -> Result<Vec<String>, ClientError> {
        if let Some(samples) = &mut self.samples {
            samples.renew(self.client).await?;
        }
        let kind = self.args.kind();
        let rows = self.rows().await?;
        trends.add(&rows);
        // Also when something came or went missing, but not at every frame: it takes a list of all specifications.
        if looks_up {
            *notes = self.notes(&rows).await?;
        }
        let (_, height) = terminal::size().unwrap_or((80, 24));
        let shown = &rows[..rows.len().min(height.saturating_sub(3 + notes.len()))];
        self.names.look_up(self.client, shown.iter().map(|row| &row.id)).await?;
        let trend = |id: &str| trends.drawn(id);
        let listing = board::listing(Format::Table, shown, kind, &self.names, times::now_s(), Some(&trend));
        Ok(self.compose(rows.len(), &listing, notes))
    }

    fn compose(&self, total: usize, listing: &Listing, notes: &[String]) -> Vec<String> {
        let kind = match self.args.kind {
            Kind::Host => "hosts",
            Kind::Vm => "VMs",
        };
        let mut lines = vec![format!(
            "{total} {kind} at {}, {}, by {}, every {:?}; Ctrl-C ends",
            self.client.url(),
            times::utc(times::now_s()),
            format!("{:?}", self.args.sort).to_lowercase(),
            self.args.interval
        )];
        lines.push(String::new());
        lines.extend(table_lines(listing, None));
        if !notes.is_empty() && listing.rows.is_empty() && self.samples.is_some() {
            lines.push("asked for samples; waiting for the first".to_owned());
        } else {
            lines.extend(notes.iter().cloned());
        }
        lines
    }
}

/// CPU time of the last frames, by id.
#[derive(Debug, Default)]
struct Trends(BTreeMap<String, VecDeque<Option<f64>>>);

impl Trends {
    fn add(&mut self, rows: &[Row]) {
        // Who is not there any more is forgotten.
        let mut before = std::mem::take(&mut self.0);
        for row in rows {
            let mut trend = before.remove(&row.id.id_value).unwrap_or_default();
            if trend.len() == TREND_MAX {
                trend.pop_front();
            }
            trend.push_back(row.value(Column::Cpu));
            self.0.insert(row.id.id_value.clone(), trend);
        }
    }

    fn drawn(&self, id: &str) -> String {
        self.0.get(id).map(|trend| spark::draw(&trend.iter().copied().collect::<Vec<_>>())).unwrap_or_default()
    }
}

/// The specifications that --sample makes.
#[derive(Debug)]
struct Samples {
    ids: Vec<String>,
    /// When they were made, in seconds since 1970: a point from before is none of theirs.
    since_s: i64,
    /// For how long they are given, each time.
    lasting_s: i64,
    renew_at: Instant,
    create: Vec<CreateSpec>,
}

impl Samples {
    async fn create(client: &Client, kind: ResourceKind, interval: Duration) -> Result<Self> {
        let interval_s = i64::try_from(interval.as_secs()).unwrap_or(i64::MAX).max(1);
        let lasting_s = SAMPLE_FOR_S.max(interval_s.saturating_mul(4));
        let create = Column::ALL.map(|column| CreateSpec {
            counters: specs::of_counter(&column.cid(kind)),
            resources: vec![Resource::all(kind.name()).in_spec()],
            interval: Some(interval_s),
            expiration: None,
            memo_: Some("lockstep stats top".to_owned()),
        });
        let mut samples = Self {
            ids: Vec::new(),
            since_s: times::now_s(),
            lasting_s,
            renew_at: Instant::now(),
            create: create.to_vec(),
        };
        if let Err(error) = samples.ask(client).await {
            samples.delete(client).await;
            return Err(error.into());
        }
        Ok(samples)
    }

    /// Makes those that are not there yet.
    async fn ask(&mut self, client: &Client) -> Result<(), ClientError> {
        self.renew_at = Instant::now() + Duration::from_secs(self.lasting_s.unsigned_abs() / 2);
        let expiration = Some(times::now_s().saturating_add(self.lasting_s));
        for spec in &self.create[self.ids.len()..] {
            let acq_spec = CreateSpec { expiration, ..spec.clone() };
            self.ids.push(client.call(Create, CreateInput { acq_spec }).await?);
        }
        Ok(())
    }

    /// Gives them more time when half of it is over; those that somebody deleted are made anew.
    async fn renew(&mut self, client: &Client) -> Result<(), ClientError> {
        if Instant::now() < self.renew_at {
            return Ok(());
        }
        let expiration = Some(times::now_s().saturating_add(self.lasting_s));
        for (id, spec) in self.ids.iter_mut().zip(&self.create) {
            let update = UpdateSpec { counters: None, resources: None, interval: None, expiration, memo_: None };
            match client.call(Update, UpdateInput { id: id.clone(), acq_spec: update }).await {
                Ok(()) => {}
                Err(error) if error.kind() == Some(ErrorKind::NotFound) => {
                    let acq_spec = CreateSpec { expiration, ..spec.clone() };
                    *id = client.call(Create, CreateInput { acq_spec }).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.renew_at = Instant::now() + Duration::from_secs(self.lasting_s.unsigned_abs() / 2);
        Ok(())
    }

    /// Whether there is a point of every counter that is shown, from after they were made.
    fn have_come(&self, rows: &[Row]) -> bool {
        Column::ALL.iter().all(|column| rows.iter().any(|row| row.is_newer(*column, self.since_s)))
    }

    /// Deletes them. One that cannot be deleted expires soon.
    async fn delete(&self, client: &Client) {
        for id in &self.ids {
            match client.call(Delete, IdInput { id: id.clone() }).await {
                Err(error) if error.kind() != Some(ErrorKind::NotFound) => {
                    eprintln!(
                        "cannot delete specification {id}, which expires in {}: {error}",
                        times::span(self.lasting_s)
                    );
                }
                _ => {}
            }
        }
    }
}
