//! The list of networks.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::network::{ListInput, Summary, Type};
use lockstep_query::View;

use crate::select::Selection;

pub(crate) const NETWORK: &str = "Network";

/// Most networks of a list.
const LIST_MAX: usize = 1000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, NETWORK, LIST_MAX, &["name", "kind"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => all
            .ids("filter.networks", &filter.networks)
            .names(&filter.names)
            .one_of(&filter.types, |row| type_of(row.text("kind")))
            .pointing("filter.folders", "folder", "Folder", &filter.folders)
            .below("filter.datacenters", "Datacenter", &filter.datacenters),
    };
    some.list(|row| Summary { network: row.id.to_owned(), name: row.name(), ty: type_of(row.text("kind")) })
}

/// What a network is made of. A bridge is to a Linux host what a standard port group is to another, and so is an interface without one.
pub(crate) fn type_of(kind: Option<&str>) -> Type {
    match kind {
        Some("BRIDGE" | "PHYSICAL") => Type::StandardPortgroup,
        kind => kind.and_then(Type::from_name).unwrap_or(Type::Unknown),
    }
}
