//! The demo's samples: this machine's real ones are asked for, and made-up ones for some of the generated machines.
//!
//! The made-up points come from a provider whose id and description say `generated`, and are of resources whose ids begin with `demo-`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lockstep_contract::counters::counter;
use lockstep_contract::points::{Batch, Identifier, Series};
use lockstep_contract::services::stats::acq_specs::{CounterSpec, Create, CreateInput, CreateSpec};
use lockstep_contract::services::stats::agents::{Register, RegisterInput};
use lockstep_contract::services::stats::{Predicate, RsrcId};
use lockstep_model::{ResourceId, Value};
use lockstep_site::Site;
use lockstep_stats::Stats;
use prost::Message as _;

use crate::in_process::InProcess;

use super::inventory::{Inventory, mix};

/// The provider of what is made up.
const GENERATED: &str = "demo-generated";

/// Generated machines that get points.
const MACHINES: usize = 200;

/// Seconds between made-up points.
const INTERVAL_S: u64 = 5;

/// Seconds between samples of this machine.
const HOST_INTERVAL_S: i64 = 2;

/// How long the demo's specifications last: a week.
const LIFE_S: i64 = 7 * 24 * 3600;

/// What the demo shows: the columns of `lockstep stats top`.
const COUNTERS: [&str; 5] = [
    "cpu.capacity.usage.VM",
    "cpu.utilization.usage.VM",
    "mem.capacity.usage.VM",
    "disk.throughput.usage.VM",
    "net.throughput.usage.VM",
];

/// Asks for samples of this machine and its virtual machines, and makes points up for generated ones; ends never.
pub async fn keep_sampling(call: InProcess, stats: Arc<Stats>, inventory: Inventory) {
    for group in ["cpu", "mem", "disk", "net", "sys"] {
        for kind in ["HOST", "VM"] {
            ask(&call, &format!("{group}.{kind}"), kind).await;
        }
    }
    let counters = COUNTERS.iter().map(|cid| (*cid).to_owned()).collect();
    let register =
        RegisterInput { host: GENERATED.to_owned(), metadata: "generated: made-up points".to_owned(), counters };
    let mut timer = tokio::time::interval(Duration::from_secs(INTERVAL_S));
    loop {
        timer.tick().await;
        let batch = generate(&call.site, &inventory);
        let written = match call.call(Register, &register).await {
            Ok(_) => stats.write_points(Some(GENERATED), batch.encode_to_vec().into()).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = written {
            tracing::warn!(%error, "the demo's points could not be stored");
        }
    }
}

/// Asks for all counters of a set of every resource of a type.
async fn ask(call: &InProcess, set: &str, kind: &str) {
    let every = RsrcId {
        key: None,
        resource_type: Some(kind.to_owned()),
        id_value: String::new(),
        predicate: Some(Predicate::All),
        scheme: None,
    };
    let acq_spec = CreateSpec {
        counters: CounterSpec { cid_mid: None, set_id: Some(set.to_owned()) },
        resources: vec![every],
        interval: Some(HOST_INTERVAL_S),
        expiration: Some(now_s() + LIFE_S),
        memo_: Some("made by the demo".to_owned()),
    };
    if let Err(error) = call.call(Create, &CreateInput { acq_spec }).await {
        tracing::warn!(%error, set, "the demo's samples could not be asked for");
    }
}

fn now_s() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// A point of each counter for each of the first generated machines, that moves with what the inventory says of it.
fn generate(site: &Site, inventory: &Inventory) -> Batch {
    let time_s = now_s() / INTERVAL_S as i64 * INTERVAL_S as i64;
    let view = site.view();
    let mut batch = Batch::default();
    for number in 0..inventory.vms.min(MACHINES) {
        let Some(stored) = view.get(&ResourceId::new("VirtualMachine", inventory.vm_id(number))) else { continue };
        let Some(Value::Id(host)) = stored.document.get("host") else { continue };
        let long = |path: &str| match stored.document.get(path) {
            Some(Value::Long(number)) => *number as f64,
            _ => 0.0,
        };
        let is_on = stored.document.get("power_state").and_then(Value::as_str) == Some("POWERED_ON");
        let mhz = if is_on { long("stats/cpu_usage_MHz") } else { 0.0 };
        let load = (mhz / (long("cpu_count").max(1.0) * 2400.0)).min(1.0);
        let noise = (mix(number ^ time_s as usize) % 1000) as f64 / 1000.0;
        let values = [mhz, load * 100.0, long("stats/memory_usage_MiB"), load * 4096.0 * noise, load * 900.0 * noise];
        let address = vec![
            Identifier { r#type: "VM".to_owned(), id: inventory.vm_id(number) },
            Identifier { r#type: "HOST".to_owned(), id: host.id.to_string() },
        ];
        for (cid, value) in COUNTERS.iter().zip(values) {
            let value = counter(cid).map_or(value, |counter| counter.round(value));
            let (times, values) = (Series::deltas([time_s]), vec![value]);
            batch.series.push(Series { cid: (*cid).to_owned(), address: address.clone(), times, values });
        }
    }
    batch
}
