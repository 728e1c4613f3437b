//! Discovery: counters with their metadata and sets, metrics, resource types.
//!
//! Source: `api/vstats.md`, sections 2, 3 and 6.

use crate::services::NoInput;
use crate::services::stats::{CidMid, UserInfo};
use crate::{Method, Rest, enumeration, operation, structure};

enumeration! {
    /// The units of a counter's values.
    pub enum Units = "com.vmware.vstats.counter_metadata.metric_units" {
        /// Percent.
        Percent = "PERCENT",
        /// A count.
        Number = "NUMBER",
        /// Seconds.
        Second = "SECOND",
        /// Hertz.
        Hertz = "HERTZ",
        /// Meters.
        Meter = "METER",
        /// Meters per second.
        MetersPerSecond = "METERSPERSECOND",
        /// Meters per second squared.
        MetersPerSecondSquared = "METERSPERSECONDSQUARED",
        /// Bytes.
        Byte = "BYTE",
        /// Bits.
        Bit = "BIT",
        /// Bytes per second.
        BytesPerSecond = "BYTESPERSECOND",
        /// Bits per second.
        BitsPerSecond = "BITSPERSECOND",
        /// Kilograms.
        Kilogram = "KILOGRAM",
        /// Grams.
        Gram = "GRAM",
        /// Degrees Celsius.
        Celsius = "CELSIUS",
        /// Kelvin.
        Kelvin = "KELVIN",
        /// Joules.
        Joule = "JOULE",
        /// Watts.
        Watt = "WATT",
        /// Volts.
        Volt = "VOLT",
        /// Amperes.
        Ampere = "AMPERE",
        /// Volt-amperes.
        VoltAmpere = "VOLTAMPERE",
        /// Candelas.
        Candela = "CANDELA",
        /// Moles.
        Mole = "MOLE",
    }
}

enumeration! {
    /// What the units are multiplied with.
    pub enum Scale = "com.vmware.vstats.counter_metadata.unit_factor" {
        /// 10^24.
        Yotta = "YOTTA",
        /// 10^21.
        Zetta = "ZETTA",
        /// 10^18.
        Exa = "EXA",
        /// 10^15.
        Peta = "PETA",
        /// 10^12.
        Tera = "TERA",
        /// 10^9.
        Giga = "GIGA",
        /// 10^6.
        Mega = "MEGA",
        /// 10^3.
        Kilo = "KILO",
        /// 10^2.
        Hecto = "HECTO",
        /// 10.
        Deca = "DECA",
        /// 1.
        One = "ONE",
        /// 10^-1.
        Deci = "DECI",
        /// 10^-2.
        Centi = "CENTI",
        /// 10^-3.
        Milli = "MILLI",
        /// 10^-6.
        Micro = "MICRO",
        /// 10^-9.
        Nano = "NANO",
        /// 10^-12; the contract spells it so.
        Piko = "PIKO",
        /// 10^-15.
        Femto = "FEMTO",
        /// 10^-18.
        Atto = "ATTO",
        /// 10^-21.
        Zepto = "ZEPTO",
        /// 10^-24.
        Yocto = "YOCTO",
        /// 2^80.
        Yobi = "YOBI",
        /// 2^70.
        Zebi = "ZEBI",
        /// 2^60.
        Exbi = "EXBI",
        /// 2^50.
        Pebi = "PEBI",
        /// 2^40.
        Tebi = "TEBI",
        /// 2^30.
        Gibi = "GIBI",
        /// 2^20.
        Mebi = "MEBI",
        /// 2^10.
        Kibi = "KIBI",
    }
}

enumeration! {
    /// What sort of number a sample is.
    pub enum SampleType = "com.vmware.vstats.counter_metadata.sample_type" {
        /// As the source gives it.
        Raw = "RAW",
        /// The value at the moment.
        Absolute = "ABSOLUTE",
        /// A part of a whole.
        Fraction = "FRACTION",
        /// A change over time.
        Rate = "RATE",
        /// The change since the sample before.
        Delta = "DELTA",
        /// On a logarithmic scale.
        Logn = "LOGN",
    }
}

enumeration! {
    /// The standing of an edition of a counter's metadata.
    pub enum MetadataStatus = "com.vmware.vstats.counter_metadata.counter_edition_status" {
        /// What a specification without a mid gets.
        Default = "DEFAULT",
        /// In use.
        Current = "CURRENT",
        /// On its way out.
        Deprecated = "DEPRECATED",
        /// Not settled.
        Experimental = "EXPERIMENTAL",
        /// Gone.
        Removed = "REMOVED",
    }
}

