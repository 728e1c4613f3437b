//! The query over data points.
//!
//! Source: `api/vstats.md`, section 5.

use crate::{Method, Rest, operation, structure};

structure! {
    /// A sample.
    pub struct DataPoint = "com.vmware.vstats.data.data_point" {
        /// The counter.
        cid: String,
        /// The edition of its metadata.
        mid: String,
        /// The resource address.
        rid: String,
        /// When, in seconds since 1970.
        ts: i64,
        /// The value.
        val: f64,
    }
}

structure! {
    /// Which points; all conditions must be met.
    pub struct FilterSpec = "com.vmware.vstats.data.filter_spec" {
        /// From this second on.
        start: Option<i64>,
        /// Before this second.
        end: Option<i64>,
        /// Of this counter.
        cid: Option<String>,
        /// Of the counters of this metric.
        metric: Option<String>,
        /// Of addresses with an identifier of any of these types.
        types: Option<Vec<String>>,
        /// Of addresses with these identifiers, each `type.<TYPE>[.<scheme>]=<id>`: several of one type widen, those of other types narrow.
        resources: Option<Vec<String>>,
        /// `DEFAULT`, or unset: the order is the same.
        order: Option<String>,
        /// The `next` of the page before, with the same filter; unset: the first page.
        page: Option<String>,
    }
}

structure! {
    /// A page of points.
    pub struct DataPointsResult = "com.vmware.vstats.data.data_points_result" {
        /// The points by cid, address and time.
        data_points: Vec<DataPoint>,
        /// Names the next page; unset: there is none.
        next: Option<String>,
    }
}

structure! {
    /// The parameters of `query_data_points`.
    pub struct QueryInput = "operation-input" {
        /// Which points.
        filter: Option<FilterSpec>,
    }
}

operation! {
    /// Returns data points by counter, address and time.
    pub QueryDataPoints = "com.vmware.vstats.data"."query_data_points"(QueryInput) -> DataPointsResult,
    errors: [Error, InvalidArgument, ServiceUnavailable, TimedOut, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest {
        query: &[
            ("start", "filter.start"),
            ("end", "filter.end"),
            ("cid", "filter.cid"),
            ("metric", "filter.metric"),
            ("types", "filter.types"),
            ("rsrcs", "filter.resources"),
            ("order", "filter.order"),
            ("page", "filter.page"),
        ],
        ..Rest::new(Method::Get, "/stats/data/dp", 200)
    },
}
