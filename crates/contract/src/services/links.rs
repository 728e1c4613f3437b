//! Links to other sites, what is kept in step over them, and who administers linked sites.
//!
//! The operations of `com.vmware.vcenter.hvc` are those that vCenter's clients call; those of `lockstep.links` are ours: what people
//! are shown, and how two sites agree on a link.
//!
//! Source: seed 001; `api/hvc.md`, sections 2 and 3.

pub mod administrators;
pub mod providers;
pub mod tagging;

use crate::services::NoInput;
use crate::{DateTime, Message, Method, Rest, Secret, enumeration, operation, structure};

structure! {
    /// What a link is made from.
    pub struct CreateSpec = "com.vmware.vcenter.hvc.links.create_spec" {
        /// The other site's host name or address.
        psc_hostname: String,
        /// Its port, 1 to 65535; unset: 443.
        port: Option<String>,
        /// The other site's name: what it is called here, and what the ids of its resources begin with here.
        domain_name: String,
        /// An administrator there. Used to make the link, and not kept.
        username: String,
        /// The password. Not kept.
        password: Secret,
        /// SHA-256 of the certificate that the other site shows, in hex with or without colons; unset: one that this server trusts.
        ssl_thumbprint: Option<String>,
        /// Groups `group@domain` that become administrators here.
        admin_groups: Option<Vec<String>>,
    }
}

structure! {
    /// An account of the other site.
    pub struct Credentials = "com.vmware.vcenter.hvc.links.credentials" {
        /// The user's name there.
        user_name: String,
        /// The password there.
        password: Secret,
    }
}

structure! {
    /// A link in a list.
    pub struct Summary = "com.vmware.vcenter.hvc.links.summary" {
        /// The link's id.
        link: String,
        /// The other site's name.
        display_name: String,
    }
}

enumeration! {
    /// Whether the other site answers as it should.
    pub enum HealthStatus = "com.vmware.vcenter.hvc.links.info.connection_health_status" {
        /// It does.
        Healthy = "HEALTHY",
        /// It does not.
        Unhealthy = "UNHEALTHY",
    }
}

structure! {
    /// How a link is. Made by [`Info::new`], which keeps the rule of the union.
    pub struct Info = "com.vmware.vcenter.hvc.links.info" {
        /// How the last probe ended; unset before the first.
        connection_health_status: Option<HealthStatus>,
        /// What is wrong; set when, and only when, the status is UNHEALTHY.
        health_status_message: Option<Message>,
    }
}

/// How the last probe of a link ended.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Health {
    /// There was none yet.
    #[default]
    Unknown,
    /// The other site answers as it should.
    Healthy,
    /// It does not, for this reason.
    Unhealthy(Message),
}

impl Health {
    /// The status and the message that belong together.
    pub fn parts(self) -> (Option<HealthStatus>, Option<Message>) {
        match self {
            Self::Unknown => (None, None),
            Self::Healthy => (Some(HealthStatus::Healthy), None),
            Self::Unhealthy(message) => (Some(HealthStatus::Unhealthy), Some(message)),
        }
    }
}

impl Info {
    /// What is shown of a link's health.
    pub fn new(health: Health) -> Self {
        let (connection_health_status, health_status_message) = health.parts();
        Self { connection_health_status, health_status_message }
    }
}

structure! {
    /// The parameters of `create`.
    pub struct CreateInput = "operation-input" {
        /// What the link is made from.
        spec: CreateSpec,
    }
}

structure! {
    /// The parameters of `get` and `delete`.
    pub struct LinkInput = "operation-input" {
        /// The link's id.
        link: String,
    }
}

structure! {
    /// The parameters of `delete_with_credentials`.
    pub struct DeleteWithCredentialsInput = "operation-input" {
        /// The link's id.
        link: String,
        /// An administrator of the other site, to undo its half too; unset: by the link's own token.
        credentials: Option<Credentials>,
    }
}

