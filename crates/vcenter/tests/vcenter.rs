//! The lists and the switches, against a real site.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::sync::{Arc, Mutex};

use lockstep_contract::services::accounts::Role;
use lockstep_contract::{Data, Encoding, Error, ErrorKind, PlainJson};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::ResourceId;
use lockstep_site::Site;
use lockstep_site::caller::{Caller, User};
use lockstep_site::collected::{self, Incoming, Seen};
use lockstep_site::table::{Context, Table};
use lockstep_site::tasks::{Limits, Tasks};
use lockstep_vcenter::{Action, Order, Refusal, Switch, Switches, Switching};
use serde_json::{Value, json};
use tempfile::TempDir;

const VM: &str = "com.vmware.vcenter.VM";
const POWER: &str = "com.vmware.vcenter.vm.power";
const GUEST_POWER: &str = "com.vmware.vcenter.vm.guest.power";

/// A switch that answers what it is told to, and keeps what it was asked for.
#[derive(Default)]
struct Scripted {
    asked: Mutex<Vec<(String, Action)>>,
    answer: Mutex<Option<Refusal>>,
    site: Mutex<Option<Arc<Site>>>,
}

impl Switch for Scripted {
    fn switch(&self, order: Order) -> Switching<'_> {
        let outcome = self.throw(&order.vm.id, order.action);
        Box::pin(async move { outcome })
    }
}

impl Scripted {
    fn throw(&self, vm: &str, action: Action) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push((vm.to_owned(), action));
        if let Some(refusal) = self.answer.lock().unwrap().clone() {
            return Err(refusal);
        }
        let site = self.site.lock().unwrap().clone();
        let state = match action {
            Action::Start => "POWERED_ON",
            Action::Stop => "POWERED_OFF",
            Action::Suspend => "SUSPENDED",
            Action::Reset | Action::Shutdown | Action::Reboot | Action::Standby => return Ok(()),
        };
        if let Some(site) = site {
            let id = ResourceId::new("VirtualMachine", vm);
            let values = vec![("power_state".to_owned(), format!("\"{state}\""))];
            // As the collector does: later, and by itself.
            tokio::runtime::Handle::current()
                .spawn(async move { site.patch_resource("test".into(), id, &values, None).await.map(drop) });
        }
        Ok(())
    }
}

struct House {
    site: Arc<Site>,
    table: Table,
    switch: Arc<Scripted>,
    vcenters: Arc<Scripted>,
    hosts: Arc<Scripted>,
    _dir: TempDir,
}

fn to(resource_type: &str, id: &str) -> Value {
    json!({"type": resource_type, "id": id})
}

impl House {
    fn open() -> Self {
        let dir = TempDir::new().unwrap();
        let config = lockstep_site::Config {
            name: "test".to_owned(),
            data_dir: dir.path().to_owned(),
            journal: lockstep_journal::Config::default(),
            query_limits: lockstep_query::Limits::default(),
            sessions: lockstep_site::sessions::SessionLimits::default(),
            epoch_types: Vec::new(),
        };
        let site = Site::open(config, &mut |_| {}).unwrap();
        let switch = Arc::new(Scripted::default());
        *switch.site.lock().unwrap() = Some(site.clone());
        let mut table = Table::default();
        let tasks = Tasks::new(site.clone(), Limits::default());
        tasks.register(&mut table);
        let (vcenters, hosts) = (Arc::new(Scripted::default()), Arc::new(Scripted::default()));
        let switches =
            Switches { own_host: Some(switch.clone()), vcenters: Some(vcenters.clone()), hosts: Some(hosts.clone()) };
        lockstep_vcenter::register(&mut table, switches, tasks);
        Self { site, table, switch, vcenters, hosts, _dir: dir }
    }

    async fn add(&self, resource_type: &str, id: &str, properties: Value) {
        let id = ResourceId::new(resource_type, id);
        self.site.create_resource("test".into(), id, &properties.to_string()).await.unwrap();
    }

