//! The resources of the links to other sites.

use super::{date_time, id, long, model, stats, string, structure};
use crate::ResourceModel;

/// The type of links; the id is random, and the same on both sides.
pub const LINK: &str = "Link";

/// The type of what is kept in step over a link; ids are `<link>/<provider>`.
pub const SYNC_PROVIDER: &str = "SyncProvider";

/// The type of the places that sync providers have come to; ids as those of [`SYNC_PROVIDER`].
///
/// Apart from the provider itself: it is committed together with what was applied, by who applies it and nobody else.
pub const SYNC_CURSOR: &str = "SyncCursor";

/// The type of the administrators of linked sites; there is one resource, [`LINK_ADMINISTRATORS_ID`].
pub const LINK_ADMINISTRATORS: &str = "LinkAdministrators";

/// The type of copies of other sites' acquisition specifications.
///
/// A type of its own: a specification is an order to sample, a copy of one tells what is sampled elsewhere, and whoever reads the orders must
/// not meet it.
pub const LINKED_ACQ_SPEC: &str = "LinkedAcqSpec";

/// The type of what is known of edits of categories, tags and attachments beside what they came to; ids are `<type>/<id>` of the resource
/// that was edited, which may be gone.
pub const TAG_STAMPS: &str = "TagStamps";

/// The type of edits of tagging that lost against those of another site.
pub const TAG_CONFLICT: &str = "TagConflict";

/// The id of the one resource of [`LINK_ADMINISTRATORS`].
pub const LINK_ADMINISTRATORS_ID: &str = "groups";

pub(super) fn models() -> Vec<ResourceModel> {
    let message = |name| structure(name, vec![string("id"), string("default_message"), string("args").list()]);
    vec![
        model(
            LINK,
            vec![
                string("domain_name"),
                string("hostname"),
                long("port"),
                string("url"),
                string("thumbprint"),
                string("role"),
                string("peer_site"),
                string("peer_log"),
                string("admin_groups").list(),
                string("state"),
                string("health"),
                message("health_message"),
                date_time("created"),
                string("token").secret(),
            ],
        ),
        model(
            SYNC_PROVIDER,
            vec![
                id("link", LINK),
                string("provider"),
                date_time("last_sync_time"),
                string("status"),
                message("status_message"),
                long("polling_interval_s"),
                structure(
                    "session",
                    vec![
                        string("stage"),
                        long("completed_work"),
                        long("total_work"),
                        date_time("start_time"),
                        date_time("completion_time"),
                        message("exception"),
                    ],
                ),
            ],
        ),
        model(SYNC_CURSOR, vec![id("link", LINK), string("cursor")]),
        model(LINK_ADMINISTRATORS, vec![string("groups").list()]),
        model(LINKED_ACQ_SPEC, stats::acq_spec()),
        // For the sites among themselves: in no answer.
        model(TAG_STAMPS, vec![string("stamps").secret()]),
        model(
            TAG_CONFLICT,
            vec![
                string("resource_type"),
                string("resource_id"),
                string("property"),
                string("reason"),
                string("lost"),
                string("lost_site"),
                date_time("lost_time"),
                string("kept"),
                string("kept_site"),
                date_time("kept_time"),
            ],
        ),
    ]
}
