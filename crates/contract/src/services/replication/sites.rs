//! This site, those that are linked with it, and what they say of themselves.
//!
//! Source: `api/vcda.md`, section 9.

use crate::services::NoInput;
use crate::services::tasks::ApiError;
use crate::{Method, Rest, operation, structure};

structure! {
    /// Whether two sites reach each other.
    pub struct SiteState = "lockstep.replication.sites.state" {
        /// Why the other does not reach this one; nobody knows here, so nothing.
        incoming_comm_error as "incomingCommError": Option<ApiError>,
        /// Why this one does not reach the other.
        outgoing_comm_error as "outgoingCommError": Option<ApiError>,
    }
}

structure! {
    /// A site.
    pub struct Site = "lockstep.replication.sites.site" {
        /// Its name.
        site: String,
        /// For people.
        description: String,
        /// Where it is.
        api_url as "apiUrl": String,
        /// The same.
        api_public_url as "apiPublicUrl": String,
        /// `SHA-256:` and the thumbprint of its certificate.
        api_thumbprint as "apiThumbprint": Option<String>,
        /// The newest version of the API.
        api_version as "apiVersion": String,
        /// The version of the program.
        build_version as "buildVersion": String,
        /// Whether it is this one.
        is_local as "isLocal": bool,
        /// Whether it is reached.
        state: SiteState,
    }
}

structure! {
    /// What moves the data of a site: the site itself, as one program does all.
    pub struct Replicator = "lockstep.replication.sites.replicator" {
        /// Its id.
        id: String,
        /// `*`: everybody's.
        owner: String,
        /// Its site.
        site: String,
        /// For people.
        description: String,
        /// Where it is.
        api_url as "apiUrl": String,
        /// `SHA-256:` and the thumbprint of its certificate.
        cert_thumbprint as "certThumbprint": Option<String>,
        /// None.
        pairing_cookie as "pairingCookie": Option<String>,
        /// Whether it is reached.
        state: SiteState,
        /// Never.
        is_in_maintenance_mode as "isInMaintenanceMode": bool,
        /// The newest version of the API.
        api_version as "apiVersion": String,
        /// None: data go where the API is.
        data_address as "dataAddress": Option<String>,
        /// The version of the program.
        build_version as "buildVersion": String,
    }
}

structure! {
    /// What replications may be like. There is one policy, which holds for all.
    pub struct Policy = "lockstep.replication.sites.policy" {
        /// Its id.
        id: String,
        /// For people.
        display_name as "displayName": String,
        /// Least minutes that a replica may be let fall behind.
        min_rpo as "minRpo": i64,
        /// Most instances that retention rules keep.
        max_instances as "maxInstances": i64,
        /// Most instances that are kept beside them; none is refused, so none is told.
        max_pinned_instances as "maxPinnedInstances": Option<i64>,
        /// Most replications to a site; none is refused, so none is told.
        max_incoming as "maxIncoming": Option<i64>,
        /// Whether replications may come in: whether the site has a store for instances.
        allow_incoming as "allowIncoming": bool,
        /// Whether machines may be replicated to other sites.
        allow_outgoing as "allowOutgoing": bool,
        /// Whom it holds for.
        orgs: Vec<String>,
    }
}

structure! {
    /// A site by its name.
    pub struct SiteInput = "operation-input" {
        /// The name.
        name: String,
    }
}

structure! {
    /// Whether the site was set up.
    pub struct IsConfigured = "lockstep.replication.sites.is_configured" {
        /// Always: a site sets itself up at its first start.
        is_configured as "isConfigured": bool,
    }
}

structure! {
    /// How the site is set up.
    pub struct Configuration = "lockstep.replication.sites.configuration" {
        /// Its id.
        id: String,
        /// Its name.
        local_site as "localSite": String,
        /// For people.
        local_site_description as "localSiteDescription": String,
        /// Always: one program does all.
        is_combined as "isCombined": bool,
        /// None.
        ls_url as "lsUrl": Option<String>,
        /// None.
        ls_thumbprint as "lsThumbprint": Option<String>,
        /// Itself.
        vcd_url as "vcdUrl": Option<String>,
        /// Its certificate's.
        vcd_thumbprint as "vcdThumbprint": Option<String>,
        /// None.
        vcd_username as "vcdUsername": Option<String>,
        /// Itself.
        tunnel_url as "tunnelUrl": Option<String>,
        /// None.
        tunnel_certificate as "tunnelCertificate": Option<String>,
    }
}

structure! {
    /// What the program says of itself.
    pub struct About = "lockstep.replication.sites.about" {
        /// `CLOUD`.
        service_type as "serviceType": String,
        /// The product.
        product_name as "productName": String,
        /// Its version, for clients that compare it as text.
        build_version as "buildVersion": String,
        /// When it was built, in milliseconds since 1970; -1 when that is not known.
        build_date as "buildDate": i64,
        /// The site's log.
        instance_id as "instanceId": String,
        /// Changes with each start.
        runtime_id as "runtimeId": String,
        /// The present, in milliseconds since 1970.
        current_time as "currentTime": i64,
        /// Where it listens.
        address: String,
    }
}

