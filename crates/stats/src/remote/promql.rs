//! PromQL: how raw points are asked for, and the form of the answer.
//!
//! A range selector as an instant query answers with the samples themselves: no step, no staleness, nothing interpolated.
//!
//! ```text
//! POST /api/v1/query    query={__name__="lockstep_mem_capacity_usage",rid=~"3|4"}[600s]  time=1700000599  nocache=1
//! {"status":"success","data":{"resultType":"matrix","result":[{"metric":{…},"values":[[1700000010,"1.5"],…]},…]}}
//! {"status":"error","errorType":"bad_data","error":"…"}
//! ```
//! The interval of a selector is open on the left in Prometheus 3 and VictoriaMetrics, closed in Prometheus 2, and closed on the right
//! in all. So `[start, end)` in whole seconds is asked for as `(start - 1, end - 1]`, and what lies outside is left out here.
//! `nocache` keeps VictoriaMetrics from moving a query of the last 30 s into the past; others do not know it.

use std::collections::HashMap;
use std::fmt::Write as _;

use lockstep_series::Point;
use serde::Deserialize;

use super::peer::Trouble;
use crate::metrics::write_label;

/// A query of raw points.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RangeQuery {
    pub(super) query: String,
    /// In seconds since 1970.
    pub(super) time_s: i64,
}

/// The query of the points in `[start_s, end_s)` of the series that have these labels, and a `rid` of these.
pub(super) fn range_query(labels: &[(&str, &str)], rids: &[u64], start_s: i64, end_s: i64) -> RangeQuery {
    let mut query = String::from("{");
    for (name, value) in labels {
        let _ = write!(query, "{name}=\"");
        write_label(&mut query, value);
        query.push_str("\",");
    }
    // A pattern is anchored at both ends.
    query.push_str("rid=~\"");
    for (i, rid) in rids.iter().enumerate() {
        let _ = write!(query, "{}{rid}", if i > 0 { "|" } else { "" });
    }
    let _ = write!(query, "\"}}[{}s]", end_s.saturating_sub(start_s).max(1));
    RangeQuery { query, time_s: end_s.saturating_sub(1) }
}

/// A series as the outside knows it.
#[derive(Debug, PartialEq)]
pub(super) struct Found {
    pub(super) labels: HashMap<String, String>,
    /// In the order of time.
    pub(super) points: Vec<Point>,
}

/// What is wrong with an answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// It is an error.
    #[error("{kind}: {message}")]
    Error {
        /// Prometheus: a word; VictoriaMetrics: a status.
        kind: String,
        message: String,
    },
    /// A part of the store outside did not answer.
    #[error("the answer is partial: a part of the store is away")]
    Partial,
    /// It is no answer to such a query.
    #[error("it is no answer of a query: {0}")]
    Foreign(String),
}

impl AnswerError {
    /// Whether the same question may be answered later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            // Source: Prometheus, "HTTP API", and `errorType` in its `web/api/v1/api.go`.
            Self::Error { kind, .. } => match kind.parse::<u16>() {
                Ok(status) => !matches!(
                    reqwest::StatusCode::from_u16(status).map(Trouble::of),
                    Ok(Trouble::Refused | Trouble::Misdirected)
                ),
                Err(_) => matches!(&**kind, "timeout" | "canceled" | "unavailable" | "internal"),
            },
            Self::Partial => true,
            Self::Foreign(_) => false,
        }
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    status: String,
    #[serde(borrow)]
    data: Option<Data<'a>>,
    #[serde(rename = "errorType")]
    error_type: Option<String>,
    error: Option<String>,
    #[serde(rename = "isPartial", default)]
    is_partial: bool,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(rename = "resultType")]
    result_type: String,
    #[serde(borrow)]
    result: Vec<Row<'a>>,
}

#[derive(Deserialize)]
struct Row<'a> {
    metric: HashMap<String, String>,
    /// Seconds, and the value as text, which needs no escapes.
    #[serde(borrow, default)]
    values: Vec<(f64, &'a str)>,
}

/// Reads the answer of a range query. Samples between seconds and values that are no finite number are not ours, and left out.
pub(super) fn read(body: &[u8]) -> Result<Vec<Found>, AnswerError> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| AnswerError::Foreign(error.to_string()))?;
    if answer.status != "success" {
        let kind = answer.error_type.unwrap_or(answer.status);
        return Err(AnswerError::Error { kind, message: answer.error.unwrap_or_default() });
    }
    if answer.is_partial {
        return Err(AnswerError::Partial);
    }
    let data = answer.data.ok_or_else(|| AnswerError::Foreign("no data".to_owned()))?;
    if data.result_type != "matrix" {
        return Err(AnswerError::Foreign(format!("its type is {:?}", data.result_type)));
    }
    let found = |row: Row<'_>| {
        let mut points = Vec::with_capacity(row.values.len());
        for (time, text) in row.values {
            let value: f64 = text.parse().map_err(|_| AnswerError::Foreign(format!("the value {text:?}")))?;
            if time.fract() == 0.0 && value.is_finite() {
                points.push(Point { time_s: time as i64, value });
            }
        }
        Ok(Found { labels: row.metric, points })
    };
    data.result.into_iter().map(found).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_open_window_is_asked_for_by_whole_seconds() {
        let query = range_query(&[("__name__", "lockstep_a"), ("site", "a\"b\\")], &[3, 14], 100, 160);
        let expected = r#"{__name__="lockstep_a",site="a\"b\\",rid=~"3|14"}[60s]"#;
        assert_eq!(query, RangeQuery { query: expected.to_owned(), time_s: 159 });
    }

    #[test]
    fn answers_are_read_and_what_is_not_ours_is_left_out() {
        let body = br#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"rid":"3","host":"h\u0031"},
            "values":[[1700000010,"1.5"],[1700000020.000,"-0.001"],[1700000020.5,"7"],[1700000030,"NaN"],[1700000040,"1e+100"]]},
            {"metric":{},"values":[]}]},"stats":{"seriesFetched":"1"}}"#;
        let found = read(body).unwrap();
        let point = |time_s, value| Point { time_s, value };
        assert_eq!(
            found[0].points,
            [point(1_700_000_010, 1.5), point(1_700_000_020, -0.001), point(1_700_000_040, 1e100)]
        );
        assert_eq!((&*found[0].labels["rid"], &*found[0].labels["host"], found.len()), ("3", "h1", 2));
    }

    #[test]
    fn errors_are_told_apart_by_their_type() {
        let check = |body: &str, is_transient: bool, part: &str| {
            let error = read(body.as_bytes()).unwrap_err();
            assert_eq!(error.is_transient(), is_transient, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        };
        let error = |kind: &str| format!(r#"{{"status":"error","errorType":"{kind}","error":"too bad"}}"#);
        for kind in ["timeout", "canceled", "unavailable", "internal", "503", "429"] {
            check(&error(kind), true, "too bad");
        }
        for kind in ["bad_data", "execution", "not_found", "422", "400"] {
            check(&error(kind), false, "too bad");
        }
        check(r#"{"status":"success","isPartial":true,"data":{"resultType":"matrix","result":[]}}"#, true, "partial");
        for foreign in [
            "<html>",
            "{}",
            "",
            r#"{"status":"success"}"#,
            r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#,
            r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,"x"]]}]}}"#,
        ] {
            check(foreign, false, "no answer of a query");
        }
    }
}
