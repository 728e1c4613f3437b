//! `lockstep stats query`: samples, a line a series or a line a point.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use lockstep_contract::services::stats::series::{FilterSpec, Query, QueryInput, Resolution, Series, SeriesResult};
use serde_json::{Value, json};

use super::known::Known;
use super::names::Names;
use super::resources::{Resource, conditions, own, shown, shown_all};
use super::units::{Measure, measures};
use crate::commands::Context;
use crate::failure::Usage;
use crate::output::{Format, Listing, print, table_lines};
use crate::spark::Axis;
use crate::{json, progress, terminal, times};

/// How far back it goes when nothing else is said, in seconds.
const SINCE_DEFAULT_S: i64 = 3600;

/// Columns of a chart where there is no terminal to measure.
const CHART_DEFAULT: usize = 40;

/// Columns that a chart has however narrow the terminal is.
const CHART_MIN: usize = 6;

/// Which samples, and how to show them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep stats query cpu.utilization.usage.HOST\n  \
    lockstep stats query mem.capacity.usage.VM disk.throughput.usage.VM --resource VM=vm-12 --since 10m\n  \
    lockstep stats query --metric cpu.capacity.usage --resource HOST=host-1 --resolution 5m --since 1d\n  \
    lockstep stats query cpu.time.user.HOST --from 2026-11-26T10:00:00Z --to 2026-11-26T11:00:00Z --points\n  \
    lockstep stats query net.throughput.usage.HOST --output csv > net.csv    (time,cid,resource,value)")]
pub struct QueryArgs {
    /// The counters, as `lockstep stats counters` lists them
    #[arg(value_name = "CID", value_parser = Known::Counters, hide_possible_values = true)]
    cids: Vec<String>,
    /// The counters of this metric
    #[arg(long, value_name = "METRIC", value_parser = Known::Metrics, hide_possible_values = true)]
    metric: Option<String>,
    /// Only of resources of this type: HOST or VM; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = Known::Types, hide_possible_values = true)]
    types: Vec<String>,
    /// Only of this resource: several of one type widen, those of other types narrow
    #[arg(long = "resource", value_name = "TYPE=ID")]
    resources: Vec<Resource>,
    /// From so long ago on [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = times::seconds, conflicts_with = "from")]
    since: Option<i64>,
    /// From this time on, e.g. 2026-11-26T10:00:00Z
    #[arg(long, value_name = "TIME", value_parser = times::instant)]
    from: Option<i64>,
    /// Before this time [default: to the newest]
    #[arg(long, value_name = "TIME", value_parser = times::instant)]
    to: Option<i64>,
    /// How fine [default: as fine as what is kept from then on]
    #[arg(long, value_enum, value_name = "HOW")]
    resolution: Option<Fineness>,
    /// Every point
    #[arg(long)]
    points: bool,
}

/// A resolution, as it is typed.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Fineness {
    /// As they were sampled
    #[value(name = "raw")]
    Raw,
    /// Means of five minutes
    #[value(name = "5m")]
    FiveMinutes,
    /// Means of an hour
    #[value(name = "1h")]
    Hour,
}

impl QueryArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let filter = self.filter(times::now_s())?;
        let result = context.client.call(Query, QueryInput { filter }).await?;
        let value = json::value(&result);
        let listing = match context.output {
            Format::Json | Format::Yaml => Listing::default(),
            Format::Csv => points(&result, None),
            Format::Table => {
                let measures = measures(&context.client, result.series.iter().map(|s| &*s.cid)).await?;
                if self.points {
                    points(&result, Some(&measures))
                } else {
                    let mut names = Names::default();
                    let own = result.series.iter().filter_map(|series| own(&series.cid, &series.resources));
                    names.look_up(&context.client, own).await?;
                    summary(&result, &measures, &names, terminal::size().map(|(columns, _)| columns))
                }
            }
        };
        print(context.output, &listing, &value)?;
        if context.output == Format::Table {
            eprintln!("{}", footer(&result));
        }
        Ok(())
    }

    fn filter(&self, now_s: i64) -> Result<FilterSpec> {
        if self.cids.is_empty() && self.metric.is_none() && self.resources.is_empty() && self.types.is_empty() {
            return Err(Usage(
                "which series? Give counters (`lockstep stats counters`), --metric, --type or --resource".to_owned(),
            )
            .into());
        }
        let since_s = self.since.unwrap_or(SINCE_DEFAULT_S);
        let start = self.from.unwrap_or_else(|| self.to.unwrap_or(now_s).saturating_sub(since_s));
        if self.to.is_some_and(|end| end <= start) {
            return Err(Usage("--to is not behind --from".to_owned()).into());
        }
        let (types, resources) = conditions(&self.resources, &self.types);
        Ok(FilterSpec {
            start: Some(start),
            end: self.to,
            cids: (!self.cids.is_empty()).then(|| self.cids.clone()),
            metric: self.metric.clone(),
            types,
            resources,
            resolution: self.resolution.map(|fineness| match fineness {
                Fineness::Raw => Resolution::Raw,
                Fineness::FiveMinutes => Resolution::FiveMinutes,
                Fineness::Hour => Resolution::Hour,
            }),
            latest: None,
        })
    }
}

