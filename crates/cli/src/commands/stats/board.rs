//! What `lockstep stats top` shows: a row for each host or VM, out of the newest points of the usual counters.

use std::collections::BTreeMap;

use lockstep_contract::counters::{CounterSet, ResourceKind};
use lockstep_contract::services::stats::acq_specs::{Info, Status};
use lockstep_contract::services::stats::series::Series;
use lockstep_contract::services::stats::{RsrcId, SCHEME};
use serde_json::{Value, json};

use super::names::Names;
use super::resources::own;
use super::units::Measure;
use crate::output::{Format, Listing};
use crate::times;

/// What is shown of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Cpu,
    Clock,
    Memory,
    Disk,
    Net,
}

impl Column {
    pub(crate) const ALL: [Self; 5] = [Self::Cpu, Self::Clock, Self::Memory, Self::Disk, Self::Net];

    /// The counter, which both kinds of resources have.
    pub(crate) fn cid(self, kind: ResourceKind) -> String {
        let metric = match self {
            Self::Cpu => "cpu.utilization.usage",
            Self::Clock => "cpu.capacity.usage",
            Self::Memory => "mem.capacity.usage",
            Self::Disk => "disk.throughput.usage",
            Self::Net => "net.throughput.usage",
        };
        format!("{metric}.{}", kind.name())
    }

    /// For people, with the unit.
    fn heading(self) -> &'static str {
        match self {
            Self::Cpu => "CPU %",
            Self::Clock => "MHz",
            Self::Memory => "mem MiB",
            Self::Disk => "disk KiB/s",
            Self::Net => "net KiB/s",
        }
    }

    /// For programs.
    fn field(self) -> &'static str {
        match self {
            Self::Cpu => "cpu_percent",
            Self::Clock => "cpu_mhz",
            Self::Memory => "mem_mib",
            Self::Disk => "disk_kib_s",
            Self::Net => "net_kib_s",
        }
    }
}

/// A resource with its newest values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) id: RsrcId,
    /// By the order of [`Column::ALL`]: when it was sampled, in seconds since 1970, and the value.
    points: [Option<(i64, f64)>; Column::ALL.len()],
}

impl Row {
    pub(crate) fn value(&self, column: Column) -> Option<f64> {
        self.points[column as usize].map(|(_, value)| value)
    }

    /// Whether there is a value from after `since_s`, in seconds since 1970.
    pub(crate) fn is_newer(&self, column: Column, since_s: i64) -> bool {
        self.points[column as usize].is_some_and(|(time_s, _)| time_s >= since_s)
    }

    /// When the newest value was sampled, in seconds since 1970.
    fn time_s(&self) -> i64 {
        self.points.iter().flatten().map(|(time_s, _)| *time_s).max().unwrap_or(0)
    }
}

/// The rows that the newest points make, the greatest by `sort` first; without that value last, and by id where they are equal.
pub(crate) fn rows(series: &[Series], kind: ResourceKind, sort: Column) -> Vec<Row> {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for one in series {
        let Some(column) = Column::ALL.into_iter().find(|column| column.cid(kind) == one.cid) else { continue };
        let (Some(id), Some(time), Some(value)) = (own(&one.cid, &one.resources), one.times.last(), one.values.last())
        else {
            continue;
        };
        if !value.is_finite() || id.resource_type.as_deref() != Some(kind.name()) {
            continue;
        }
        let empty = || Row { id: id.clone(), points: [None; Column::ALL.len()] };
        let point = &mut rows.entry(&id.id_value).or_insert_with(empty).points[column as usize];
        // A VM that moved has a series for each of its hosts: the newest one counts.
        if point.is_none_or(|(before, _)| before < *time) {
            *point = Some((*time, *value));
        }
    }
    let mut rows: Vec<Row> = rows.into_values().collect();
    let by = |row: &Row| row.value(sort).unwrap_or(f64::NEG_INFINITY);
    rows.sort_by(|a, b| by(b).total_cmp(&by(a)));
    rows
}

