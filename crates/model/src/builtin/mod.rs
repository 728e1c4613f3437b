//! The models that every site has.

mod collectors;
mod inventory;
mod links;
mod own;
mod replication;
mod stats;

use std::sync::LazyLock;

use crate::{Kind, Property, ResourceModel, TypeDef};

pub use collectors::COLLECTOR;
pub use links::{
    LINK, LINK_ADMINISTRATORS, LINK_ADMINISTRATORS_ID, LINKED_ACQ_SPEC, SYNC_CURSOR, SYNC_PROVIDER, TAG_CONFLICT,
    TAG_STAMPS,
};
pub use own::{ACCOUNT, RESOURCE_MODEL};
pub use replication::{TASK, VM_REPLICATION};
pub use stats::{ACQ_SPEC, RESOURCE_ADDRESS, STATS_PROVIDER};

/// The type of tags.
pub const TAG: &str = "Tag";

/// The type of categories of tags.
pub const TAG_CATEGORY: &str = "TagCategory";

/// The property in which whatever can be tagged lists its tags.
pub const TAGS: &str = "tags";

static MODELS: LazyLock<Vec<ResourceModel>> = LazyLock::new(|| {
    [inventory::models(), own::models(), stats::models(), links::models(), collectors::models(), replication::models()]
        .concat()
});

/// All built-in models.
pub fn models() -> Vec<ResourceModel> {
    MODELS.clone()
}

/// Whether a model of that name is built in.
pub fn is_builtin(model: &str) -> bool {
    MODELS.iter().any(|m| &*m.name == model)
}

/// Whether a type of that name has a built-in model.
pub fn is_builtin_type(resource_type: &str) -> bool {
    MODELS.iter().any(|m| m.resource_type.as_str() == resource_type)
}

/// The service that alone writes the resources of a type, since it has rules of its own for them.
pub fn writing_service(resource_type: &str) -> Option<&'static str> {
    match resource_type {
        ACCOUNT => Some("lockstep.accounts"),
        RESOURCE_MODEL => Some("lockstep.models"),
        ACQ_SPEC => Some("com.vmware.vstats.acq_specs"),
        STATS_PROVIDER => Some("lockstep.stats.providers"),
        RESOURCE_ADDRESS => Some("lockstep.stats.points"),
        LINK | SYNC_PROVIDER | SYNC_CURSOR | LINKED_ACQ_SPEC | TAG_STAMPS | TAG_CONFLICT => {
            Some("com.vmware.vcenter.hvc.links")
        }
        COLLECTOR => Some("lockstep.collectors"),
        TASK => Some("lockstep.tasks"),
        VM_REPLICATION => Some("lockstep.replication.vm"),
        LINK_ADMINISTRATORS => Some("com.vmware.vcenter.hvc.management.administrators"),
        _ => None,
    }
}

/// Whether resources of the type can be tagged: they have a list [`TAGS`] that may point to tags. Types registered at run time may
/// have one, too.
pub fn is_taggable(type_def: &TypeDef) -> bool {
    type_def.property([TAGS]).is_some_and(|property| {
        let points_to_tags = match &property.kind {
            Kind::Id { targets, .. } => targets.is_empty() || targets.iter().any(|target| target.as_str() == TAG),
            _ => false,
        };
        property.list && points_to_tags
    })
}

/// A model whose name is its type's.
fn model(name: &str, properties: Vec<Property>) -> ResourceModel {
    ResourceModel { name: name.into(), resource_type: name.into(), properties }
}

fn long(name: &str) -> Property {
    Property::new(name, Kind::Long)
}

fn double(name: &str) -> Property {
    Property::new(name, Kind::Double)
}

fn boolean(name: &str) -> Property {
    Property::new(name, Kind::Boolean)
}

fn string(name: &str) -> Property {
    Property::new(name, Kind::String)
}

fn date_time(name: &str) -> Property {
    Property::new(name, Kind::DateTime)
}

fn id(name: &str, target: &str) -> Property {
    Property::new(name, Kind::Id { targets: vec![target.into()], parent: false })
}

fn parent(name: &str, target: &str) -> Property {
    Property::new(name, Kind::Id { targets: vec![target.into()], parent: true })
}

fn tags() -> Property {
    id(TAGS, TAG).list()
}

fn structure(name: &str, fields: Vec<Property>) -> Property {
    Property::new(name, Kind::Struct { fields })
}
