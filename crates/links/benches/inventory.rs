//! The first copy of an inventory between two processes, how long a change takes to come over, and what a delta costs.
//!
//! ```text
//! cargo bench -p lockstep-links --bench inventory -- [--resources N]
//! ```
//!
//! The source is a process of its own behind the real server on loopback. Prints resources a second and the CPU time of both
//! processes; the time from the acknowledged commit there to its being visible here, by the long poll; and the time and CPU of a delta of
//! ten, by the size of the site.

#[path = "../tests/it/pair.rs"]
mod pair;

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_contract::Secret;
use lockstep_model::ResourceId;
use pair::{DOMAIN, Target};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Changes whose way is timed.
const CHANGES: usize = 200;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().position(|a| a == name).and_then(|at| args.get(at + 1)).cloned();
    let resources = flag("--resources").map(|n| n.parse()).transpose()?.unwrap_or(100_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    if args.iter().any(|a| a == "--source") {
        return runtime.block_on(source(resources));
    }
    for count in [100, resources] {
        runtime.block_on(measure(count))?;
    }
    Ok(())
}

/// The other process: says where it is, then renames so many machines for each number that it reads.
async fn source(resources: usize) -> Result<()> {
    let pair = pair::Source::start().await;
    pair::fill(&pair.site, resources).await;
    println!("http://{} {}", pair.address, pair.token.0);
    let mut at = 0;
    for line in std::io::stdin().lock().lines() {
        let count: usize = line?.trim().parse()?;
        for _ in 0..count {
            at += 1;
            let id = ResourceId::new("VirtualMachine", format!("vm-{:06}", at % resources));
            let name = [("name".to_owned(), format!("\"new-{at}\""))];
            pair.site.patch_resource("bench".into(), id, &name, None).await?;
        }
        println!("{at}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// A running source.
struct Other {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Other {
    fn start(resources: usize) -> Result<(Self, String, Secret)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--source", "--resources", &resources.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else { return Err("no pipes".into()) };
        let mut other = Self { child, input, output: BufReader::new(output) };
        let line = other.line()?;
        let (url, token) = line.split_once(' ').ok_or("the source says something else")?;
        let (url, token) = (url.to_owned(), Secret(token.to_owned()));
        Ok((other, url, token))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_owned())
    }

    /// Renames so many machines; the number of the last, once it is committed.
    fn rename(&mut self, count: usize) -> Result<usize> {
        writeln!(self.input, "{count}")?;
        self.input.flush()?;
        Ok(self.line()?.parse()?)
    }

    fn cpu(&self) -> Result<Duration> {
        cpu(&self.child.id().to_string())
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CPU time of a process: Linux counts it in hundredths of a second.
fn cpu(process: &str) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
    Ok(Duration::from_millis((ticks(11) + ticks(12)) * 10))
}

async fn measure(resources: usize) -> Result<()> {
    println!("{resources} resources");
    let (mut other, url, token) = Other::start(resources)?;
    let target = Arc::new(Target::open_new(url, token).await);
    let (began, here, there) = (Instant::now(), cpu("self")?, other.cpu()?);
    target.sync().await?;
    let took = began.elapsed();
    let copies = target.site().view().linked_count("VirtualMachine");
    println!(
        "  first copy: {copies} in {:.2} s, {:.0}/s; CPU {:.2} s here, {:.2} s there",
        took.as_secs_f64(),
        copies as f64 / took.as_secs_f64(),
        (cpu("self")? - here).as_secs_f64(),
        (other.cpu()? - there).as_secs_f64(),
    );
    let mut deltas = Vec::new();
    let (here, there) = (cpu("self")?, other.cpu()?);
    for _ in 0..20 {
        other.rename(10)?;
        let began = Instant::now();
        target.sync().await?;
        deltas.push(began.elapsed());
    }
    deltas.sort();
    println!(
        "  delta of 10: median {:.2} ms; CPU of twenty {:.2} s here, {:.2} s there (their commits included)",
        deltas[deltas.len() / 2].as_secs_f64() * 1e3,
        (cpu("self")? - here).as_secs_f64(),
        (other.cpu()? - there).as_secs_f64(),
    );
    // As the runner does it: wait, sync, wait.
    let following = target.clone();
    let follower = tokio::spawn(async move {
        loop {
            let outcome = match following.changed().await {
                Ok(()) => following.sync().await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                return error.to_string();
            }
        }
    });
    let mut ways = Vec::new();
    for _ in 0..CHANGES {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let (moved, back) =
            tokio::task::spawn_blocking(move || (other.rename(1).map_err(|e| e.to_string()), other)).await?;
        other = back;
        let at = moved?;
        let began = Instant::now();
        let id = ResourceId::new("VirtualMachine", format!("{DOMAIN}~vm-{:06}", at % resources));
        let name = format!("\"new-{at}\"");
        while !target.json(&id).is_some_and(|json| json.contains(&name)) {
            if began.elapsed() > Duration::from_secs(10) {
                return Err(format!("it does not come; the follower: {}", follower.is_finished()).into());
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        ways.push(began.elapsed());
    }
    follower.abort();
    ways.sort();
    let at = |share: f64| ways[((ways.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "  from there to here: median {:.1} ms, 99th percentile {:.1} ms, most {:.1} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    target.site().close();
    Ok(())
}