/// The rows as a table, or as CSV with plain names; `trends` are drawn where there are any, by id.
pub(crate) fn listing(
    output: Format,
    rows: &[Row],
    kind: ResourceKind,
    names: &Names,
    now_s: i64,
    trends: Option<&dyn Fn(&str) -> String>,
) -> Listing {
    if output == Format::Csv {
        let mut listing = Listing::new(["time", "id", "name"].into_iter().chain(Column::ALL.map(Column::field)));
        for row in rows {
            let about = [json!(times::utc(row.time_s())), json!(row.id.id_value), json!(names.get(&row.id))];
            listing.push(about.into_iter().chain(Column::ALL.map(|column| json!(row.value(column)))));
        }
        return listing;
    }
    let headings = Column::ALL.map(Column::heading);
    let at_right: Vec<&str> = headings.into_iter().chain(["age"]).collect();
    let columns = ["id", "name"].into_iter().chain(headings).chain(["age"]).chain(trends.map(|_| "CPU trend"));
    let mut listing = Listing::new(columns).at_right(&at_right);
    for row in rows {
        let numbers = Column::ALL.map(|column| {
            let measure = Measure::known(&column.cid(kind)).unwrap_or_else(Measure::unknown);
            json!(row.value(column).map_or_else(|| "-".to_owned(), |value| measure.number(value)))
        });
        let age = times::span(now_s.saturating_sub(row.time_s()));
        let about = [json!(row.id.id_value), json!(names.get(&row.id))].into_iter();
        let trend = trends.map(|trend| json!(trend(&row.id.id_value)));
        listing.push(about.chain(numbers).chain([json!(age)]).chain(trend));
    }
    listing
}

/// The rows for programs.
pub(crate) fn value(rows: &[Row], names: &Names) -> Value {
    let one = |row: &Row| {
        let mut one = json!({"id": row.id.id_value, "name": names.get(&row.id), "time": row.time_s()});
        for column in Column::ALL {
            one[column.field()] = json!(row.value(column));
        }
        one
    };
    rows.iter().map(one).collect()
}

/// What to know of the columns that have no value in any row: whether they are sampled, and how to have them sampled.
pub(crate) fn missing(rows: &[Row], kind: ResourceKind, specs: &[Info]) -> Vec<String> {
    let mut unasked = Vec::new();
    let mut notes = Vec::new();
    for column in Column::ALL {
        if rows.iter().any(|row| row.value(column).is_some()) {
            continue;
        }
        let cid = column.cid(kind);
        let of = |status: Status| specs.iter().find(|spec| spec.status == status && is_about(spec, &cid, kind));
        if let Some(spec) = of(Status::Enabled) {
            notes.push(format!("{cid}: specification {} asks for it, and no points have come lately", spec.id));
        } else if let Some(spec) = of(Status::Disabled) {
            notes.push(format!(
                "{cid}: specification {} asks for it and is DISABLED; `lockstep stats providers` shows who samples",
                spec.id
            ));
        } else {
            unasked.push(cid);
        }
    }
    if let Some(first) = unasked.first() {
        notes.push(format!("nothing samples {}; --sample does while this runs, or for longer:", unasked.join(", ")));
        notes.push(format!("  lockstep stats specs create --counter {first} --resource {}=ALL", kind.name()));
    }
    notes
}