structure! {
    /// How the site is.
    pub struct HealthInfo = "lockstep.replication.sites.health" {
        /// `CLOUD`.
        service_type as "serviceType": String,
        /// The product.
        product_name as "productName": String,
        /// Its version.
        build_version as "buildVersion": String,
        /// The site.
        site: String,
        /// The present, in milliseconds since 1970.
        current_time as "currentTime": i64,
        /// Replications by how they are.
        green: i64,
        /// Replications that have fallen behind or rest.
        yellow: i64,
        /// Replications whose last sync failed.
        red: i64,
        /// Linked sites that are not reached.
        offline_sites as "offlineSites": Vec<String>,
        /// Why the store of instances does not work.
        store_error as "storeError": Option<ApiError>,
    }
}

structure! {
    /// A machine of the inventory.
    pub struct Vm = "lockstep.replication.sites.vm" {
        /// Its id.
        id: String,
        /// The same, as older clients look for it.
        vm_id as "vmId": String,
        /// Its name.
        name: String,
        /// The same.
        display_name as "displayName": String,
        /// The vApp: one for each machine.
        vapp_id as "vappId": String,
        /// Its name.
        vapp_name as "vappName": String,
        /// The site.
        site: String,
        /// Whether it runs.
        power_state as "powerState": Option<String>,
        /// Its guest.
        guest_os as "guestOs": Option<String>,
        /// How many processors it has.
        cpus: Option<i64>,
        /// Its memory, in MiB.
        memory_mib as "memoryMiB": Option<i64>,
        /// Its disks.
        disks: Vec<VmDisk>,
        /// The replication that copies it.
        replication_id as "replicationId": Option<String>,
    }
}

structure! {
    /// A disk of a machine.
    pub struct VmDisk = "lockstep.replication.sites.vm_disk" {
        /// Its key: 2000 for the first.
        disk_key as "diskKey": i64,
        /// Its label.
        label: Option<String>,
        /// Its size in bytes.
        capacity: Option<i64>,
    }
}

structure! {
    /// Some of many.
    pub struct VmPage = "lockstep.replication.sites.vm_page" {
        /// The machines, by id.
        items: Vec<Vm>,
        /// How many were passed over.
        offset: i64,
        /// Most that were asked for.
        limit: i64,
        /// How many there are in all.
        total: i64,
    }
}

structure! {
    /// The parameters of `vms`.
    pub struct VmsInput = "operation-input" {
        /// Machines whose name holds this; `%` stands for anything.
        name: Option<String>,
        /// How many to pass over.
        offset: Option<i64>,
        /// How many to answer at most; 100 unless said otherwise.
        limit: Option<i64>,
    }
}

operation! {
    /// This site, and those that are linked with it.
    pub List = "lockstep.replication.sites"."list"(NoInput) -> Vec<Site>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/sites", 200),
    availability: Rest::new(Method::Get, "/sites", 200),
}

operation! {
    /// A site.
    pub Get = "lockstep.replication.sites"."get"(SiteInput) -> Site,
    errors: [NotFound],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/sites/{name}", 200),
    availability: Rest::new(Method::Get, "/sites/{name}", 200),
}

operation! {
    /// What moves the data of this site, and of those that are linked with it.
    pub ListReplicators = "lockstep.replication.sites"."replicators"(NoInput) -> Vec<Replicator>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/replicators", 200),
    availability: Rest::new(Method::Get, "/replicators", 200),
}

operation! {
    /// What replications may be like here.
    pub ListPolicies = "lockstep.replication.sites"."policies"(NoInput) -> Vec<Policy>,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/policies", 200),
    availability: Rest::new(Method::Get, "/policies", 200),
}

operation! {
    /// Whether the site was set up.
    pub GetIsConfigured = "lockstep.replication.sites"."is_configured"(NoInput) -> IsConfigured,
    errors: [],
    privilege: Anonymous,
    rest: Rest::new(Method::Get, "/lockstep/replication/config/is-configured", 200),
    availability: Rest::new(Method::Get, "/config/is-configured", 200),
}

operation! {
    /// How the site is set up.
    pub GetConfiguration = "lockstep.replication.sites"."configuration"(NoInput) -> Configuration,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/config", 200),
    availability: Rest::new(Method::Get, "/config", 200),
}

operation! {
    /// What the program says of itself.
    pub GetAbout = "lockstep.replication.sites"."about"(NoInput) -> About,
    errors: [],
    privilege: Anonymous,
    rest: Rest::new(Method::Get, "/lockstep/replication/diagnostics/about", 200),
    availability: Rest::new(Method::Get, "/diagnostics/about", 200),
}

operation! {
    /// How the site is.
    pub GetHealth = "lockstep.replication.sites"."health"(NoInput) -> HealthInfo,
    errors: [],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/health", 200),
    availability: Rest::new(Method::Get, "/diagnostics/health", 200),
}

operation! {
    /// Machines of this site that can be replicated.
    pub ListVms = "lockstep.replication.sites"."vms"(VmsInput) -> VmPage,
    errors: [InvalidArgument],
    privilege: Read,
    rest: Rest::new(Method::Get, "/lockstep/replication/vms", 200),
    availability: Rest::new(Method::Get, "/inventory/vms", 200),
}
