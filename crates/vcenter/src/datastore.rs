//! The operations on datastores.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::datastore::{IdInput, Info, ListInput, Summary, Type};
use lockstep_query::View;

use crate::select::{self, Selection};

const DATASTORE: &str = "Datastore";

/// Most datastores of a list.
const LIST_MAX: usize = 2500;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, DATASTORE, LIST_MAX, &["name", "kind", "free_space", "capacity"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => all
            .ids("filter.datastores", &filter.datastores)
            .names(&filter.names)
            .one_of(&filter.types, |row| type_of(row.text("kind")))
            .pointing("filter.folders", "folder", "Folder", &filter.folders)
            .below("filter.datacenters", "Datacenter", &filter.datacenters),
    };
    some.list(|row| Summary {
        datastore: row.id.to_owned(),
        name: row.name(),
        ty: type_of(row.text("kind")),
        free_space: row.long("free_space"),
        capacity: row.long("capacity"),
    })
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let document = select::find(view, DATASTORE, &input.datastore)?;
    let ty = type_of(select::text(&document, "kind"));
    Ok(Info {
        name: select::name(&document, &input.datastore),
        ty,
        accessible: select::is(&document, "accessible"),
        free_space: select::long(&document, "free_space"),
        multiple_host_access: select::is(&document, "multiple_host_access"),
        // Of these all take thin files but those that leave it to a server which does not tell.
        thin_provisioning_supported: matches!(ty, Type::Vmfs | Type::Vsan | Type::Vvol | Type::Vffs),
    })
}

fn type_of(kind: Option<&str>) -> Type {
    kind.and_then(Type::from_name).unwrap_or(Type::Unknown)
}