/// Whether a specification samples a counter of any resource of the kind.
fn is_about(spec: &Info, cid: &str, kind: ResourceKind) -> bool {
    let counter = spec.counters.cid_mid.as_ref().is_some_and(|counter| counter.cid == cid);
    let set = spec.counters.set_id.as_deref().and_then(CounterSet::find);
    let is_of_kind = |id: &RsrcId| {
        let is_moid = id.scheme.as_deref().is_none_or(|scheme| matches!(scheme, "" | SCHEME));
        is_moid && id.resource_type.as_deref() == Some(kind.name())
    };
    (counter || set.is_some_and(|set| set.counters().any(|counter| counter.cid == cid)))
        && spec.resources.iter().any(is_of_kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::stats::query::tests::series;
    use crate::commands::stats::specs::tests::spec;
    use crate::output::table_lines;

    const VM: ResourceKind = ResourceKind::Vm;

    fn vm(column: Column, id: &str, host: &str, time: i64, value: f64) -> Series {
        series(&column.cid(VM), &[&format!("VM={id}"), &format!("HOST={host}")], &[(time, value)])
    }

    fn some() -> Vec<Series> {
        vec![
            vm(Column::Cpu, "a", "h", 90, 10.0),
            vm(Column::Memory, "a", "h", 95, 512.04),
            vm(Column::Cpu, "b", "h", 90, 99.5),
            vm(Column::Memory, "c", "h", 90, 4096.0),
        ]
    }

    fn order(series: &[Series], sort: Column) -> Vec<String> {
        rows(series, VM, sort).into_iter().map(|row| row.id.id_value).collect()
    }

    #[test]
    fn the_busiest_come_first_and_the_unknown_last() {
        assert_eq!(order(&some(), Column::Cpu), ["b", "a", "c"]);
        assert_eq!(order(&some(), Column::Memory), ["c", "a", "b"]);
        assert_eq!(order(&some(), Column::Net), ["a", "b", "c"]);
    }

    #[test]
    fn what_is_no_number_and_what_is_another_counter_make_no_row() {
        let mut other = vm(Column::Cpu, "z", "h", 1, 1.0);
        other.cid = "cpu.time.user.VM".to_owned();
        let nan = vm(Column::Cpu, "y", "h", 1, f64::NAN);
        let empty = series(&Column::Cpu.cid(VM), &["VM=x"], &[]);
        let host = series(&Column::Cpu.cid(VM), &["HOST=h"], &[(1, 1.0)]);
        assert_eq!(order(&[other, nan, empty, host], Column::Cpu), [""; 0]);
    }

    #[test]
    fn of_a_vm_that_moved_the_newest_point_counts() {
        let there = vm(Column::Cpu, "a", "new", 100, 70.0);
        for series in
            [[there.clone(), vm(Column::Cpu, "a", "old", 50, 5.0)], [vm(Column::Cpu, "a", "old", 50, 5.0), there]]
        {
            let rows = rows(&series, VM, Column::Cpu);
            assert_eq!((rows.len(), rows[0].value(Column::Cpu), rows[0].time_s()), (1, Some(70.0), 100));
        }
    }

    #[test]
    fn rows_are_a_table_and_csv_has_plain_names() {
        let rows = rows(&some(), VM, Column::Cpu);
        let names = Names::default();
        assert_eq!(
            table_lines(&listing(Format::Table, &rows, VM, &names, 100, None), None),
            [
                "id  name  CPU %  MHz  mem MiB  disk KiB/s  net KiB/s  age",
                "b         99.50    -        -           -          -  10s",
                "a         10.00    -    512.0           -          -   5s",
                "c             -    -   4096.0           -          -  10s",
            ]
        );
        let trend = |id: &str| id.repeat(3);
        let lines = table_lines(&listing(Format::Table, &rows, VM, &names, 100, Some(&trend)), None);
        assert!(lines[0].ends_with("CPU trend") && lines[1].ends_with("bbb"), "{lines:?}");
        let csv = listing(Format::Csv, &rows, VM, &names, 100, None);
        assert_eq!(csv.columns[3..], ["cpu_percent", "cpu_mhz", "mem_mib", "disk_kib_s", "net_kib_s"]);
        assert_eq!(json!(csv.rows[0]), json!(["1970-01-01T00:01:30Z", "b", null, 99.5, null, null, null, null]));
        assert_eq!(value(&rows, &names)[1]["mem_mib"], json!(512.04));
    }

    #[test]
    fn what_is_not_sampled_is_told_with_what_to_do() {
        let rows = rows(&some(), VM, Column::Cpu);
        let set = |id: &str| json!({ "set_id": id });
        let specs = [
            spec("1", &set("disk.VM"), "VM=ALL", Status::Enabled),
            spec("2", &set("net.VM"), "VM=a", Status::Disabled),
            spec("3", &json!({"cid_mid": {"cid": "cpu.capacity.usage.VM"}}), "VM=ALL", Status::Expired),
        ];
        assert_eq!(
            missing(&rows, VM, &specs),
            [
                "disk.throughput.usage.VM: specification 1 asks for it, and no points have come lately",
                "net.throughput.usage.VM: specification 2 asks for it and is DISABLED; `lockstep stats providers` shows who samples",
                "nothing samples cpu.capacity.usage.VM; --sample does while this runs, or for longer:",
                "  lockstep stats specs create --counter cpu.capacity.usage.VM --resource VM=ALL",
            ]
        );
        assert!(
            missing(&[], ResourceKind::Host, &[]).concat().contains("nothing samples cpu.utilization.usage.HOST, cpu")
        );
    }

    #[test]
    fn every_column_is_in_the_catalogue() {
        for (kind, column) in ResourceKind::ALL.into_iter().flat_map(|kind| Column::ALL.map(|column| (kind, column))) {
            let unit = Measure::known(&column.cid(kind)).unwrap().unit;
            assert!(column.heading().ends_with(&unit), "{column:?}");
        }
    }
}
