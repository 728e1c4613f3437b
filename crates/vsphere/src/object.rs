//! Managed objects: what they are called there and here, and what is told of them.

use lockstep_model::ResourceId;

use crate::element::Element;

/// A reference to a managed object.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct ObjectRef {
    /// Its type, e.g. `VirtualApp`.
    pub(crate) kind: Box<str>,
    /// Its id within the source, e.g. `vm-42`.
    pub(crate) id: Box<str>,
}

impl ObjectRef {
    /// The reference that an element is.
    pub(crate) fn read(element: &Element) -> Option<Self> {
        let id = element.text.trim();
        let kind = element.object_type.clone()?;
        (!id.is_empty()).then(|| Self { kind, id: id.into() })
    }
}

/// The type here of objects of a type there; `None` for what is not kept.
pub(crate) fn resource_type(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Datacenter" => "Datacenter",
        "Folder" | "StoragePod" => "Folder",
        "ClusterComputeResource" => "ClusterComputeResource",
        "HostSystem" => "HostSystem",
        "ResourcePool" | "VirtualApp" => "ResourcePool",
        "Datastore" => "Datastore",
        "Network" | "DistributedVirtualPortgroup" | "OpaqueNetwork" => "Network",
        "DistributedVirtualSwitch" | "VmwareDistributedVirtualSwitch" => "DistributedVirtualSwitch",
        "VirtualMachine" => "VirtualMachine",
        _ => return None,
    })
}

/// How a source's objects are called here: by their own ids, behind a prefix where another source has the bare ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    pub(crate) prefix: String,
}

impl Ids {
    /// The resource that stands for an object.
    pub(crate) fn resource(&self, object: &ObjectRef) -> Option<ResourceId> {
        let id = ResourceId::new(resource_type(&object.kind)?, format!("{}{}", self.prefix, object.id));
        id.check().is_ok().then_some(id)
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is told whole.
    Enter,
    /// Some of its properties are told.
    Modify,
    /// It is gone, or cannot be seen any more.
    Leave,
}

/// A property and its value; `None` when it has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) path: String,
    pub(crate) value: Option<Element>,
}

/// A property that the source does not show.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hidden {
    pub(crate) kind: String,
    pub(crate) path: String,
    /// The privilege that is lacking, or the type of another fault.
    pub(crate) why: String,
}

/// What is told of one object.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Update {
    pub(crate) object: ObjectRef,
    pub(crate) kind: Kind,
    pub(crate) told: Vec<Told>,
    pub(crate) hidden: Vec<Hidden>,
}

impl Update {
    /// Reads an `ObjectUpdate` of an update set, or an `ObjectContent` of a retrieval, which is whole.
    pub(crate) fn read(mut element: Element) -> Option<Self> {
        let object = ObjectRef::read(element.child("obj")?)?;
        let kind = match element.text_at("kind") {
            None | Some("enter") => Kind::Enter,
            Some("modify") => Kind::Modify,
            Some("leave") => Kind::Leave,
            Some(_) => return None,
        };
        let hidden = element.all("missingSet").filter_map(|missing| hidden(&object, missing)).collect();
        let mut told = Vec::new();
        for part in &mut element.children {
            if !matches!(&*part.name, "changeSet" | "propSet") {
                continue;
            }
            let Some(path) = part.text_at("name").map(str::to_owned) else { continue };
            let is_gone = matches!(part.text_at("op"), Some("remove" | "indirectRemove"));
            let value = part.children.iter_mut().find(|child| &*child.name == "val").map(std::mem::take);
            told.push(Told { path, value: value.filter(|_| !is_gone) });
        }
        Some(Self { object, kind, told, hidden })
    }
}

fn hidden(object: &ObjectRef, missing: &Element) -> Option<Hidden> {
    let path = missing.text_at("path")?.to_owned();
    let fault = missing.at("fault.fault").or_else(|| missing.child("fault"))?;
    let why = match fault.text_at("privilegeId") {
        Some(privilege) => privilege.to_owned(),
        None => fault.value_type.as_deref().unwrap_or("unknown").to_owned(),
    };
    Some(Hidden { kind: object.kind.to_string(), path, why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::element::tests::element;

    #[tokio::test]
    async fn an_update_tells_what_changed_what_went_and_what_is_hidden() {
        let read = Update::read(
            element(
                r#"<objectSet xmlns:i="http://www.w3.org/2001/XMLSchema-instance"><kind>modify</kind>
                <obj type="VirtualMachine">vm-1</obj>
                <changeSet><name>name</name><op>assign</op><val i:type="s:string">a</val></changeSet>
                <changeSet><name>snapshot</name><op>assign</op></changeSet>
                <changeSet><name>guest.net</name><op>indirectRemove</op><val>x</val></changeSet>
                <missingSet><path>config.annotation</path><fault><fault i:type="NoPermission">
                <object type="VirtualMachine">vm-1</object><privilegeId>System.Read</privilegeId></fault></fault></missingSet>
                </objectSet>"#,
            )
            .await,
        )
        .unwrap();
        assert_eq!((read.kind, &*read.object.kind, &*read.object.id), (Kind::Modify, "VirtualMachine", "vm-1"));
        let values: Vec<_> =
            read.told.iter().map(|told| (&*told.path, told.value.as_ref().map(|value| &*value.text))).collect();
        assert_eq!(values, [("name", Some("a")), ("snapshot", None), ("guest.net", None)]);
        let expected =
            Hidden { kind: "VirtualMachine".into(), path: "config.annotation".into(), why: "System.Read".into() };
        assert_eq!(read.hidden, [expected]);
    }

    #[test]
    fn ids_are_those_of_the_source_behind_a_prefix() {
        let object = ObjectRef { kind: "VirtualApp".into(), id: "resgroup-v1".into() };
        let id = |prefix: &str| Ids { prefix: prefix.into() }.resource(&object).unwrap().to_string();
        assert!(id("").ends_with("resgroup-v1") && id("fra:").ends_with("fra:resgroup-v1"));
        let task = ObjectRef { kind: "Task".into(), id: "task-1".into() };
        assert!(Ids::default().resource(&task).is_none());
    }
}