/// A row for each series, with a chart as wide as the terminal has room for. Names are left out where there are none, and where they
/// would leave no room.
fn summary(
    result: &SeriesResult,
    measures: &BTreeMap<String, Measure>,
    names: &Names,
    columns: Option<usize>,
) -> Listing {
    let ambiguous = ambiguous(&result.series);
    let all: Vec<&Series> = result.series.iter().filter(|series| !series.values.is_empty()).collect();
    let bare = |has_names: bool| {
        let name = has_names.then_some("name");
        let headings = ["counter", "resource"].into_iter().chain(name).chain(["min", "mean", "max", "last", "units"]);
        let mut bare = Listing::new(headings).at_right(&["min", "mean", "max", "last"]).whole(&["resource", "chart"]);
        for series in &all {
            let measure = measures.get(&series.cid).cloned().unwrap_or_else(Measure::unknown);
            let Extent { min, mean, max, last } = Extent::of(series);
            let numbers = [min, mean, max, last].map(|value| json!(value.map(|value| measure.number(value))));
            let id = own(&series.cid, &series.resources);
            let resource = match id {
                Some(id) if !ambiguous.contains(&(&*series.cid, &*id.id_value)) => shown(id),
                _ => shown_all(&series.resources),
            };
            let name = has_names.then(|| json!(id.and_then(|id| names.get(id))));
            let about = [json!(series.cid), json!(resource)].into_iter().chain(name);
            bare.push(about.chain(numbers).chain([json!(measure.unit)]));
        }
        bare
    };
    let has_names = all.iter().any(|s| own(&s.cid, &s.resources).is_some_and(|id| names.get(id).is_some()));
    let mut listing = bare(has_names);
    let mut chart = CHART_DEFAULT;
    if let Some(columns) = columns {
        let is_tight = |listing: &Listing| room(listing, columns) < CHART_MIN;
        if has_names && is_tight(&listing) {
            listing = bare(false);
        }
        chart = room(&listing, columns).max(CHART_MIN);
    }
    let axis = Axis::new(all.iter().map(|series| &*series.times), chart);
    listing.columns.push("chart".to_owned());
    for (row, series) in listing.rows.iter_mut().zip(&all) {
        row.push(json!(axis.map(|axis| axis.line(&series.times, &series.values))));
    }
    listing
}

/// What these columns leave of a terminal for one more.
fn room(listing: &Listing, columns: usize) -> usize {
    let taken = table_lines(listing, None).iter().map(|line| line.chars().count()).max().unwrap_or(0);
    // A table pads each of its columns with one on both sides.
    columns.saturating_sub(taken + 4)
}

/// Counters and ids that several series have: those of a VM on several hosts.
fn ambiguous(series: &[Series]) -> BTreeSet<(&str, &str)> {
    let mut seen = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for one in series {
        let Some(id) = own(&one.cid, &one.resources) else { continue };
        let key = (&*one.cid, &*id.id_value);
        if !seen.insert(key) {
            twice.insert(key);
        }
    }
    twice
}

/// The extent of a series' values; of no numbers there is none.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Extent {
    min: Option<f64>,
    mean: Option<f64>,
    max: Option<f64>,
    last: Option<f64>,
}

