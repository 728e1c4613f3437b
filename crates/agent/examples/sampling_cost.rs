//! What a tick of sampling costs on this machine: all counters of the host, and all of so many VMs.
//!
//! `cargo run --release -p lockstep-agent --example sampling_cost -- [VMS]` starts so many QEMU processes (50 unless it is said
//! otherwise; none where there is no QEMU), whose guests stand still, and ends them again.

use std::error::Error;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lockstep_agent::sample::{Now, Sampler, Worker};
use lockstep_contract::counters::CounterSet;
use lockstep_contract::services::stats::acq_specs::{CounterSpec, Status};
use lockstep_contract::services::stats::cache::AcqSpec;
use lockstep_contract::services::stats::{Predicate, RsrcId};
use prost::Message as _;

const TICKS: u32 = 20;

/// The QEMU processes, ended when they are dropped.
struct Machines(Vec<Child>);

impl Drop for Machines {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let wanted: usize = std::env::args().nth(1).map_or(Ok(50), |text| text.parse())?;
    let directory = tempfile::tempdir()?;
    let mut machines = Machines(Vec::new());
    for number in 0..wanted {
        let child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg", "-display", "none", "-nodefaults", "-S", "-m", "16", "-smp", "2"])
            .args(["-name", &format!("guest=vm{number},debug-threads=on")])
            .args(["-qmp", &format!("unix:{number}.sock,server=on,wait=off")])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .spawn();
        match child {
            Ok(child) => machines.0.push(child),
            Err(error) => {
                println!("no VMs: QEMU cannot be started: {error}");
                break;
            }
        }
    }
    let started = Instant::now();
    let mut sampler = Sampler::new();
    while sampler.vm_ids().len() < machines.0.len() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(100));
    }
    // Until their monitors answer.
    std::thread::sleep(Duration::from_secs(3));

    for set in CounterSet::all() {
        measure(&set.id(), &[set])?;
    }
    measure("everything", &CounterSet::all())
}

/// Samples some sets a few times and prints the mean.
fn measure(what: &str, sets: &[CounterSet]) -> Result<(), Box<dyn Error>> {
    let specs: Vec<AcqSpec> = sets.iter().map(|set| spec(*set)).collect();
    let mut worker = Worker::new(Sampler::new());
    let moment =
        |time_s: u32| Now { wall_ms: i64::from(time_s) * 1000, monotonic: Duration::from_secs(u64::from(time_s)) };
    worker.set(&specs, moment(1000));
    let (mut cpu, mut wall, mut points, mut bytes) = (Duration::ZERO, Duration::ZERO, 0, 0);
    for tick in 1..=TICKS {
        std::thread::sleep(Duration::from_millis(200));
        let start = (cpu_time()?, Instant::now());
        let pass = worker.pass(moment(1000 + tick));
        cpu += cpu_time()? - start.0;
        wall += start.1.elapsed();
        points = pass.batch.series.len();
        bytes = pass.batch.encoded_len();
    }
    let ms = |time: Duration| time.as_secs_f64() * 1000.0 / f64::from(TICKS);
    println!("{what}: {points} points, {:.2} ms of CPU and {:.2} ms in all a tick, {bytes} bytes", ms(cpu), ms(wall));
    Ok(())
}

/// CPU time of this thread.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let text = fs::read_to_string("/proc/thread-self/schedstat")?;
    let ns = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(Duration::from_nanos(ns))
}

fn spec(set: CounterSet) -> AcqSpec {
    AcqSpec {
        endpoints: Vec::new(),
        counters: CounterSpec { cid_mid: None, set_id: Some(set.id()) },
        resources: vec![RsrcId {
            key: None,
            resource_type: Some(set.kind.name().to_owned()),
            id_value: String::new(),
            predicate: Some(Predicate::All),
            scheme: None,
        }],
        interval: 1,
        expiration: i64::MAX,
        memo_: String::new(),
        id: set.id(),
        status_reason: String::new(),
        status: Status::Enabled,
    }
}
