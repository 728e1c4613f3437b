//! Points on their way from an agent to the server: protocol buffers, columns packed.
//!
//! ```text
//! message Batch      { repeated Series series = 1; }
//! message Series     { string cid = 1; repeated Identifier address = 2; repeated sint64 times = 3; repeated double values = 4; }
//! message Identifier { string type = 1; string id = 2; }
//! ```
//! `times` are seconds since 1970: the first as it is, each other as the difference to the one before. `times` and `values` are of
//! the same length.

/// Points of any number of series.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// The series.
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<Series>,
}

/// Points of one series.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Series {
    /// The counter.
    #[prost(string, tag = "1")]
    pub cid: String,
    /// The resource address: the identifiers that the counter's type has, in the order of
    /// [`ResourceKind::address_types`](crate::counters::ResourceKind::address_types).
    #[prost(message, repeated, tag = "2")]
    pub address: Vec<Identifier>,
    /// When.
    #[prost(sint64, repeated, tag = "3")]
    pub times: Vec<i64>,
    /// The values.
    #[prost(double, repeated, tag = "4")]
    pub values: Vec<f64>,
}

/// An identifier of a resource.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Identifier {
    /// The type, e.g. `HOST`.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// The id in the inventory.
    #[prost(string, tag = "2")]
    pub id: String,
}

impl Series {
    /// The times as they are.
    pub fn times_s(&self) -> impl Iterator<Item = i64> {
        self.times.iter().scan(0i64, |at, step| {
            *at = at.wrapping_add(*step);
            Some(*at)
        })
    }

    /// The form in which times travel.
    pub fn deltas(times_s: impl IntoIterator<Item = i64>) -> Vec<i64> {
        let mut before = 0i64;
        times_s.into_iter().map(|time| time.wrapping_sub(std::mem::replace(&mut before, time))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_the_same_after_the_way() {
        let times = [1_795_315_045, 1_795_315_055, 1_795_315_050, -1, i64::MAX, i64::MIN];
        let series = Series { times: Series::deltas(times), ..Series::default() };
        assert!(series.times_s().eq(times));
    }
}
