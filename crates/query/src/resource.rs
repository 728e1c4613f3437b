//! One resource as it stands in the columns: read without making a document of it.

use lockstep_model::{LINKED_FROM, Position, ResourceId};

use crate::ids::Ids;
use crate::json::write_value;
use crate::leaf::Store;
use crate::node::{Field, Node};
use crate::space::Row;
use crate::value::{StructRef, ValueRef};
use crate::view::View;

/// A resource of a view, borrowed.
#[derive(Clone, Copy)]
pub struct ResourceRef<'v> {
    view: &'v View,
    row: Row,
    /// The column of the type's links.
    links: Option<&'v Ids>,
}

impl<'v> ResourceRef<'v> {
    /// The name of its type.
    pub fn resource_type(&self) -> &'v str {
        self.view.spaces.get(self.row.space).name.as_str()
    }

    /// Its id within the type.
    pub fn id(&self) -> &'v str {
        self.view.spaces.get(self.row.space).id(self.row.row)
    }

    /// Both.
    pub fn resource_id(&self) -> ResourceId {
        self.view.spaces.id(self.row)
    }

    /// The commit that last changed it.
    pub fn modified(&self) -> Position {
        self.view.spaces.get(self.row.space).modified(self.row.row)
    }

    /// The id of the link that it came by; `None` for a resource of this site.
    pub fn linked_from(&self) -> Option<&'v str> {
        let link = self.links?.get(self.row.row)?;
        Some(self.view.spaces.get(link.space).id(link.row))
    }

    /// Its properties, without secret ones.
    pub fn fields(&self) -> StructRef<'v> {
        StructRef {
            spaces: &self.view.spaces,
            fields: self.view.fields(self.row.space),
            slot: self.row.row,
            secrets: false,
        }
    }

    /// Appends its properties as plain JSON, without secret ones.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        write_value(&ValueRef::Struct(self.fields()), out);
    }
}

impl View {
    /// A resource as it stands; `None` when it does not exist.
    pub fn find(&self, id: &ResourceId) -> Option<ResourceRef<'_>> {
        let row = self.spaces.find_live(id)?;
        Some(ResourceRef { view: self, row, links: links(self.fields(row.space)) })
    }

    /// The resources of a type in the order of their ids, those after `after` only, as they stand.
    pub fn resources<'v>(
        &'v self,
        resource_type: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = ResourceRef<'v>> + use<'v> {
        let rows = self.spaces.find_type(resource_type).and_then(|space| {
            let (order, ids) = (self.id_order(space)?, self.spaces.get(space));
            let links = links(self.fields(space));
            let from = order.place(|row| after.is_some_and(|after| ids.id(row) <= after));
            let here = move |row| ResourceRef { view: self, row: Row { space, row }, links };
            Some(order.rows(from, order.end()).map(here))
        });
        rows.into_iter().flatten()
    }

    /// How many resources of a type came by a link.
    pub fn linked_count(&self, resource_type: &str) -> usize {
        let Some(space) = self.spaces.find_type(resource_type) else { return 0 };
        let Some(links) = links(self.fields(space)) else { return 0 };
        self.spaces.get(space).live.iter().filter(|row| links.get(*row).is_some()).count()
    }
}

/// The column of [`LINKED_FROM`]: among the last, since the registry puts it behind what models declare.
fn links(fields: &[Field]) -> Option<&Ids> {
    match &fields.iter().rev().find(|f| &*f.name == LINKED_FROM)?.node {
        Node::Leaf(leaf) => match &leaf.store {
            Store::Id(ids) => Some(ids),
            _ => None,
        },
        Node::Struct(_) | Node::List(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_journal::StateEntry;
    use lockstep_model::Registry;

    #[test]
    fn a_resource_is_written_without_secrets_and_tells_its_link() {
        let mut view = View::new(Registry::new());
        let put = |view: &mut View, resource_type: &str, id: &str, json: &str| {
            let document = view.registry().type_def(resource_type).unwrap().read_document(json).unwrap();
            let (created, modified) = (Position(1), Position(2));
            let id = ResourceId::new(resource_type, id);
            view.load(&StateEntry { id, document, created, modified, created_ms: 0, modified_ms: 0 });
        };
        put(&mut view, "Account", "a", r#"{"name":"a","token_hash":"x"}"#);
        put(&mut view, "Tag", "b", r#"{"name":"own"}"#);
        put(&mut view, "Tag", "s~b", r#"{"name":"theirs","linked_from":{"type":"Link","id":"l1"}}"#);
        let json = |resource: ResourceRef<'_>| {
            let mut out = Vec::new();
            resource.write_json(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(json(view.find(&ResourceId::new("Account", "a")).unwrap()), "{}", "nothing of an account is shown");
        let tags: Vec<_> = view.resources("Tag", None).map(|r| (r.id(), r.linked_from(), json(r))).collect();
        assert_eq!(
            tags,
            [
                ("b", None, r#"{"name":"own"}"#.to_owned()),
                ("s~b", Some("l1"), r#"{"name":"theirs","linked_from":{"type":"Link","id":"l1"}}"#.to_owned()),
            ]
        );
        assert_eq!(view.resources("Tag", Some("b")).map(|r| r.id()).collect::<Vec<_>>(), ["s~b"]);
        assert_eq!((view.linked_count("Tag"), view.linked_count("Account"), view.linked_count("None")), (1, 0, 0));
        assert_eq!(view.find(&ResourceId::new("Tag", "s~b")).unwrap().modified(), Position(2));
        assert!(view.find(&ResourceId::new("Tag", "x")).is_none());
    }
}