    async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        self.call_as(Caller::Server("test"), service, operation, input).await
    }

    async fn call_as(&self, caller: Caller, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = Context { site: self.site.clone(), caller, operation_id: "test".into() };
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = PlainJson::default();
        answer.value.encode(&mut w);
        Ok(serde_json::from_slice(&w.out).unwrap())
    }

    /// The ids of a list.
    async fn ids(&self, service: &str, member: &str, filter: Value) -> Vec<String> {
        let list = self.call(service, "list", json!({ "filter": filter })).await.unwrap();
        list.as_array().unwrap().iter().map(|row| row[member].as_str().unwrap().to_owned()).collect()
    }

    async fn refused(&self, service: &str, operation: &str, vm: &str) -> ErrorKind {
        self.call(service, operation, json!({ "vm": vm })).await.unwrap_err().kind
    }

    /// Two datacenters: one with a cluster of two hosts, one with a host of its own.
    async fn furnish(&self) {
        self.add("Datacenter", "dc-1", json!({"name": "fra"})).await;
        self.add("Datacenter", "dc~2", json!({"name": "ams"})).await;
        for (id, kind) in [("f-vm", "VIRTUAL_MACHINE"), ("f-host", "HOST"), ("f-ds", "DATASTORE"), ("f-net", "NETWORK")]
        {
            let folder = json!({"name": id, "kind": kind, "datacenter": to("Datacenter", "dc-1")});
            self.add("Folder", id, folder).await;
        }
        let inner = json!({"name": "inner", "kind": "VIRTUAL_MACHINE", "parent": to("Folder", "f-vm")});
        self.add("Folder", "f-inner", inner).await;
        let cluster = json!({"name": "cl", "datacenter": to("Datacenter", "dc-1"), "drs_enabled": true});
        self.add("ClusterComputeResource", "domain-c1", cluster).await;
        let pool = json!({"name": "Resources", "cluster": to("ClusterComputeResource", "domain-c1"),
            "cpu": {"reservation_MHz": 5, "limit_MHz": -1, "shares": "HIGH"}});
        self.add("ResourcePool", "resgroup-1", pool).await;
        let inner = json!({"name": "gold", "parent": to("ResourcePool", "resgroup-1"),
            "cluster": to("ClusterComputeResource", "domain-c1")});
        self.add("ResourcePool", "resgroup-0", inner).await;
        for id in ["host-1", "host-2"] {
            let host = json!({"name": id, "cluster": to("ClusterComputeResource", "domain-c1"),
                "connection_state": "CONNECTED", "power_state": "POWERED_ON"});
            self.add("HostSystem", id, host).await;
        }
        self.add("HostSystem", "host-3", json!({"name": "kvm", "connection_state": "NOT_RESPONDING"})).await;
        self.add(
            "Datastore",
            "ds-1",
            json!({"name": "a", "kind": "NFS", "capacity": 10, "free_space": 4,
            "accessible": true, "datacenter": to("Datacenter", "dc-1")}),
        )
        .await;
        self.add("Datastore", "ds-2", json!({"name": "/", "kind": "EXT4", "host": to("HostSystem", "host-3")})).await;
        self.add("Network", "br", json!({"name": "br0", "kind": "BRIDGE", "host": to("HostSystem", "host-3")})).await;
        self.add(
            "Network",
            "pg",
            json!({"name": "pg", "kind": "DISTRIBUTED_PORTGROUP",
            "datacenter": to("Datacenter", "dc-1")}),
        )
        .await;
        let on = json!({"name": "Web", "power_state": "POWERED_ON", "cpu_count": 2, "memory_size_MiB": 512,
            "host": to("HostSystem", "host-1"), "folder": to("Folder", "f-inner"),
            "resource_pool": to("ResourcePool", "resgroup-0"), "guest_OS": "RHEL9_64", "hardware_version": "vmx-21",
            "nics": [{"label": "n", "mac_address": "52:54:00:00:00:01", "kind": "e1000", "connected": true}],
            "disks": [{"label": "d0", "capacity": 7, "path": "/a"}, {"label": "d1"}], "networks": [to("Network", "br")]});
        self.add("VirtualMachine", "vm-1", on).await;
        let off = json!({"name": "web", "power_state": "POWERED_OFF", "host": to("HostSystem", "host-2"),
            "folder": to("Folder", "f-vm"), "nics": [{"kind": "VMXNET3"}], "networks": [to("Network", "pg")], "disks": [{}]});
        self.add("VirtualMachine", "vm-2", off).await;
        let kvm = json!({"host": to("HostSystem", "host-3"), "power_state": "SUSPENDED", "instance_uuid": "u",
            "qemu": {"qmp_socket": "/q"}});
        self.add("VirtualMachine", "vm-3", kvm).await;
    }
}