structure! {
    /// A counter: a metric of one resource type.
    pub struct Info = "com.vmware.vstats.counters.info" {
        /// The counter's id.
        cid: String,
        /// The metric that it measures.
        metric: String,
        /// Which identifiers its resources have.
        resource_address_schema: String,
    }
}

structure! {
    /// Which counters; all conditions must be met.
    pub struct FilterSpec = "com.vmware.vstats.counters.filter_spec" {
        /// This counter.
        cid: Option<String>,
        /// Those of any of these resource types.
        types: Option<Vec<String>>,
        /// Those of this metric.
        metric: Option<String>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which counters.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct CidInput = "operation-input" {
        /// The counter.
        cid: String,
    }
}

operation! {
    /// Lists the counters.
    pub List = "com.vmware.vstats.counters"."list"(ListInput) -> Vec<Info>,
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest {
        query: &[("cid", "filter.cid"), ("types", "filter.types"), ("metric", "filter.metric")],
        ..Rest::new(Method::Get, "/stats/counters", 200)
    },
}

operation! {
    /// A counter.
    pub Get = "com.vmware.vstats.counters"."get"(CidInput) -> Info,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/counters/{cid}", 200),
    id: "cid",
}

structure! {
    /// An edition of a counter's metadata.
    pub struct Metadata = "com.vmware.vstats.counter_metadata.info" {
        /// The counter.
        cid: String,
        /// The edition: a number of 64 bits. The same (cid, mid) always means the same.
        mid: String,
        /// Its standing.
        status: MetadataStatus,
        /// What sort of number a sample is.
        sample_type as "type": SampleType,
        /// The units of the values.
        units: Units,
        /// What the units are multiplied with.
        scale: Option<Scale>,
        /// For people.
        user_info: Option<UserInfo>,
        /// The provider, when the edition is one provider's own.
        pid: Option<String>,
    }
}

structure! {
    /// Which editions.
    pub struct MetadataFilterSpec = "com.vmware.vstats.counter_metadata.filter_spec" {
        /// Those of this standing.
        status: Option<MetadataStatus>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListMetadataInput = "operation-input" {
        /// The counter.
        cid: String,
        /// Which editions.
        filter: Option<MetadataFilterSpec>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct CidMidInput = "operation-input" {
        /// The counter.
        cid: String,
        /// The edition.
        mid: String,
    }
}

operation! {
    /// Lists the editions of a counter's metadata.
    pub ListMetadata = "com.vmware.vstats.counter_metadata"."list"(ListMetadataInput) -> Vec<Metadata>,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest {
        query: &[("status", "filter.status")],
        ..Rest::new(Method::Get, "/stats/counters/{cid}/metadata", 200)
    },
}

operation! {
    /// The default edition of a counter's metadata.
    pub GetDefaultMetadata = "com.vmware.vstats.counter_metadata"."get_default"(CidInput) -> Vec<Metadata>,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/counters/{cid}/metadata/default", 200),
}

operation! {
    /// An edition of a counter's metadata.
    pub GetMetadata = "com.vmware.vstats.counter_metadata"."get"(CidMidInput) -> Metadata,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/counters/{cid}/metadata/{mid}", 200),
}

structure! {
    /// A set of counters.
    pub struct SetInfo = "com.vmware.vstats.counter_sets.info" {
        /// The set's id.
        id: String,
        /// Its counters.
        counters: Vec<CidMid>,
        /// For people.
        user_info: Option<UserInfo>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct SetInput = "operation-input" {
        /// The set's id.
        counter_set: String,
    }
}

operation! {
    /// Lists the sets of counters.
    pub ListSets = "com.vmware.vstats.counter_sets"."list"(NoInput) -> Vec<SetInfo>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/counter-sets", 200),
}

operation! {
    /// A set of counters.
    pub GetSet = "com.vmware.vstats.counter_sets"."get"(SetInput) -> SetInfo,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/counter-sets/{counter_set}", 200),
    id: "counter_set",
}

structure! {
    /// A metric.
    pub struct MetricSummary = "com.vmware.vstats.metrics.summary" {
        /// Its name.
        metric: String,
    }
}

operation! {
    /// Lists the metrics: what can be measured, of any type of resource.
    pub ListMetrics = "com.vmware.vstats.metrics"."list"(NoInput) -> Vec<MetricSummary>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/metrics", 200),
}

structure! {
    /// A resource type.
    pub struct TypeSummary = "com.vmware.vstats.resource_types.summary" {
        /// Its name.
        resource_type as "type": String,
    }
}

operation! {
    /// Lists the types of resources that have counters.
    pub ListResourceTypes = "com.vmware.vstats.resource_types"."list"(NoInput) -> Vec<TypeSummary>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/rsrc-types", 200),
}
