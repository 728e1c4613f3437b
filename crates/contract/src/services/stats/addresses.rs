//! Resource addresses: the concrete resources that there are points of, and which identifiers counters take.
//!
//! Source: `api/vstats.md`, sections 2, 3 and 5.

use crate::services::stats::RsrcId;
use crate::{Method, Rest, enumeration, operation, structure};

structure! {
    /// A concrete combination of identifiers. Data points name it.
    pub struct Info = "com.vmware.vstats.resource_addresses.info" {
        /// The address's id: the `rid` of data points.
        id: String,
        /// The identifiers.
        resource_ids: Vec<RsrcId>,
    }
}

structure! {
    /// Which addresses; all conditions must be met.
    pub struct FilterSpec = "com.vmware.vstats.resource_addresses.filter_spec" {
        /// Those with an identifier of any of these types.
        types: Option<Vec<String>>,
        /// Those with these identifiers, each `type.<TYPE>[.<scheme>]=<id>`: several of one type widen, those of other types narrow.
        resources: Option<Vec<String>>,
        /// The `next` of the page before; unset: the first page.
        page: Option<String>,
    }
}

structure! {
    /// A page of the list.
    pub struct ListResult = "com.vmware.vstats.resource_addresses.list_result" {
        /// The addresses, in the order of their ids as numbers.
        rsrc_addrs: Vec<Info>,
        /// Names the next page; unset: there is none.
        next: Option<String>,
    }
}

structure! {
    /// The parameters of `list`.
    pub struct ListInput = "operation-input" {
        /// Which addresses.
        filter: Option<FilterSpec>,
    }
}

structure! {
    /// The parameters of `get`.
    pub struct IdInput = "operation-input" {
        /// The id.
        id: String,
    }
}

operation! {
    /// Lists the resource addresses.
    pub List = "com.vmware.vstats.resource_addresses"."list"(ListInput) -> ListResult,
    errors: [Error, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest {
        query: &[("types", "filter.types"), ("rsrcs", "filter.resources"), ("page", "filter.page")],
        ..Rest::new(Method::Get, "/stats/rsrc-addrs", 200)
    },
}

operation! {
    /// A resource address.
    pub Get = "com.vmware.vstats.resource_addresses"."get"(IdInput) -> Info,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/rsrc-addrs/{id}", 200),
    id: "id",
}

enumeration! {
    /// Which predicates an identifier takes.
    pub enum QueryOptions = "com.vmware.vstats.resource_address_schemas.query_options" {
        /// EQUAL only.
        Equal = "EQUAL",
        /// EQUAL and ALL.
        EqualAll = "EQUAL_ALL",
    }
}

structure! {
    /// A position in a schema.
    pub struct IdDefinition = "com.vmware.vstats.resource_address_schemas.resource_id_definition" {
        /// The position's name.
        key: String,
        /// The type of its identifiers.
        resource_type as "type": String,
        /// Which predicates they take.
        query_options: QueryOptions,
    }
}

structure! {
    /// Which identifiers the resources of a counter have.
    pub struct SchemaInfo = "com.vmware.vstats.resource_address_schemas.info" {
        /// The schema's id.
        id: String,
        /// Its positions. The first is the counter's own and must be in every specification.
        schema: Vec<IdDefinition>,
    }
}

operation! {
    /// A schema of resource addresses.
    pub GetSchema = "com.vmware.vstats.resource_address_schemas"."get"(IdInput) -> SchemaInfo,
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/stats/rsrc-addr-schemas/{id}", 200),
    id: "id",
}