#[tokio::test]
async fn filters_leave_what_they_say_and_empty_ones_leave_all() {
    let house = House::open();
    house.furnish().await;
    let vms = async |filter: Value| house.ids(VM, "vm", filter).await;
    let all = ["vm-1", "vm-2", "vm-3"];
    for filter in [json!(null), json!({}), json!({"vms": [], "names": [], "power_states": []})] {
        assert_eq!(vms(filter).await, all);
    }
    for (filter, expected) in [
        (json!({"vms": ["vm-3", "vm-1", "none"]}), &["vm-1", "vm-3"][..]),
        (json!({"names": ["web"]}), &["vm-2"]),
        (json!({"names": ["web", "Web", "w"]}), &["vm-1", "vm-2"]),
        (json!({"hosts": ["host-3"]}), &["vm-3"]),
        (json!({"clusters": ["domain-c1"]}), &["vm-1", "vm-2"]),
        (json!({"folders": ["f-vm"]}), &["vm-2"]),
        (json!({"datacenters": ["dc-1"]}), &["vm-1", "vm-2"]),
        (json!({"datacenters": ["dc~2"]}), &[]),
        (json!({"resource_pools": ["resgroup-0"]}), &["vm-1"]),
        (json!({"power_states": ["SUSPENDED", "POWERED_OFF"]}), &["vm-2", "vm-3"]),
        (json!({"clusters": ["domain-c1"], "power_states": ["POWERED_ON"], "names": ["Web"]}), &["vm-1"]),
    ] {
        assert_eq!(vms(filter.clone()).await, expected, "{filter}");
    }
    let check = async |service: &str, member: &str, filter: Value, expected: &[&str]| {
        let service = format!("com.vmware.vcenter.{service}");
        assert_eq!(house.ids(&service, member, filter.clone()).await, expected, "{service} {filter}");
    };
    check("host", "host", json!({"standalone": true}), &["host-3"]).await;
    check("host", "host", json!({"standalone": false, "datacenters": ["dc-1"]}), &["host-1", "host-2"]).await;
    check("host", "host", json!({"clusters": ["domain-c1"], "names": ["host-2"]}), &["host-2"]).await;
    check("host", "host", json!({"connection_states": ["NOT_RESPONDING"]}), &["host-3"]).await;
    check("cluster", "cluster", json!({"datacenters": ["dc-1"]}), &["domain-c1"]).await;
    check("cluster", "cluster", json!({"names": ["x"]}), &[]).await;
    check("datacenter", "datacenter", json!({"names": ["ams"]}), &["dc~2"]).await;
    check("datastore", "datastore", json!({"types": ["NFS", "VMFS"]}), &["ds-1"]).await;
    check("datastore", "datastore", json!({"types": ["UNKNOWN"]}), &["ds-2"]).await;
    check("network", "network", json!({"types": ["STANDARD_PORTGROUP"]}), &["br"]).await;
    check("network", "network", json!({"datacenters": ["dc-1"]}), &["pg"]).await;
    check("folder", "folder", json!({"type": "VIRTUAL_MACHINE"}), &["f-inner", "f-vm"]).await;
    check("folder", "folder", json!({"parent_folders": ["f-vm"]}), &["f-inner"]).await;
    check("folder", "folder", json!({"datacenters": ["dc-1"], "type": "HOST"}), &["f-host"]).await;
    check("resource_pool", "resource_pool", json!({"clusters": ["domain-c1"]}), &["resgroup-0", "resgroup-1"]).await;
    check("resource_pool", "resource_pool", json!({"parent_resource_pools": ["resgroup-1"]}), &["resgroup-0"]).await;
}

