//! What the service shows to Prometheus: the newest value of every series, and its own figures.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use lockstep_contract::counters::{Counter, ResourceKind};
use lockstep_series::Point;

use crate::Stats;
use crate::addresses::{Address, Rid};
use crate::remote::Trouble;

/// A value older than this is not shown: its series has ended.
const SHOWN_S: i64 = 300;

/// Most values shown at a time; what is left out is counted. A scrape of as many takes some 5 MiB.
const VALUES_MAX: usize = 20_000;

/// The name under which a metric goes to Prometheus and what speaks like it.
pub(crate) fn metric_name(counter: &Counter) -> String {
    format!("lockstep_{}", counter.metric.replace('.', "_"))
}

/// The labels of a series, in the order of their names.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// What a series is called outside.
pub(crate) fn labels(counter: &Counter, rid: Rid, address: &Address) -> Labels {
    let mut labels = vec![("cid", counter.cid.to_owned())];
    labels.extend(address.id_of(ResourceKind::Host).map(|id| ("host", id.to_owned())));
    labels.push(("mid", counter.mid().to_string()));
    labels.push(("rid", rid.to_string()));
    labels.push(("type", counter.kind.name().to_owned()));
    labels.extend(address.id_of(ResourceKind::Vm).map(|id| ("vm", id.to_owned())));
    labels
}

/// A label's value as text in quotes.
pub(crate) fn write_label(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

impl Stats {
    /// Appends the newest values and the service's figures in the text form of OpenMetrics.
    pub fn write_metrics(&self, out: &mut String) {
        let now_s = self.now_s();
        // Families are written whole: those of hosts and machines are one.
        let mut families: BTreeMap<String, Vec<(Labels, Point)>> = BTreeMap::new();
        let (mut shown, mut left_out) = (0usize, 0u64);
        for one in self.index.select(|_| true, None) {
            let Ok(Some(point)) = self.store.latest(one.key()) else { continue };
            let Some(address) = self.addresses.get(one.rid) else { continue };
            if point.time_s + SHOWN_S < now_s {
                continue;
            }
            if shown == VALUES_MAX {
                left_out += 1;
                continue;
            }
            shown += 1;
            let labels = labels(one.counter, one.rid, &address);
            families.entry(metric_name(one.counter)).or_default().push((labels, point));
        }
        for (name, values) in families {
            let _ = writeln!(out, "# TYPE {name} gauge");
            for (labels, point) in values {
                let _ = write!(out, "{name}{{");
                for (i, (label, value)) in labels.iter().enumerate() {
                    let _ = write!(out, "{}{label}=\"", if i > 0 { "," } else { "" });
                    write_label(out, value);
                    out.push('"');
                }
                let _ = writeln!(out, "}} {} {}", point.value, point.time_s);
            }
        }
        let figures = self.store.stats();
        let mut gauge = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# TYPE {name} gauge\n# HELP {name} {help}\n{name} {value}");
        };
        gauge("lockstep_stats_series", "Series that are kept", figures.series as u64);
        gauge(
            "lockstep_stats_points_kept",
            "Points that are kept as they were sampled",
            figures.raw_points + figures.head_points as u64,
        );
        gauge("lockstep_stats_raw_bytes", "Bytes on disk of sealed points", figures.raw_bytes);
        gauge("lockstep_stats_log_bytes", "Bytes on disk of the write-ahead log", figures.log_bytes);
        gauge("lockstep_stats_providers_present", "Providers that were heard lately", self.presence.count());
        gauge("lockstep_stats_values_left_out", "Newest values that are not shown here", left_out);
        if self.config.store.keep_for_forwarding {
            gauge(
                "lockstep_stats_points_waiting",
                "Points that wait to be sent to the store outside",
                self.store.forward_lag().points,
            );
        }
        let status = self.write_status();
        if let Some(status) = &status {
            gauge(
                "lockstep_stats_remote_write_lag_seconds",
                "Age of the oldest point that is being sent to the store outside",
                status.lag_s,
            );
            gauge(
                "lockstep_stats_remote_write_last_success_timestamp_seconds",
                "When the store outside took points last; 0 when it has not since the server was started",
                status.last_success_s.unwrap_or(0).unsigned_abs(),
            );
        }
        let mut counter = |name: &str, help: &str, value: u64| {
            let _ = writeln!(out, "# TYPE {name} counter\n# HELP {name} {help}\n{name}_total {value}");
        };
        counter("lockstep_stats_points_stored", "Points stored since the server was started", figures.points_stored);
        counter(
            "lockstep_stats_points_refused",
            "Points refused since the server was started, too old or of the future",
            figures.points_too_old + figures.points_too_new,
        );
        if let Some(status) = &status {
            counter("lockstep_stats_remote_write_sent", "Points that the store outside has taken", status.sent);
            counter(
                "lockstep_stats_remote_write_refused",
                "Points that the store outside refused for good",
                status.refused,
            );
            counter(
                "lockstep_stats_remote_write_unnamed",
                "Points that were not sent, their counter or address being unknown",
                status.unnamed,
            );
            counter(
                "lockstep_stats_remote_write_requests",
                "Requests that the store outside has taken",
                status.requests,
            );
            counter("lockstep_stats_remote_write_failures", "Requests that came to nothing", status.failures);
            counter(
                "lockstep_stats_remote_write_dropped",
                "Points that waited too long for the store outside, since the series store was made",
                status.dropped,
            );
            let name = "lockstep_stats_remote_write_failing";
            let _ = writeln!(
                out,
                "# TYPE {name} gauge\n# HELP {name} What hinders sending to the store outside: 1 at the reason"
            );
            for trouble in Trouble::ALL {
                let is_it = u8::from(status.failing == Some(trouble));
                let _ = writeln!(out, "{name}{{reason=\"{}\"}} {is_it}", trouble.name());
            }
        }
    }
}
