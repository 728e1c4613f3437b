//! The query over the inventory.
//!
//! Source: seed 003; `api/cis-data-and-cdc.md`, part A.

use crate::services::TypedId;
use crate::{Method, Opaque, Rest, enumeration, operation, structure};

enumeration! {
    /// The type of a filter.
    pub enum FilterType = "com.vmware.cis.data.legacy.resource_model.resource_filter.filter_type" {
        /// By resource type.
        Type = "TYPE",
        /// By resource identifier.
        Id = "ID",
        /// By a condition on a property.
        Property = "PROPERTY",
        /// A composition of filters.
        Composite = "COMPOSITE",
    }
}

enumeration! {
    /// How a property is compared.
    pub enum ComparisonOperator = "com.vmware.cis.data.legacy.resource_model.property_filter.comparison_operator" {
        /// Equal.
        Equal = "EQUAL",
        /// Set, and not equal.
        NotEqual = "NOT_EQUAL",
        /// Greater.
        Greater = "GREATER",
        /// Greater or equal.
        GreaterOrEqual = "GREATER_OR_EQUAL",
        /// Less.
        Less = "LESS",
        /// Less or equal.
        LessOrEqual = "LESS_OR_EQUAL",
        /// A string that starts with the comparable, whatever the case of letters.
        StartsWith = "STARTS_WITH",
        /// A string that ends with the comparable, whatever the case of letters.
        EndsWith = "ENDS_WITH",
        /// A string that contains the comparable, whatever the case of letters.
        Contains = "CONTAINS",
    }
}

enumeration! {
    /// The type of what a property is compared with.
    pub enum ComparableType = "com.vmware.cis.data.legacy.resource_model.property_filter.comparable_type" {
        /// A whole number.
        Long = "LONG",
        /// A number.
        Double = "DOUBLE",
        /// True or false.
        Boolean = "BOOLEAN",
        /// Text.
        String = "STRING",
        /// The identity of a resource.
        Id = "ID",
    }
}

enumeration! {
    /// How the results of filters are joined.
    pub enum CompositeOperator = "com.vmware.cis.data.legacy.resource_model.composite_filter.operator" {
        /// What is in all of them.
        Intersect = "INTERSECT",
        /// What is in any of them.
        Union = "UNION",
    }
}

enumeration! {
    /// The direction of a sort.
    pub enum SortDirection = "com.vmware.cis.data.legacy.resource_model.sort_spec.sort_direction" {
        /// The least first.
        Ascending = "ASCENDING",
        /// The greatest first.
        Descending = "DESCENDING",
    }
}

structure! {
    /// A condition on a property of a resource, or of one that it is related to.
    pub struct PropertyFilter = "com.vmware.cis.data.legacy.resource_model.property_filter" union comparable_type {
        LONG => comparable_long,
        DOUBLE => comparable_double,
        BOOLEAN => comparable_boolean,
        STRING => comparable_string,
        ID => comparable_id,
    } {
        /// The property: `Model/name`, `Model/struct/field`, or several of them joined by `->`.
        property: String,
        /// How it is compared.
        operator: ComparisonOperator,
        /// With what type of value.
        comparable_type: ComparableType,
        /// The value, for LONG.
        comparable_long: Option<i64>,
        /// The value, for DOUBLE.
        comparable_double: Option<f64>,
        /// The value, for BOOLEAN.
        comparable_boolean: Option<bool>,
        /// The value, for STRING.
        comparable_string: Option<String>,
        /// The value, for ID.
        comparable_id: Option<TypedId>,
    }
}

structure! {
    /// A composition of filters.
    pub struct CompositeFilter = "com.vmware.cis.data.legacy.resource_model.composite_filter" {
        /// How their results are joined.
        operator: CompositeOperator,
        /// The filters, at least one.
        filters: Vec<ResourceFilter>,
    }
}

structure! {
    /// Which resources to return.
    pub struct ResourceFilter = "com.vmware.cis.data.legacy.resource_model.resource_filter" union filter_type {
        TYPE => resource_type,
        ID => resource_id,
        PROPERTY => property_filter,
        COMPOSITE => composite_filter,
    } {
        /// The type of the filter.
        filter_type: FilterType,
        /// For TYPE: resources of this type.
        resource_type: Option<String>,
        /// For ID: this resource.
        resource_id: Option<TypedId>,
        /// For PROPERTY: resources that meet this condition.
        property_filter: Option<PropertyFilter>,
        /// For COMPOSITE: the composition.
        composite_filter: Option<Box<CompositeFilter>>,
    }
}

structure! {
    /// What to sort by.
    pub struct SortSpec = "com.vmware.cis.data.legacy.resource_model.sort_spec" {
        /// The property.
        property: String,
        /// The direction; unset: ASCENDING.
        sort_direction: Option<SortDirection>,
    }
}

structure! {
    /// A query.
    pub struct QuerySpec = "com.vmware.cis.data.legacy.resource_model.query_spec" {
        /// Which resources.
        resource_filter: ResourceFilter,
        /// Which of their properties; an empty list gives the ids only.
        property_spec: Vec<String>,
        /// In what order; unset: by type and id.
        sort_criteria: Option<Vec<SortSpec>>,
        /// How many of them to pass over; not negative. Beyond the end: no items.
        offset: Option<i64>,
        /// How many to return at most; above the service's limit it is refused.
        limit: Option<i64>,
        /// Whether to count all that match.
        compute_total_item_count: Option<bool>,
    }
}

structure! {
    /// A value of a property.
    pub struct PropertyValue = "com.vmware.cis.data.legacy.resource_model.property_value" {
        /// The property, as the query spelled it.
        property: String,
        /// Its value.
        value: Opaque,
    }
}

structure! {
    /// A resource that matched.
    pub struct ResourceItem = "com.vmware.cis.data.legacy.resource_model.resource_item" {
        /// Which one.
        resource_id: TypedId,
        /// Those of the wanted properties that it has.
        property_values: Vec<PropertyValue>,
    }
}

structure! {
    /// The answer to a query.
    pub struct ResultSet = "com.vmware.cis.data.legacy.resource_model.result_set" {
        /// The resources, in order.
        items: Vec<ResourceItem>,
        /// How many matched, before offset and limit; only when asked for.
        total_item_count: Option<i64>,
    }
}

structure! {
    /// The parameters of `query`.
    pub struct QueryInput = "operation-input" {
        /// The query.
        query_spec: QuerySpec,
    }
}

operation! {
    /// Returns the resources that match a query, with the properties it names.
    ///
    /// All of the answer is from one moment; the header `Lockstep-Sequence` names it as a token that `get_changes` goes on from.
    pub Query = "com.vmware.cis.data.legacy.resource_model"."query"(QueryInput) -> ResultSet,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/cis/data/legacy/resource-model", 200).action("query"),
}
