//! The resources of the stats service.

use super::{id, long, model, string, structure};
use crate::{Property, ResourceModel};

/// The type of acquisition specifications; ids are decimal numbers.
pub const ACQ_SPEC: &str = "AcqSpec";

/// The type of providers of samples; the id is that of the host they stand on.
pub const STATS_PROVIDER: &str = "StatsProvider";

/// The type of resource addresses, which data points name; ids are decimal numbers.
pub const RESOURCE_ADDRESS: &str = "ResourceAddress";

pub(super) fn models() -> Vec<ResourceModel> {
    vec![
        model(ACQ_SPEC, acq_spec()),
        model(
            STATS_PROVIDER,
            vec![id("host", "HostSystem"), string("metadata"), string("counters").list(), long("tracking_sn")],
        ),
        // A virtual machine's address names the host it was sampled on too.
        model(RESOURCE_ADDRESS, vec![id("vm", "VirtualMachine"), id("host", "HostSystem")]),
    ]
}

/// What a specification, or a copy of one, holds.
pub(super) fn acq_spec() -> Vec<Property> {
    vec![
        structure("counters", vec![string("cid"), string("mid"), string("set_id")]),
        structure(
            "resources",
            vec![string("key"), string("type"), string("id_value"), string("predicate"), string("scheme")],
        )
        .list(),
        long("interval"),
        long("expiration"),
        string("memo"),
        string("status"),
        string("status_reason"),
    ]
}