impl Extent {
    fn of(series: &Series) -> Self {
        let finite =
            |values: &[f64]| -> Vec<f64> { values.iter().copied().filter(|value| value.is_finite()).collect() };
        let values = finite(&series.values);
        let minima = series.minima.as_deref().map_or_else(|| values.clone(), finite);
        let maxima = series.maxima.as_deref().map_or_else(|| values.clone(), finite);
        Self {
            min: minima.into_iter().reduce(f64::min),
            mean: (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64),
            max: maxima.into_iter().reduce(f64::max),
            last: values.last().copied(),
        }
    }
}

/// A row for each point: for people with measures, rounded and with their units; for programs as they are.
fn points(result: &SeriesResult, measures: Option<&BTreeMap<String, Measure>>) -> Listing {
    let columns = ["time", "cid", "resource", "value"].into_iter().chain(measures.map(|_| "units"));
    let mut listing = Listing::new(columns).at_right(&["value"]);
    for series in &result.series {
        let id = own(&series.cid, &series.resources);
        let resource = id.map(|id| if measures.is_some() { shown(id) } else { id.id_value.clone() });
        let measure = measures.map(|measures| measures.get(&series.cid).cloned().unwrap_or_else(Measure::unknown));
        for (time, value) in series.times.iter().zip(&series.values) {
            let mut row = vec![json!(times::utc(*time)), json!(series.cid), json!(resource)];
            match &measure {
                Some(measure) => row.extend([json!(measure.number(*value)), json!(measure.unit)]),
                None => row.push(Value::from(*value)),
            }
            listing.push(row);
        }
    }
    listing
}