#[tokio::test]
async fn what_the_inventory_does_not_know_is_told_as_unknown() {
    let house = House::open();
    house.furnish().await;
    let list = house.call(VM, "list", json!({})).await.unwrap();
    let first =
        json!({"vm": "vm-1", "name": "Web", "power_state": "POWERED_ON", "cpu_count": 2, "memory_size_MiB": 512});
    assert_eq!(list[0], first);
    assert_eq!(list[2], json!({"vm": "vm-3", "name": "vm-3", "power_state": "SUSPENDED"}));
    let vm = house.call(VM, "get", json!({"vm": "vm-1"})).await.unwrap();
    assert_eq!(
        (&vm["guest_OS"], &vm["hardware"]["version"], &vm["boot"]["type"], &vm["identity"]),
        (&json!("RHEL_9_64"), &json!("VMX_21"), &json!("UNKNOWN"), &Value::Null)
    );
    let disk =
        json!({"label": "d0", "type": "UNKNOWN", "backing": {"type": "VMDK_FILE", "vmdk_file": "/a"}, "capacity": 7});
    assert_eq!(vm["disks"]["2000"], disk);
    let nic = &vm["nics"]["4000"];
    assert_eq!((&nic["type"], &nic["state"]), (&json!("E1000"), &json!("CONNECTED")));
    let backing = json!({"type": "STANDARD_PORTGROUP", "network": "br", "network_name": "br0"});
    assert_eq!(nic["backing"], backing);
    let other = house.call(VM, "get", json!({"vm": "vm-2"})).await.unwrap();
    let backing = json!({"type": "DISTRIBUTED_PORTGROUP", "network": "pg", "distributed_switch_uuid": ""});
    let nic = &other["nics"]["4000"];
    assert_eq!((&nic["backing"], &nic["upt_compatibility_enabled"]), (&backing, &json!(false)));
    assert_eq!((&nic["state"], &other["disks"]["2000"]["label"]), (&json!("UNKNOWN"), &json!("2000")));
    let bare = house.call(VM, "get", json!({"vm": "vm-3"})).await.unwrap();
    assert_eq!(bare["identity"], json!({"name": "vm-3", "bios_uuid": "u", "instance_uuid": "u"}));
    assert_eq!((&bare["cpu"]["count"], &bare["guest_OS"]), (&json!(0), &json!("OTHER")));

    let of = async |service: &str, input: Value| {
        house.call(&format!("com.vmware.vcenter.{service}"), "get", input).await.unwrap()
    };
    let cluster = of("cluster", json!({"cluster": "domain-c1"})).await;
    assert_eq!(cluster, json!({"name": "cl", "resource_pool": "resgroup-1"}));
    let datacenter = of("datacenter", json!({"datacenter": "dc-1"})).await;
    let folders = json!({"name": "fra", "datastore_folder": "f-ds", "host_folder": "f-host", "network_folder": "f-net",
        "vm_folder": "f-vm"});
    assert_eq!(datacenter, folders);
    assert_eq!(of("datacenter", json!({"datacenter": "dc~2"})).await["vm_folder"], "");
    let pool = of("resource_pool", json!({"resource_pool": "resgroup-1"})).await;
    assert_eq!((&pool["resource_pools"], pool.get("memory_allocation")), (&json!(["resgroup-0"]), None));
    let cpu = json!({"reservation": 5, "expandable_reservation": true, "limit": -1, "shares": {"level": "HIGH"}});
    assert_eq!(pool["cpu_allocation"], cpu);
    let datastore = of("datastore", json!({"datastore": "ds-1"})).await;
    assert_eq!((&datastore["type"], &datastore["free_space"]), (&json!("NFS"), &json!(4)));
    for (service, input) in [("cluster", json!({"cluster": "x"})), ("VM", json!({"vm": "host-1"}))] {
        let error = house.call(&format!("com.vmware.vcenter.{service}"), "get", input).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
}

#[tokio::test]
async fn more_than_a_list_holds_is_refused_and_never_cut() {
    let house = House::open();
    let mut changes = Vec::new();
    let registry = house.site.view().registry().clone();
    for number in 0..1001 {
        let id = ResourceId::new("Folder", format!("f-{number:04}"));
        let kind = if number == 0 { "HOST" } else { "VIRTUAL_MACHINE" };
        let json = json!({"name": format!("f{number}"), "kind": kind}).to_string();
        let document = registry.type_def("Folder").unwrap().read_document(&json).unwrap();
        changes.push((Change { id, operation: Operation::Create(document), parents: [].into() }, Expect::Absent));
    }
    house.site.commit(Batch { author: "test".into(), changes, relies_on: Vec::new() }).await.unwrap();
    let list = async |filter: Value| house.call("com.vmware.vcenter.folder", "list", json!({ "filter": filter })).await;
    let error = list(json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::UnableToAllocateResource, "{error}");
    let thousand = list(json!({"type": "VIRTUAL_MACHINE"})).await.unwrap();
    assert_eq!(thousand.as_array().unwrap().len(), 1000);
    let names = |count: usize| (0..count).map(|number| format!("f{number}")).collect::<Vec<_>>();
    assert_eq!(list(json!({"names": names(900)})).await.unwrap().as_array().unwrap().len(), 900);
    assert_eq!(list(json!({"names": names(4001)})).await.unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_switch_is_thrown_and_its_refusals_have_the_declared_errors() {
    let house = House::open();
    house.furnish().await;
    let state = async |vm: &str| house.call(POWER, "get", json!({ "vm": vm })).await.unwrap()["state"].clone();
    for (operation, shown) in
        [("suspend", "SUSPENDED"), ("start", "POWERED_ON"), ("reset", "POWERED_ON"), ("stop", "POWERED_OFF")]
    {
        house.call(POWER, operation, json!({"vm": "vm-1"})).await.unwrap();
        assert_eq!(state("vm-1").await, shown, "an answer comes when the inventory shows it");
    }
    house.call(GUEST_POWER, "shutdown", json!({"vm": "vm-3"})).await.unwrap();
    let asked = house.switch.asked.lock().unwrap().iter().map(|(_, action)| *action).collect::<Vec<_>>();
    assert_eq!(asked, [Action::Suspend, Action::Start, Action::Reset, Action::Stop, Action::Shutdown]);

    let check = async |refusal: Refusal, vm: &str, operation: &str, kind: ErrorKind| {
        *house.switch.answer.lock().unwrap() = Some(refusal.clone());
        assert_eq!(house.refused(POWER, operation, vm).await, kind, "{refusal:?} {operation} {vm}");
    };
    let not_now = || Refusal::NotNow { status: "paused".to_owned() };
    check(Refusal::Already, "vm-3", "suspend", ErrorKind::AlreadyInDesiredState).await;
    check(not_now(), "vm-3", "reset", ErrorKind::NotAllowedInCurrentState).await;
    check(not_now(), "vm-3", "start", ErrorKind::Error).await;
    check(Refusal::Busy { reason: "x".to_owned() }, "vm-3", "stop", ErrorKind::ResourceBusy).await;
    check(Refusal::Silent { reason: "x".to_owned() }, "vm-3", "stop", ErrorKind::ServiceUnavailable).await;
    check(Refusal::Away { reason: "x".to_owned() }, "vm-3", "stop", ErrorKind::ServiceUnavailable).await;
    check(Refusal::Denied { reason: "x".to_owned() }, "vm-3", "stop", ErrorKind::Unauthorized).await;
    check(Refusal::Failed { reason: "x".to_owned() }, "vm-3", "start", ErrorKind::Error).await;
    check(Refusal::NoWay { reason: "x".to_owned() }, "vm-3", "start", ErrorKind::Unsupported).await;
    check(Refusal::NoWay { reason: "x".to_owned() }, "vm-3", "stop", ErrorKind::Error).await;
    check(Refusal::NotHere, "vm-3", "reset", ErrorKind::Error).await;
    check(Refusal::NotHere, "vm-2", "stop", ErrorKind::AlreadyInDesiredState).await;
    check(Refusal::NotHere, "vm-2", "suspend", ErrorKind::NotAllowedInCurrentState).await;
    check(Refusal::NotHere, "vm-2", "start", ErrorKind::Unsupported).await;
    check(Refusal::Already, "vm-9", "start", ErrorKind::NotFound).await;
    *house.switch.answer.lock().unwrap() = Some(Refusal::NoWay { reason: "x".to_owned() });
    assert_eq!(house.refused(GUEST_POWER, "reboot", "vm-1").await, ErrorKind::Unsupported);
    assert_eq!(house.refused(GUEST_POWER, "standby", "vm-9").await, ErrorKind::NotFound);
}

#[tokio::test]
async fn each_machine_is_switched_by_who_keeps_it_and_each_action_is_a_task() {
    let house = House::open();
    house.furnish().await;
    for (id, kind) in [("vc", "VCENTER"), ("host", "HOST"), ("host-3", "HOST")] {
        house.add("Collector", id, json!({ "kind": kind })).await;
    }
    let keep = async |collector: &str, resource_type: &str, id: &str| {
        let collector = ResourceId::new("Collector", collector);
        let seen = Seen::Present { is_whole: false, paths: Vec::new(), properties: serde_json::Map::new() };
        let incoming = vec![Incoming { id: ResourceId::new(resource_type, id), seen }];
        collected::write(&house.site, &"test".into(), &collector, incoming).await.unwrap();
    };
    keep("vc", "VirtualMachine", "vm-1").await;
    keep("host", "VirtualMachine", "vm-2").await;
    // Nobody keeps the third while it is off; its host says who would.
    keep("host-3", "HostSystem", "host-3").await;
    for vm in ["vm-1", "vm-2", "vm-3"] {
        house.call(POWER, "reset", json!({ "vm": vm })).await.unwrap();
    }
    let asked = |switch: &Scripted| {
        let asked = switch.asked.lock().unwrap();
        asked.iter().map(|(vm, _)| vm.clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(&house.vcenters), ["vm-1"]);
    assert_eq!(asked(&house.switch), ["vm-2"]);
    assert_eq!(asked(&house.hosts), ["vm-3"]);

    *house.vcenters.answer.lock().unwrap() = Some(Refusal::Busy { reason: "its backup runs".to_owned() });
    let error = house.call(POWER, "stop", json!({"vm": "vm-1"})).await.unwrap_err();
    let task = error.messages[0].args[1].clone();
    let told = house.call("lockstep.tasks", "get", json!({ "task": task })).await.unwrap();
    assert_eq!((&told["state"], &told["workflowInfo"]["type"]), (&json!("FAILED"), &json!("powerStop")), "{told}");
    assert!(told["error"]["msg"].as_str().unwrap().contains("its backup runs"), "{told}");
    let of_first = json!({"resourceType": "VirtualMachine", "resourceId": "vm-1"});
    let page = house.call("lockstep.tasks", "list", of_first).await.unwrap();
    let states: Vec<&str> = page["items"].as_array().unwrap().iter().map(|t| t["state"].as_str().unwrap()).collect();
    assert_eq!((page["total"].as_i64(), states.contains(&"SUCCEEDED")), (Some(2), true), "{page}");
    let log = house.call("lockstep.tasks", "log", json!({ "task": task })).await.unwrap();
    assert!(log.to_string().contains("the collector vc"), "{log}");
}

#[tokio::test]
async fn machines_are_switched_by_operators_and_administrators_alone() {
    let house = House::open();
    house.furnish().await;
    let operations = [(POWER, "start"), (POWER, "stop"), (POWER, "suspend"), (POWER, "reset")];
    let of_guest = [(GUEST_POWER, "shutdown"), (GUEST_POWER, "reboot"), (GUEST_POWER, "standby")];
    for (role, may) in [
        (Role::Administrator, true),
        (Role::Operator, true),
        (Role::ReadOnly, false),
        (Role::Agent, false),
        (Role::Link, false),
    ] {
        for (service, operation) in operations.into_iter().chain(of_guest) {
            let caller = Caller::User(User { name: "u".into(), role, session: None });
            let answer = house.call_as(caller, service, operation, json!({"vm": "vm-1"})).await;
            match may {
                true => assert!(answer.is_ok(), "{role:?} {operation}: {answer:?}"),
                false => assert_eq!(answer.unwrap_err().kind, ErrorKind::Unauthorized, "{role:?} {operation}"),
            }
        }
    }
    assert_eq!(house.switch.asked.lock().unwrap().len(), 14, "nothing was done for the others");
}
