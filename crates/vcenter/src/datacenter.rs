//! The operations on datacenters.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::datacenter::{IdInput, Info, ListInput, Summary};
use lockstep_model::ResourceId;
use lockstep_query::View;

use crate::select::{self, Selection};

const DATACENTER: &str = "Datacenter";

/// Most datacenters of a list.
const LIST_MAX: usize = 1000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, DATACENTER, LIST_MAX, &["name"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => all.ids("filter.datacenters", &filter.datacenters).names(&filter.names).pointing(
            "filter.folders",
            "folder",
            "Folder",
            &filter.folders,
        ),
    };
    some.list(|row| Summary { datacenter: row.id.to_owned(), name: row.name() })
}

pub(crate) fn get(view: &View, input: IdInput) -> Result<Info, Error> {
    let document = select::find(view, DATACENTER, &input.datacenter)?;
    let id = ResourceId::new(DATACENTER, &*input.datacenter);
    let folders = view.referring("Folder", "datacenter", &id);
    let folders: Vec<_> = folders.iter().filter_map(|id| Some((id, view.get(id)?.document))).collect();
    let root = |kind: &str| {
        let is_root = |(_, folder): &&(_, _)| {
            select::text(folder, "kind") == Some(kind) && select::id_in(folder.get("parent")).is_none()
        };
        folders.iter().find(is_root).map(|(id, _)| id.id.to_string()).unwrap_or_default()
    };
    Ok(Info {
        name: select::name(&document, &input.datacenter),
        datastore_folder: root("DATASTORE"),
        host_folder: root("HOST"),
        network_folder: root("NETWORK"),
        vm_folder: root("VIRTUAL_MACHINE"),
    })
}
