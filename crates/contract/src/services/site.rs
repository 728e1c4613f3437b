//! The site itself, and the query for people.

use crate::services::NoInput;
use crate::services::resource_model::{QuerySpec, ResultSet};
use crate::{Method, Opaque, Rest, operation, structure};

structure! {
    /// A site.
    pub struct Info = "lockstep.site.info" {
        /// Its name.
        name: String,
        /// The version of the server.
        version: String,
        /// The position that reads are answered at.
        position: i64,
        /// The least position that the change feed goes back to.
        oldest: i64,
        /// The same moment as a token.
        sequence: String,
        /// How many resources there are.
        resources: i64,
        /// Bytes on disk.
        disk_bytes: i64,
    }
}

structure! {
    /// The parameters of `query`.
    pub struct TextInput = "operation-input" {
        /// The query in its text form, e.g. `VirtualMachine where cpu_count >= 8 select name order by name limit 10`.
        text: String,
    }
}

structure! {
    /// The parameters of `explain`.
    pub struct ExplainInput = "operation-input" {
        /// The query.
        query_spec: Option<QuerySpec>,
        /// The query in its text form, instead.
        text: Option<String>,
    }
}

operation! {
    /// What the site says of itself.
    pub Get = "lockstep.site"."get"(NoInput) -> Info,
    errors: [Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/site", 200),
}

operation! {
    /// Answers a query in its text form.
    pub Query = "lockstep.query"."query"(TextInput) -> ResultSet,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/lockstep/query", 200),
}

operation! {
    /// How a query is answered: what each filter uses, what was estimated and what was found.
    pub Explain = "lockstep.query"."explain"(ExplainInput) -> Opaque,
    errors: [InvalidArgument, Unauthenticated],
    privilege: Read,
    rest: Rest::new(Method::Post, "/lockstep/query", 200).action("explain"),
}
