//! Points a second through the API, beside VictoriaMetrics' remote write.

use std::sync::Barrier;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::http::Client;
use crate::latency::Latencies;
use crate::process::Process;
use crate::report::{Report, show_bytes};
use crate::stats::load::{self, Load, Shape};
use crate::stats::site::Site;
use crate::stats::victoria::{self, Victoria};
use crate::stats::{Programs, median};

/// What the batches look like: those of an agent that was away for a moment, and of one that samples very much at once.
const SHAPES: [Shape; 2] = [
    Shape { name: "1,000 series x 10 points", hosts: 50, points: 10, step_s: 1 },
    Shape { name: "10,000 series x 1 point", hosts: 500, points: 1, step_s: 1 },
];

/// Points a second that the server must take, on two cores that make the points' requests too.
const RATE_MIN: f64 = 500_000.0;

/// How long who is told to come again waits.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Measure how many points a second the server takes, beside VictoriaMetrics.
///
/// Batches of 10,000 points, on some kept connections, each with series of its own; the requests are made beforehand. Every round starts
/// both anew on empty directories and sends them the same points. Exits with 1 when the target is missed.
#[derive(Args)]
pub struct IngestArgs {
    #[command(flatten)]
    programs: Programs,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Batches of each connection in a round, besides the first one, which makes the series known and is not timed.
    #[arg(long, default_value_t = 200)]
    batches: usize,
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// What one engine did in one round.
struct Run {
    points: u64,
    time: Duration,
    server_cpu: Duration,
    generator_cpu: Duration,
    resident: u64,
    /// Times of the batches.
    batches: Latencies,
    /// Batches that were told to come again.
    busy: u64,
}

impl Run {
    fn rate(&self) -> f64 {
        self.points as f64 / self.time.as_secs_f64()
    }