operation! {
    /// Links this site with another. Answers the link's id.
    ///
    /// Both sites see the link, and each pulls from the other from then on.
    pub Create = "com.vmware.vcenter.hvc.links"."create"(CreateInput) -> String,
    errors: [AlreadyExists, Error, InvalidArgument, Unauthenticated, Unauthorized, Unsupported, UnverifiedPeer],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/hvc/links", 201).body("spec"),
}

operation! {
    /// Lists the links.
    pub List = "com.vmware.vcenter.hvc.links"."list"(NoInput) -> Vec<Summary>,
    errors: [Error, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/hvc/links", 200),
}

operation! {
    /// How a link is, as of the last probe.
    pub Get = "com.vmware.vcenter.hvc.links"."get"(LinkInput) -> Info,
    errors: [Error, NotFound, ResourceBusy, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/hvc/links/{link}", 200),
    id: "link",
}

operation! {
    /// Ends a link on both sides; on the other side when it can be reached. What was copied stays, and is not changed any more.
    pub Delete = "com.vmware.vcenter.hvc.links"."delete"(LinkInput) -> (),
    errors: [Error, NotFound, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Delete, "/hvc/links/{link}", 204),
    id: "link",
}

operation! {
    /// Ends a link on both sides, on the other side with an account of it.
    pub DeleteWithCredentials = "com.vmware.vcenter.hvc.links"."delete_with_credentials"(DeleteWithCredentialsInput) -> (),
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/hvc/links/{link}", 204).action("delete"),
    id: "link",
}

enumeration! {
    /// Which side asked for a link.
    pub enum Role = "lockstep.links.role" {
        /// This one.
        Origin = "ORIGIN",
        /// The other one.
        Target = "TARGET",
    }
}

enumeration! {
    /// What becomes of a link.
    pub enum State = "lockstep.links.state" {
        /// It is there.
        Active = "ACTIVE",
        /// It is being ended.
        Removing = "REMOVING",
        /// It has ended, and what was copied over it is being deleted.
        Purging = "PURGING",
    }
}

structure! {
    /// What is kept in step over a link, for people.
    pub struct ProviderDetails = "lockstep.links.provider_details" {
        /// The provider's id.
        provider: String,
        /// How it is.
        info: providers::Info,
        /// Whether a sync is under way, and which part of it.
        running: Option<providers::Stage>,
        /// Units of work that the sync under way has done.
        completed_work: i64,
        /// Units of work that it has in all, as far as is known.
        total_work: i64,
        /// Units a second of the sync under way, or of the last one.
        rate: Option<f64>,
        /// Whether the other site tells each change as it happens.
        is_following: bool,
        /// How many commits of the other site are not here yet, as of the last probe; unset when that is not known.
        lag_positions: Option<i64>,
        /// For how many seconds what is here may have been behind; 0 while it is in step, unset before the first sync.
        lag_s: Option<i64>,
    }
}

structure! {
    /// A link, for people.
    pub struct Details = "lockstep.links.details" {
        /// The link's id.
        link: String,
        /// What the other site is called here.
        domain_name: String,
        /// What it calls itself.
        site: String,
        /// Where it is.
        url: String,
        /// The certificate that it must show; unset for one without TLS.
        ssl_thumbprint: Option<String>,
        /// Which side asked for the link.
        role: Role,
        /// What becomes of it.
        state: State,
        /// When it was made.
        created: DateTime,
        /// How it is.
        health: Info,
        /// How long the last probe took, in milliseconds.
        round_trip_ms: Option<f64>,
        /// The groups that were made administrators with it.
        admin_groups: Vec<String>,
        /// What is kept in step over it.
        providers: Vec<ProviderDetails>,
    }
}

operation! {
    /// The links, with all that people want to know of them.
    pub ListDetails = "lockstep.links"."list"(NoInput) -> Vec<Details>,
    errors: [Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/links", 200),
}

structure! {
    /// The parameters of `delete`.
    pub struct DeleteInput = "operation-input" {
        /// The link's id.
        link: String,
        /// An administrator of the other site, to undo its half too; unset: by the link's own token.
        credentials: Option<Credentials>,
        /// Also delete what was copied over the link, in the background; the link is gone when that is done.
        purge: Option<bool>,
    }
}

operation! {
    /// Ends a link, and deletes what was copied over it when asked to.
    ///
    /// Stands at the second spelling of `delete_with_credentials`, which it can take the place of.
    pub DeleteDetails = "lockstep.links"."delete"(DeleteInput) -> (),
    errors: [Error, InvalidArgument, NotFound, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/hvc/links/{link}", 204).action("delete-with-credentials"),
}

structure! {
    /// Lets another site link itself with this one, once.
    pub struct Invitation = "lockstep.links.invitation" {
        /// One line to hand over: `URL#THUMBPRINT.SECRET.NAME`. It is as good as an administrator's password for making one link.
        line: Secret,
        /// When it ends unless it is used.
        expires: DateTime,
    }
}

operation! {
    /// Invites another site. The invitation is good for one link within an hour, and until this server stops.
    pub Invite = "lockstep.links"."invite"(NoInput) -> Invitation,
    errors: [ResourceBusy, Unauthenticated, Unauthorized],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/lockstep/links", 201).action("invite"),
}

structure! {
    /// The parameters of `join`.
    pub struct JoinInput = "operation-input" {
        /// The line that the other site's `invite` answered.
        invitation: Secret,
        /// What the other site is to be called here; unset: what it calls itself.
        domain_name: Option<String>,
        /// Groups `group@domain` that become administrators here.
        admin_groups: Option<Vec<String>>,
    }
}

operation! {
    /// Links this site with the one that invited it. Answers the link's id.
    pub Join = "lockstep.links"."join"(JoinInput) -> String,
    errors: [AlreadyExists, Error, InvalidArgument, Unauthenticated, Unauthorized, Unsupported, UnverifiedPeer],
    privilege: Accounts,
    rest: Rest::new(Method::Post, "/lockstep/links", 201).action("join"),
}

structure! {
    /// What a site says that wants a link.
    pub struct AcceptInput = "operation-input" {
        /// The link's id.
        link: String,
        /// What the asking site calls itself.
        site: String,
        /// The epoch of its log.
        log: String,
        /// Where it is reached.
        url: String,
        /// The certificate that it shows; unset without TLS.
        ssl_thumbprint: Option<String>,
        /// An access token of the role LINK at the asking site.
        token: Secret,
        /// The secret of an invitation, instead of a login.
        invitation: Option<Secret>,
    }
}

structure! {
    /// What the site answers that was asked.
    pub struct Accepted = "lockstep.links.accepted" {
        /// What it calls itself.
        site: String,
        /// The epoch of its log.
        log: String,
        /// An access token of the role LINK there.
        token: Secret,
    }
}

operation! {
    /// Makes this side's half of a link. Called by the other site, as an administrator or with an invitation.
    pub Accept = "lockstep.links"."accept"(AcceptInput) -> Accepted,
    errors: [AlreadyExists, InvalidArgument, Unauthenticated, Unauthorized],
    privilege: Anonymous,
    rest: Rest::new(Method::Post, "/lockstep/links", 201).action("accept"),
}

operation! {
    /// Ends this side's half of a link. Called by the other site with the link's token, or as an administrator.
    pub Leave = "lockstep.links"."leave"(LinkInput) -> (),
    errors: [NotFound, Unauthenticated, Unauthorized],
    privilege: Read,
    rest: Rest::new(Method::Post, "/lockstep/links/{link}", 204).action("leave"),
}

#[cfg(test)]
mod tests {
    use super::providers::{Info as ProviderInfo, Outcome, RunningStage, SessionInfo, SessionState};
    use super::*;
    use crate::{PlainJson, TypedJson, Wire};

    fn plain(value: &impl Wire) -> serde_json::Value {
        let mut w = PlainJson::default();
        value.encode(&mut w);
        serde_json::from_slice(&w.out).unwrap()
    }

    fn why() -> Message {
        Message::new("lockstep.sync.unreachable", "site2.local does not answer", vec!["site2.local".to_owned()])
    }

    fn at(second: u32) -> DateTime {
        DateTime(format!("2024-05-01T10:00:{second:02}.000Z"))
    }

    #[test]
    fn health_keeps_the_rule_of_its_union() {
        let check = |health, expected: serde_json::Value| assert_eq!(plain(&Info::new(health)), expected);
        check(Health::Unknown, serde_json::json!({}));
        check(Health::Healthy, serde_json::json!({"connection_health_status": "HEALTHY"}));
        let message = plain(&why());
        check(
            Health::Unhealthy(why()),
            serde_json::json!({"connection_health_status": "UNHEALTHY", "health_status_message": message}),
        );
    }

    #[test]
    fn sessions_keep_the_rule_of_their_union_in_every_stage() {
        let running = [
            (RunningStage::Waiting, "WAITING", (0, 0)),
            (RunningStage::ChangeDetection, "CHANGE_DETECTION", (3, 7)),
            (RunningStage::ChangeEnumeration, "CHANGE_ENUMERATION", (3, 7)),
            (RunningStage::ChangeApplication, "CHANGE_APPLICATION", (3, 7)),
        ];
        for (stage, name, (completed, total)) in running {
            let info = plain(&SessionInfo::new(at(0), SessionState::Running(stage), 3, 7));
            let expected = serde_json::json!({"stage": name, "completed_work": completed, "total_work": total,
                "start_time": "2024-05-01T10:00:00.000Z"});
            assert_eq!(info, expected);
        }
        let done = SessionInfo::new(at(0), SessionState::Completed(at(9)), 3, 7);
        assert_eq!((done.completed_work, done.total_work), (7, 7), "all is done");
        assert!(done.completion_time.is_some() && done.exception.is_none());
        let failed = SessionInfo::new(at(0), SessionState::Failed(at(9), why()), 9, 7);
        assert_eq!((failed.completed_work, failed.total_work), (9, 9), "never more done than there is");
        assert!(failed.completion_time.is_some() && failed.exception.is_some());
    }

    #[test]
    fn providers_keep_the_rule_of_their_union_in_every_state() {
        let session = SessionInfo::new(at(4), SessionState::Running(RunningStage::ChangeApplication), 120, 400);
        for (outcome, status) in [
            (Outcome::NoSyncFound, "NO_SYNC_FOUND"),
            (Outcome::Succeeded, "SUCCEEDED"),
            (Outcome::Failed(why()), "FAILED"),
        ] {
            for session in [None, Some(session.clone())] {
                let info = ProviderInfo::new(Some(at(0)), outcome.clone(), 300, session.clone());
                let json = plain(&info);
                assert_eq!(json["status"], status);
                assert_eq!(json.get("status_message").is_some(), status == "FAILED");
                assert_eq!(json.get("current_session_info").is_some(), session.is_some());
                // What is written reads back, the union's rule checked.
                let data = crate::Data::from_json(json.to_string().as_bytes()).unwrap();
                let place = crate::Place::root(crate::Encoding::Plain);
                assert_eq!(ProviderInfo::decode(data, &place).unwrap(), info);
            }
        }
    }

    #[test]
    fn the_seeds_answer_travels_typed_as_its_clients_expect() {
        let info = ProviderInfo::new(Some(at(0)), Outcome::Succeeded, 300, None);
        let mut w = TypedJson::default();
        info.encode(&mut w);
        let expected = serde_json::json!({"STRUCTURE": {"com.vmware.vcenter.hvc.links.sync.providers.info": {
            "last_sync_time": {"OPTIONAL": "2024-05-01T10:00:00.000Z"}, "status": "SUCCEEDED",
            "polling_interval_in_seconds": 300, "current_session_info": {"OPTIONAL": null},
            "status_message": {"OPTIONAL": null}}}});
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&w.out).unwrap(), expected);
    }
}