fn footer(result: &SeriesResult) -> String {
    let times = || result.series.iter().flat_map(|series| series.times.iter().copied());
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return "no points; `lockstep stats specs list` shows what is sampled".to_owned();
    };
    let points: u64 = result.series.iter().map(|series| series.times.len() as u64).sum();
    let fineness = match result.resolution {
        Resolution::Raw => "as they were sampled",
        Resolution::FiveMinutes => "means of 5 minutes",
        Resolution::Hour => "means of an hour",
    };
    format!(
        "{} of {}, {fineness}, {} to {}",
        progress::count(points, "point", "points"),
        progress::count(result.series.len() as u64, "series", "series"),
        times::utc(first),
        times::utc(last)
    )
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use lockstep_contract::services::stats::RsrcId;

    /// A series as a site answers it.
    pub(crate) fn series(cid: &str, resources: &[&str], points: &[(i64, f64)]) -> Series {
        let resources: Vec<RsrcId> = resources.iter().map(|r| r.parse::<Resource>().unwrap().in_spec()).collect();
        Series {
            cid: cid.to_owned(),
            mid: "1".to_owned(),
            rid: "1".to_owned(),
            resources,
            times: points.iter().map(|(time, _)| *time).collect(),
            values: points.iter().map(|(_, value)| *value).collect(),
            minima: None,
            maxima: None,
        }
    }

    const CPU: &str = "cpu.utilization.usage.VM";

    fn result() -> SeriesResult {
        let one = series(CPU, &["VM=v1", "HOST=h"], &[(0, 1.0), (10, 2.0), (20, 4.5)]);
        let two = series("mem.capacity.usage.HOST", &["HOST=h"], &[(0, 2048.04), (20, 2048.04)]);
        let none = series(CPU, &["VM=v9", "HOST=h"], &[]);
        SeriesResult { resolution: Resolution::Raw, series: vec![one, two, none] }
    }

    fn known(result: &SeriesResult) -> BTreeMap<String, Measure> {
        result.series.iter().filter_map(|s| Some((s.cid.clone(), Measure::known(&s.cid)?))).collect()
    }

    #[test]
    fn a_series_is_a_row_with_a_chart() {
        let result = result();
        let listing = summary(&result, &known(&result), &Names::default(), None);
        assert_eq!(
            table_lines(&listing, None),
            [
                "counter                   resource     min    mean     max    last  units  chart",
                "cpu.utilization.usage.VM  VM=v1       1.00    2.50    4.50    4.50  %      ▁▃█",
                "mem.capacity.usage.HOST   HOST=h    2048.0  2048.0  2048.0  2048.0  MiB    ▄▄▄",
            ]
        );
        assert_eq!(
            footer(&result),
            "5 points of 3 series, as they were sampled, 1970-01-01T00:00:00Z to 1970-01-01T00:00:20Z"
        );
    }

    #[test]
    fn a_chart_is_as_wide_as_the_terminal_allows() {
        let points: Vec<(i64, f64)> = (0..500).map(|i| (i * 10, f64::from((i % 50) as u32))).collect();
        let result = SeriesResult { resolution: Resolution::Raw, series: vec![series(CPU, &["VM=v1"], &points)] };
        for width in [100, 120, 200] {
            let listing = summary(&result, &known(&result), &Names::default(), Some(width));
            let lines = table_lines(&listing, Some(width));
            // But for the padding at both ends.
            assert_eq!((lines.len(), lines[1].chars().count()), (2, width - 2), "{lines:?}");
        }
    }

    #[test]
    fn names_are_shown_where_there_is_room_for_them() {
        let result = result();
        let mut names = Names::default();
        names.insert("VM=v1", "web");
        for (width, expected) in [(None, true), (Some(100), true), (Some(75), false), (Some(10), false)] {
            let listing = summary(&result, &known(&result), &names, width);
            assert_eq!(listing.columns.iter().any(|name| name == "name"), expected, "{width:?}");
            assert_eq!(listing.rows[0].len(), listing.columns.len());
        }
    }

    #[test]
    fn a_vm_that_moved_is_told_apart_by_its_host() {
        let on = |host: &str| series(CPU, &["VM=v1", host], &[(0, 1.0)]);
        let result = SeriesResult { resolution: Resolution::Raw, series: vec![on("HOST=a"), on("HOST=b")] };
        let listing = summary(&result, &known(&result), &Names::default(), None);
        assert_eq!((&listing.rows[0][1], &listing.rows[1][1]), (&json!("VM=v1 HOST=a"), &json!("VM=v1 HOST=b")));
    }

    #[test]
    fn coarser_points_keep_the_least_and_the_greatest() {
        let mut one = series(CPU, &["VM=v1"], &[(0, 1.0), (300, 3.0), (600, f64::NAN)]);
        one.minima = Some(vec![0.5, 2.0]);
        one.maxima = Some(vec![9.0, 4.0]);
        let extent = Extent { min: Some(0.5), mean: Some(2.0), max: Some(9.0), last: Some(3.0) };
        assert_eq!(Extent::of(&one), extent);
        assert_eq!(Extent::of(&series(CPU, &["VM=v1"], &[(0, f64::NAN)])), Extent::default());
    }

    #[test]
    fn points_for_programs_are_as_they_are() {
        let csv = points(&result(), None);
        assert_eq!(csv.columns, ["time", "cid", "resource", "value"]);
        assert_eq!(json!(csv.rows[2]), json!(["1970-01-01T00:00:20Z", CPU, "v1", 4.5]));
        assert_eq!(csv.rows.len(), 5);
        let people = points(&result(), Some(&known(&result())));
        assert_eq!(
            json!(people.rows[3]),
            json!(["1970-01-01T00:00:00Z", "mem.capacity.usage.HOST", "HOST=h", "2048.0", "MiB"])
        );
    }

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: QueryArgs,
    }

    #[test]
    fn the_window_begins_an_hour_ago_unless_it_is_said() {
        let filter = |line: &[&str]| {
            let program = <Program as clap::Parser>::try_parse_from([&["x"], line].concat());
            program.unwrap().args.filter(10_000)
        };
        let window = |line: &[&str]| filter(line).map(|f| (f.start, f.end)).unwrap();
        assert_eq!(window(&["a"]), (Some(6400), None));
        assert_eq!(window(&["a", "--since", "10m"]), (Some(9400), None));
        assert_eq!(window(&["a", "--to", "5000"]), (Some(1400), Some(5000)));
        assert_eq!(window(&["a", "--from", "1970-01-01T01:00:00Z", "--to", "5000"]), (Some(3600), Some(5000)));
        assert!(filter(&["a", "--from", "5000", "--to", "5000"]).is_err() && filter(&[]).is_err());
        let full = filter(&["--metric", "m", "--type", "vm", "--resource", "HOST=h", "--resolution", "5m"]).unwrap();
        assert_eq!(full.types, Some(vec!["VM".to_owned()]));
        assert_eq!(
            (full.resources, full.resolution),
            (Some(vec!["type.HOST=h".to_owned()]), Some(Resolution::FiveMinutes))
        );
    }
}
