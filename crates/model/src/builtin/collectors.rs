//! The resources of collectors: what keeps a part of the inventory as a source outside has it.

use super::{date_time, model, string, structure};
use crate::ResourceModel;

/// The type of collectors; the id is the collector's name.
pub const COLLECTOR: &str = "Collector";

pub(super) fn models() -> Vec<ResourceModel> {
    vec![model(
        COLLECTOR,
        vec![
            string("kind"),
            string("address"),
            string("user"),
            string("thumbprint"),
            // What the ids of the collector's resources begin with; decided once.
            string("id_prefix"),
            // Which installation the source says it is.
            string("source_id"),
            string("product"),
            // What changes with every round is not stored: an inventory at rest writes nothing.
            string("status"),
            structure("status_message", vec![string("id"), string("default_message"), string("args").list()]),
            date_time("status_since"),
            date_time("created"),
            string("password").secret(),
        ],
    )]
}
