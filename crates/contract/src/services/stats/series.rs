//! Series: the points of one counter and one resource address together, for charts and tools.

use crate::services::NoInput;
use crate::services::stats::RsrcId;
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// How fine the points are.
    pub enum Resolution = "lockstep.stats.series.resolution" {
        /// As they were sampled.
        Raw = "RAW",
        /// Means of five minutes.
        FiveMinutes = "FIVE_MINUTES",
        /// Means of an hour.
        Hour = "HOUR",
    }
}

structure! {
    /// Which series, and which of their points.
    pub struct FilterSpec = "lockstep.stats.series.filter_spec" {
        /// From this second on; unset: all that is kept.
        start: Option<i64>,
        /// Before this second; unset: up to the newest.
        end: Option<i64>,
        /// Of these counters.
        cids: Option<Vec<String>>,
        /// Of the counters of this metric.
        metric: Option<String>,
        /// Of addresses with an identifier of any of these types.
        types: Option<Vec<String>>,
        /// Of addresses with these identifiers, each `type.<TYPE>[.<scheme>]=<id>`.
        resources: Option<Vec<String>>,
        /// How fine; unset: raw as far as raw points are kept from `start` on, else the finest that reaches so far.
        resolution: Option<Resolution>,
        /// The newest point of each series only.
        latest: Option<bool>,
    }
}

structure! {
    /// A series with its points: `times` and `values` go together.
    pub struct Series = "lockstep.stats.series.series" {
        /// The counter.
        cid: String,
        /// The edition of its metadata.
        mid: String,
        /// The resource address.
        rid: String,
        /// Its identifiers.
        resources: Vec<RsrcId>,
        /// When, in seconds since 1970, ascending.
        times: Vec<i64>,
        /// The values; of a coarser resolution the means.
        values: Vec<f64>,
        /// The least values, of a coarser resolution.
        minima: Option<Vec<f64>>,
        /// The greatest values, of a coarser resolution.
        maxima: Option<Vec<f64>>,
    }
}

structure! {
    /// The answer.
    pub struct SeriesResult = "lockstep.stats.series.result" {
        /// How fine the points are.
        resolution: Resolution,
        /// The series by counter and address.
        series: Vec<Series>,
    }
}

structure! {
    /// The parameters of `query`.
    pub struct QueryInput = "operation-input" {
        /// Which series.
        filter: FilterSpec,
    }
}

operation! {
    /// Returns series with their points, columns instead of a structure a point. At most a million points; more is refused.
    pub Query = "lockstep.stats.series"."query"(QueryInput) -> SeriesResult,
    errors: [InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/lockstep/stats/series", 200).action("query"),
}

structure! {
    /// What the series store holds.
    pub struct StoreInfo = "lockstep.stats.series.store_info" {
        /// How many series.
        series: i64,
        /// Points that are kept as they were sampled.
        points: i64,
        /// Bytes on disk of sealed points.
        raw_bytes: i64,
        /// Bytes on disk of the coarser resolutions.
        tier_bytes: i64,
        /// Bytes on disk of the write-ahead log.
        log_bytes: i64,
        /// Bytes of memory.
        memory_bytes: i64,
        /// Points stored since the server was started.
        stored: i64,
        /// Points refused since then: too old or of the future.
        refused: i64,
        /// Points that wait to be sent to the store outside; unset without one.
        waiting: Option<i64>,
    }
}

operation! {
    /// What the series store holds.
    pub GetStore = "lockstep.stats.series"."store"(NoInput) -> StoreInfo,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/stats/store", 200),
}
