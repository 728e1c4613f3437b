//! What the server counts, in the text form of OpenMetrics.

use std::time::Duration;

use lockstep_contract::{Error, ErrorKind, Operation};
use lockstep_site::table::Table;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::server::Server;

/// The content type of the text.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The last line of the text.
const END: &str = "# EOF\n";

/// Upper bounds of the classes of latency, in seconds.
const LATENCY_BOUNDS_S: [f64; 15] =
    [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `service.name`, or what else was asked for.
    operation: String,
    /// The kind of the error; empty when there was none.
    error: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    operation: String,
}

/// The handles of one operation, looked up once: a request touches atomics only.
struct OfOperation {
    name: String,
    succeeded: Counter,
    latency: Histogram,
}

/// All that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    /// By the operation's index in the table.
    operations: Vec<OfOperation>,
    gauges: Gauges,
}

#[derive(Default)]
struct Gauges {
    connections: Gauge,
    in_flight: Gauge,
    parked: Gauge,
    body_bytes: Gauge,
    sessions: Gauge,
    position: Gauge,
    journal_position: Gauge,
    memory: Gauge,
}

impl Metrics {
    /// Counters at zero for every operation of the table.
    pub fn new(table: &Table) -> Self {
        let mut registry = Registry::with_prefix("lockstep");
        let requests = Family::<Outcome, Counter>::default();
        let latency = Family::<Asked, Histogram>::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS_S));
        registry.register(
            "requests",
            "Requests by operation and kind of error, which is empty for success",
            requests.clone(),
        );
        registry.register_with_unit(
            "request_duration",
            "From a request's head to its answer's",
            Unit::Seconds,
            latency.clone(),
        );
        let gauges = Gauges::default();
        for (name, help, gauge) in [
            ("connections", "Open connections", &gauges.connections),
            ("requests_in_flight", "Requests being worked on", &gauges.in_flight),
            ("readers_parked", "Requests that wait for something to tell, and event streams", &gauges.parked),
            ("request_body_bytes", "Bytes of request bodies that are held", &gauges.body_bytes),
            ("sessions", "Sessions that have not ended", &gauges.sessions),
            ("view_position", "The position that reads are answered at", &gauges.position),
            ("journal_position", "The position of the last commit", &gauges.journal_position),
            ("resident_memory_bytes", "Memory of the process, as the operating system sees it", &gauges.memory),
        ] {
            registry.register(name, help, gauge.clone());
        }
        let of = |operation: &Operation| {
            let name = operation.full_name();
            let outcome = Outcome { operation: name.clone(), error: "" };
            let asked = Asked { operation: name.clone() };
            OfOperation {
                succeeded: requests.get_or_create_owned(&outcome),
                latency: latency.get_or_create_owned(&asked),
                name,
            }
        };
        let operations = table.entries().iter().map(|entry| of(entry.operation)).collect();
        Self { registry, requests, operations, gauges }
    }

    /// The full name of the operation with that index in the table.
    pub fn name(&self, operation: usize) -> &str {
        self.operations.get(operation).map_or("", |of| &of.name)
    }

    /// Counts a request to an operation of the table.
    pub fn operation(&self, index: usize, error: Option<&Error>, took: Duration) {
        let Some(of) = self.operations.get(index) else { return };
        of.latency.observe(took.as_secs_f64());
        match error {
            None => _ = of.succeeded.inc(),
            Some(error) => self.other(&of.name, Some(error.kind)),
        }
    }

    /// Counts a request to something else, by a name that the server gives it.
    pub fn other(&self, name: &str, error: Option<ErrorKind>) {
        let outcome = Outcome { operation: name.to_owned(), error: error.map_or("", ErrorKind::name) };
        self.requests.get_or_create(&outcome).inc();
    }

    /// The text, with gauges as they are at this moment.
    pub fn render(&self, server: &Server) -> String {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let gauges = &self.gauges;
        gauges.connections.set(signed(server.connections.used()));
        gauges.in_flight.set(signed(server.in_flight.used()));
        gauges.parked.set(signed(server.parked.used()));
        gauges.body_bytes.set(signed(server.body_bytes.used()));
        gauges.sessions.set(signed(server.site.sessions.sweep() as u64));
        gauges.position.set(signed(server.site.position().0));
        gauges.journal_position.set(signed(server.site.journal().head().0));
        gauges.memory.set(signed(resident_bytes().unwrap_or_default()));
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        if let Some(more) = &server.more_metrics {
            // The mark of the end stays at the end.
            out.truncate(out.len() - out.strip_suffix(END).map_or(0, |_| END.len()));
            (more.0)(&mut out);
            out.push_str(END);
        }
        out
    }
}

/// The process's resident memory.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
