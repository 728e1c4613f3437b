//! The list of folders.

use lockstep_contract::Error;
use lockstep_contract::services::vcenter::folder::{ListInput, Summary, Type};
use lockstep_query::View;

use crate::select::Selection;

const FOLDER: &str = "Folder";

/// Most folders of a list.
const LIST_MAX: usize = 1000;

pub(crate) fn list(view: &View, input: ListInput) -> Result<Vec<Summary>, Error> {
    let all = Selection::new(view, FOLDER, LIST_MAX, &["name", "kind"]);
    let some = match &input.filter {
        None => all,
        Some(filter) => {
            let some = all
                .ids("filter.folders", &filter.folders)
                .names(&filter.names)
                .pointing("filter.parent_folders", "parent", FOLDER, &filter.parent_folders)
                .below("filter.datacenters", "Datacenter", &filter.datacenters);
            match filter.ty {
                Some(ty) => some.check(move |row| type_of(row.text("kind")) == ty),
                None => some,
            }
        }
    };
    some.list(|row| Summary { folder: row.id.to_owned(), name: row.name(), ty: type_of(row.text("kind")) })
}

fn type_of(kind: Option<&str>) -> Type {
    kind.and_then(Type::from_name).unwrap_or(Type::Unknown)
}