    /// Seconds of CPU time a million points.
    fn cpu_s(&self, cpu: Duration) -> f64 {
        cpu.as_secs_f64() * 1e6 / self.points as f64
    }
}

/// Requests of one connection: the first one makes the series known.
type Bodies = Vec<Vec<u8>>;

/// Runs the subcommand.
pub fn run(args: &IngestArgs) -> anyhow::Result<Report> {
    ensure!(args.connections > 0 && args.batches > 0 && args.rounds > 0, "nothing to measure");
    let mut report = Report::default();
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    for shape in SHAPES {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for round in 0..args.rounds {
            let (for_ours, for_theirs) = bodies(args, shape)?;
            let mut turns = [true, false];
            turns.rotate_left(round % 2);
            for is_ours in turns {
                match is_ours {
                    true => ours.push(run_ours(args, shape, &for_ours)?),
                    false => theirs.push(run_theirs(args, shape, &for_theirs)?),
                }
            }
        }
        let ratio = median(ours.iter().zip(&theirs).map(|(ours, theirs)| ours.rate() / theirs.rate()));
        rows.push(row(shape, "ours, durable", &ours, Some(ratio))?);
        rows.push(row(shape, "VictoriaMetrics", &theirs, None)?);
        figures.push(
            json!({"shape": shape.name, "ratio": ratio, "ours": figure(&ours), "victoria_metrics": figure(&theirs)}),
        );
        let rate = median(ours.iter().map(Run::rate));
        if rate < RATE_MIN {
            report.failures.push(format!("{}: {rate:.0} points/s, fewer than {RATE_MIN:.0}", shape.name));
        }
    }
    report.table(
        format!(
            "Points a second, {} connections, medians of {} rounds of {} batches of 10,000 points",
            args.connections,
            args.rounds,
            args.connections * args.batches
        ),
        &[
            "batch",
            "engine",
            "points/s",
            "least",
            "most",
            "ours / VM",
            "batch p50",
            "p99",
            "server CPU s/M",
            "generator CPU s/M",
            "resident",
            "busy",
        ],
        rows,
    );
    report.figure("ingest", json!(figures));
    Ok(report)
}

/// The same points for both engines, by connection.
fn bodies(args: &IngestArgs, shape: Shape) -> anyhow::Result<(Vec<Bodies>, Vec<Bodies>)> {
    let now_s = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let from_s = now_s - (args.batches as i64 + 1) * shape.batch_s();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for connection in 0..args.connections {
        let mut load = Load::new(shape, connection * shape.hosts, from_s);
        let (mut for_ours, mut for_theirs) = (Bodies::new(), Bodies::new());
        for _ in 0..=args.batches {
            let batch = load.batch();
            for_ours.push(load::write_body(&batch));
            for_theirs.push(victoria::write_body(&batch)?);
        }
        ours.push(for_ours);
        theirs.push(for_theirs);
    }
    Ok((ours, theirs))
}

fn run_ours(args: &IngestArgs, shape: Shape, bodies: &[Bodies]) -> anyhow::Result<Run> {
    let site = Site::start(&args.programs, "--no-sample-host")?;
    let clients = (0..args.connections).map(|_| site.connect()).collect::<anyhow::Result<Vec<_>>>()?;
    let run = send(shape, bodies, clients, site.process(), |client, body| {
        let (answer, time) = client.timed("POST", load::WRITE_PATH, body)?;
        match answer.status {
            200 => {
                let said: Value = serde_json::from_slice(&answer.body).context("read an answer")?;
                ensure!(said["stored"].as_u64() == Some(shape.batch_points() as u64), "not all was stored: {said}");
                Ok(Some(time))
            }
            503 => Ok(None),
            status => bail!("status {status}: {}", String::from_utf8_lossy(&answer.body)),
        }
    })?;
    site.stop()?;
    Ok(run)
}

fn run_theirs(args: &IngestArgs, shape: Shape, bodies: &[Bodies]) -> anyhow::Result<Run> {
    let victoria = Victoria::start(&args.programs)?;
    let clients = (0..args.connections).map(|_| victoria.connect()).collect::<anyhow::Result<Vec<_>>>()?;
    let run = send(shape, bodies, clients, victoria.process(), |client, body| {
        let (answer, time) = client.timed("POST", victoria::WRITE_PATH, body)?;
        ensure!(answer.status == 204, "status {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        Ok(Some(time))
    })?;
    victoria.flush()?;
    let stored = victoria.metric("vm_rows_added_to_storage_total")?;
    let sent = run.points + (args.connections * shape.batch_points()) as u64;
    // It counts some rows of its own besides.
    ensure!(stored >= sent as f64, "VictoriaMetrics stored {stored} of {sent} points");
    victoria.stop()?;
    Ok(run)
}

/// Sends the first request of each connection, then, with the clock running, all others.
fn send(
    shape: Shape,
    bodies: &[Bodies],
    mut clients: Vec<Client>,
    server: Process,
    write: impl Fn(&mut Client, &[u8]) -> anyhow::Result<Option<Duration>> + Sync,
) -> anyhow::Result<Run> {
    for (client, bodies) in clients.iter_mut().zip(bodies) {
        let first = bodies.first().context("no batch")?;
        while write(client, first)?.is_none() {
            std::thread::sleep(BUSY_PAUSE);
        }
    }
    let generator = Process::new(std::process::id());
    let (server_before, generator_before) = (server.cpu()?, generator.cpu()?);
    let start = Barrier::new(clients.len());
    let results: Vec<_> = std::thread::scope(|scope| {
        let senders: Vec<_> = clients
            .iter_mut()
            .zip(bodies)
            .map(|(client, bodies)| {
                let (start, write) = (&start, &write);
                scope.spawn(move || {
                    start.wait();
                    // By the sender's own clock: on busy cores whoever waits for it comes late.
                    let begin = Instant::now();
                    let sent = send_all(client, &bodies[1..], write)?;
                    anyhow::Ok((begin, Instant::now(), sent))
                })
            })
            .collect();
        senders.into_iter().map(|sender| sender.join()).collect()
    });
    let mut run = Run {
        points: 0,
        time: Duration::ZERO,
        server_cpu: server.cpu()? - server_before,
        generator_cpu: generator.cpu()? - generator_before,
        resident: server.memory()?.resident,
        batches: Latencies::default(),
        busy: 0,
    };
    let mut span: Option<(Instant, Instant)> = None;
    for result in results {
        let (begin, end, (batches, busy)) = result.map_err(|_| anyhow!("a sender panicked"))??;
        let (first, last) = span.unwrap_or((begin, end));
        span = Some((first.min(begin), last.max(end)));
        run.points += (batches.len() * shape.batch_points()) as u64;
        run.batches.extend(batches);
        run.busy += busy;
    }
    run.time = span.map(|(first, last)| last - first).unwrap_or_default();
    Ok(run)
}

fn send_all(
    client: &mut Client,
    bodies: &[Vec<u8>],
    write: &impl Fn(&mut Client, &[u8]) -> anyhow::Result<Option<Duration>>,
) -> anyhow::Result<(Latencies, u64)> {
    let (mut times, mut busy) = (Latencies::default(), 0);
    for body in bodies {
        loop {
            match write(client, body)? {
                Some(time) => break times.push(time),
                None => busy += 1,
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }
    Ok((times, busy))
}

fn row(shape: Shape, engine: &str, runs: &[Run], ratio: Option<f64>) -> anyhow::Result<Vec<String>> {
    let rates = || runs.iter().map(Run::rate);
    let mut batches = Latencies::default();
    runs.iter().for_each(|run| batches.extend(run.batches.clone()));
    let batches = batches.summary().context("no batch was sent")?;
    Ok(vec![
        shape.name.to_owned(),
        engine.to_owned(),
        format!("{:.0}", median(rates())),
        format!("{:.0}", rates().fold(f64::INFINITY, f64::min)),
        format!("{:.0}", rates().fold(0.0, f64::max)),
        ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
        crate::latency::show(batches.p50),
        crate::latency::show(batches.p99),
        format!("{:.2}", median(runs.iter().map(|run| run.cpu_s(run.server_cpu)))),
        format!("{:.2}", median(runs.iter().map(|run| run.cpu_s(run.generator_cpu)))),
        show_bytes(median(runs.iter().map(|run| run.resident as f64)) as u64),
        runs.iter().map(|run| run.busy).sum::<u64>().to_string(),
    ])
}

fn figure(runs: &[Run]) -> Value {
    json!({
        "points_per_s": runs.iter().map(Run::rate).collect::<Vec<_>>(),
        "server_cpu_s_per_million": runs.iter().map(|run| run.cpu_s(run.server_cpu)).collect::<Vec<_>>(),
        "generator_cpu_s_per_million": runs.iter().map(|run| run.cpu_s(run.generator_cpu)).collect::<Vec<_>>(),
        "resident": runs.iter().map(|run| run.resident).collect::<Vec<_>>(),
    })
}
