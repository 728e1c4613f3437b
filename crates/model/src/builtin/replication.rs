//! The resources of replication, and of tasks.

use super::{boolean, date_time, id, links::LINK, long, model, string, structure};
use crate::ResourceModel;

/// The type of tasks; ids are UUIDs.
pub const TASK: &str = "Task";

/// The type of replications; ids are UUIDs, the same at both sites.
pub const VM_REPLICATION: &str = "VmReplication";

pub(super) fn models() -> Vec<ResourceModel> {
    let error = |name| structure(name, vec![string("code"), string("msg"), string("args").list()]);
    vec![
        model(
            TASK,
            vec![
                string("kind"),
                string("user"),
                string("site"),
                string("state"),
                long("progress"),
                date_time("start_time"),
                date_time("last_updated"),
                date_time("end_time"),
                string("resource_type"),
                string("resource_id"),
                string("resource_name"),
                string("source_org"),
                string("destination_org"),
                string("operation_id"),
                // Parameters and result as JSON: what they hold differs by kind.
                string("input"),
                string("result_type"),
                string("result"),
                error("error"),
                error("warnings").list(),
                structure("log", vec![date_time("time"), string("text")]).list(),
            ],
        ),
        model(
            VM_REPLICATION,
            vec![
                id("vm", "VirtualMachine"),
                id("link", LINK),
                // Which side this site is.
                string("side"),
                // What the source owns.
                structure(
                    "source",
                    vec![
                        long("revision"),
                        string("vm_id"),
                        string("vm_name"),
                        string("computer_name"),
                        string("vapp_id"),
                        string("site"),
                        string("destination_site"),
                        string("owner"),
                        string("vdc"),
                        string("storage_profile"),
                        boolean("is_migration"),
                        boolean("is_paused"),
                        boolean("is_reversed"),
                        long("turns"),
                        date_time("created"),
                        string("activity"),
                        date_time("activity_since"),
                        long("rpo_violation_minutes"),
                        string("cycle"),
                        structure(
                            "settings",
                            vec![
                                string("description"),
                                long("rpo_minutes"),
                                boolean("quiesced"),
                                string("data_connection"),
                                structure("retention", vec![long("instances"), long("distance_minutes")]).list(),
                                date_time("initial_sync"),
                                long("excluded_disk_keys").list(),
                                string("target_disk_type"),
                                string("sla_profile"),
                            ],
                        ),
                        structure(
                            "last_sync",
                            vec![
                                string("instance"),
                                string("root"),
                                date_time("time"),
                                date_time("ended"),
                                long("sequence"),
                                string("quiesced"),
                                string("method"),
                                string("reason"),
                                long("read_bytes"),
                                long("changed_bytes"),
                                long("sent_bytes"),
                                long("wire_bytes"),
                                long("took_ms"),
                                long("pause_ms"),
                            ],
                        ),
                        error("last_error"),
                    ],
                ),
                // What the destination owns.
                structure(
                    "replica",
                    vec![
                        long("revision"),
                        string("recovery_state"),
                        string("recovered_vm"),
                        string("recovered_instance"),
                        boolean("is_turning"),
                        long("bytes"),
                        error("last_error"),
                    ],
                ),
            ],
        ),
    ]
}
