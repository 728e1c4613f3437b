//! The collector of vCenters, against Debian's simulator, driven by `govc`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockstep_client::Thumbprint;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Server, eventually, root};

/// How long a change there may take to be here.
pub(crate) const SOON: Duration = Duration::from_secs(5);

/// How long a whole read of a small source may take on a loaded machine.
pub(crate) const READ: Duration = Duration::from_secs(60);

/// The types that `govc` can list, by their letter, and the resources that stand for them.
const TYPES: [(&str, &str); 8] = [
    ("d", "Datacenter"),
    ("f", "Folder"),
    ("c", "ClusterComputeResource"),
    ("h", "HostSystem"),
    ("p", "ResourcePool"),
    ("s", "Datastore"),
    ("n", "Network"),
    ("m", "VirtualMachine"),
];

/// A simulator on a port and with a certificate that stay the same when it is started again.
pub(crate) struct Vcsim {
    child: Child,
    dir: TempDir,
    port: u16,
    args: Vec<String>,
    thumbprint: Thumbprint,
}

fn tool(name: &str) -> PathBuf {
    root().join(".tools/vcsim/bin").join(name)
}

/// Whether the simulator is there; says so when it is not.
pub(crate) fn is_there() -> bool {
    let is_there = tool("vcsim").exists() && tool("govc").exists();
    if !is_there {
        eprintln!("skipped: no vcsim in .tools/vcsim; scripts/test-tools.sh builds it");
    }
    is_there
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Vcsim {
    pub(crate) fn start(args: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        // The one that the simulator has built in is of a key that is too short to be taken seriously.
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(["vc.test".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(dir.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(dir.path().join("key.pem"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("password"), "pass\n").unwrap();
        let thumbprint = Thumbprint::of(certificate.der());
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let port = free_port();
        let child = spawn(&dir, port, &args);
        Self { child, dir, port, args, thumbprint }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.dir, self.port, &self.args);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// `https`, unless it was started with `-tls=false`.
    fn scheme(&self) -> &'static str {
        if self.args.iter().any(|arg| arg == "-tls=false") { "http" } else { "https" }
    }

    /// The file with the password of its user `user`.
    pub(crate) fn password_file(&self) -> PathBuf {
        self.dir.path().join("password")
    }

    pub(crate) fn govc(&self, args: &[&str]) -> String {
        let output = Command::new(tool("govc"))
            .args(args)
            .env("GOVC_URL", format!("{}://user:pass@127.0.0.1:{}/sdk", self.scheme(), self.port))
            .env("GOVC_INSECURE", "1")
            .env("GOVC_PERSIST_SESSION", "false")
            .env("HOME", self.dir.path())
            .output()
            .unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "govc {args:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    }

    /// What the source has: type here, id, name.
    fn inventory(&self) -> BTreeSet<(String, String, String)> {
        let mut all = BTreeSet::new();
        for (letter, resource_type) in TYPES {
            // Both lists are in the same order: they are the same walk.
            let ids = self.govc(&["find", "-i", "/", "-type", letter]);
            let paths = self.govc(&["find", "/", "-type", letter]);
            assert_eq!(ids.lines().count(), paths.lines().count());
            for (id, path) in ids.lines().zip(paths.lines()) {
                let (_, id) = id.split_once(':').unwrap();
                let name = path.rsplit('/').next().unwrap();
                let name = if path == "/" { "Datacenters" } else { name };
                all.insert((resource_type.to_owned(), id.to_owned(), name.to_owned()));
            }
        }
        all
    }

    /// Lets a server collect from it, by way of `address`, and waits for the first read.
    pub(crate) fn collect(&self, server: &Server, name: &str, address: SocketAddr) {
        let output = self.collect_command(server, name, address).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        eprintln!("{name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }

    fn collect_command(&self, server: &Server, name: &str, address: SocketAddr) -> Command {
        let mut command = server.cli(&["collect", "vcenter", &address.to_string(), "--name", name]);
        command.args(["--source-username", "user", "--source-password-file"]).arg(self.dir.path().join("password"));
        command.args(["--source-thumbprint", &self.thumbprint.to_string()]);
        command
    }
}

impl Drop for Vcsim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &TempDir, port: u16, args: &[String]) -> Child {
    let log = std::fs::File::create(dir.path().join("log")).unwrap();
    let mut child = Command::new(tool("vcsim"))
        .args(["-l", &format!("127.0.0.1:{port}"), "-username", "user", "-password", "pass"])
        .arg("-tlscert")
        .arg(dir.path().join("cert.pem"))
        .arg("-tlskey")
        .arg(dir.path().join("key.pem"))
        .args(args)
        // Its datastores are directories here.
        .env("TMPDIR", dir.path())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    eventually(Duration::from_secs(300), "the simulator listens", || {
        assert!(child.try_wait().unwrap().is_none(), "the simulator ended");
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    child
}

pub(crate) fn server() -> Server {
    Server::start_with(&["--plain-http", "--no-collect-host", "--poll-limit", "1", "--page-limit", "20000"])
}

pub(crate) fn info(server: &Server, name: &str) -> Value {
    server.ok("GET", &format!("/api/lockstep/collectors/{name}"), &json!(null))
}

/// What the server has of a source: type, id without prefix, name.
fn inventory(server: &Server, prefix: &str) -> BTreeSet<(String, String, String)> {
    let mut all = BTreeSet::new();
    for (_, resource_type) in TYPES {
        let spec = json!({"resource_filter": {"filter_type": "TYPE", "resource_type": resource_type},
            "property_spec": [format!("{resource_type}/name")]});
        let answer = server.query(spec);
        for item in answer["items"].as_array().cloned().unwrap_or_default() {
            let id = item["resource_id"]["id"].as_str().unwrap();
            let Some(id) = id.strip_prefix(prefix) else { continue };
            let name = item["property_values"][0]["value"].as_str().unwrap_or_default().to_owned();
            all.insert((resource_type.to_owned(), id.to_owned(), name));
        }
    }
    all
}

/// All changes from a token on, until `is_enough` says so; then those of a moment more. None is of anything else than `types`.
fn changes_until(server: &Server, token: &str, is_enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let mut token = token.to_owned();
    let mut read = |all: &mut Vec<Value>| {
        let (status, answer) = server.changes(&token);
        assert_eq!(status, 200, "{answer}");
        token = answer["value"]["sequence"].as_str().unwrap().to_owned();
        let new = answer["value"]["changes"].as_array().cloned().unwrap_or_default();
        let count = new.len();
        all.extend(new);
        count
    };
    let began = Instant::now();
    while !is_enough(&all) {
        read(&mut all);
        assert!(began.elapsed() < SOON * 2, "not in the feed: {all:?}");
    }
    assert!(began.elapsed() < SOON, "in the feed after {:?} only", began.elapsed());
    // The feed waits a second for more.
    while read(&mut all) > 0 {}
    all
}

pub(crate) fn stored(server: &Server, resource_type: &str, id: &str) -> Value {
    server.ok("GET", &format!("/api/lockstep/resources/{resource_type}/{id}"), &json!(null))["properties"].clone()
}

pub(crate) fn vm_id(vcsim: &Vcsim, name: &str) -> String {
    let found = vcsim.govc(&["find", "-i", "/", "-type", "m", "-name", name]);
    found.trim().split_once(':').unwrap().1.to_owned()
}

pub(crate) fn equal(server: &Server, vcsim: &Vcsim, prefix: &str, limit: Duration) {
    let there = vcsim.inventory();
    let began = Instant::now();
    loop {
        let here = inventory(server, prefix);
        if here == there {
            return;
        }
        let (more, less): (Vec<_>, Vec<_>) = (here.difference(&there).collect(), there.difference(&here).collect());
        assert!(began.elapsed() < limit, "only here: {more:?}\nonly there: {less:?}\n{}", info_text(server));
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn info_text(server: &Server) -> String {
    server.ok("GET", "/api/lockstep/collectors", &json!(null)).to_string()
}

#[test]
fn the_inventory_is_what_govc_prints_and_an_idle_source_writes_nothing() {
    if !is_there() {
        return;
    }
    let vms: usize = std::env::var("LOCKSTEP_VCENTER_VMS").ok().and_then(|n| n.parse().ok()).unwrap_or(10);
    // Half of them stand on a host that is in no cluster.
    let (half, hosts) = ((vms / 2).to_string(), (vms / 200).clamp(3, 100).to_string());
    let vcsim = Vcsim::start(&["-vm", &half, "-host", &hosts, "-pool", "1", "-pg", "2"]);
    let server = server();
    let before_kib = peak_kib(server.pid());
    let began = Instant::now();
    vcsim.collect(&server, "vc", vcsim.address());
    let took = began.elapsed();
    let after_kib = peak_kib(server.pid());
    eprintln!("{vms} VMs read in {took:?}; the server's peak went from {before_kib} to {after_kib} KiB");
    assert!(took < Duration::from_secs(60), "{took:?}");
    let here = inventory(&server, "");
    assert_eq!(here, vcsim.inventory());
    let machines = here.iter().filter(|(resource_type, ..)| resource_type == "VirtualMachine").count();
    assert!(machines >= vms, "{machines}");
    let told = info(&server, "vc");
    assert_eq!((&told["phase"], &told["lag_s"], &told["id_prefix"]), (&json!("FOLLOWING"), &json!(0), &json!("")));
    let listed = server.cli(&["collect"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("FOLLOWING") && listed.contains("VCENTER"), "{listed}");

    let one = stored(&server, "VirtualMachine", &vm_id(&vcsim, "DC0_H0_VM0"));
    assert_eq!(one["collected_by"], json!({"type": "Collector", "id": "vc"}));
    assert_eq!((&one["power_state"], &one["cpu_count"]), (&json!("POWERED_ON"), &json!(1)), "{one}");
    let spec = json!({"resource_filter": {"filter_type": "TYPE", "resource_type": "VirtualMachine"}, "limit": 1,
        "property_spec": ["VirtualMachine/host->HostSystem/name", "VirtualMachine/folder->Folder/datacenter->Datacenter/name"]});
    let row = server.query(spec)["items"][0].to_string();
    assert!(row.contains("DC0_") && row.contains("\"DC0\""), "{row}");

    // What the simulator starts by itself is over when nothing was told for a while.
    let idle = std::env::var("LOCKSTEP_VCENTER_IDLE_S").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let token = eventually(READ, "the source is at rest", || {
        let token = server.sequence();
        std::thread::sleep(Duration::from_secs(2));
        (server.sequence() == token).then_some(token)
    });
    std::thread::sleep(Duration::from_secs(idle));
    assert_eq!(server.sequence(), token, "an idle source wrote something");
}

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn what_happens_at_the_source_is_in_the_feed_and_nothing_else() {
    if !is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "3"]);
    let server = server();
    vcsim.collect(&server, "vc", vcsim.address());
    let name = "DC0_H0_VM0";
    let id = vm_id(&vcsim, name);
    let of = |changes: &[Value], id: &str, kind: &str| {
        changes.iter().any(|change| change["resource"]["id"] == id && change["kind"] == kind)
    };
    let only = |changes: &[Value], allowed: &[&str]| {
        let stray = changes.iter().find(|c| !allowed.contains(&c["resource"]["id"].as_str().unwrap_or_default()));
        assert!(stray.is_none(), "{stray:?} among {changes:?}");
    };

    let token = server.sequence();
    vcsim.govc(&["vm.power", "-off", name]);
    let changes = changes_until(&server, &token, |all| of(all, &id, "UPDATE"));
    only(&changes, &[&id]);
    let has_power = changes.iter().any(|c| c["properties"].to_string().contains("power_state"));
    assert!(has_power, "{changes:?}");
    assert_eq!(stored(&server, "VirtualMachine", &id)["power_state"], "POWERED_OFF");
    assert_eq!(changes[0]["parent_resources"][0]["type"], "Folder", "{changes:?}");

    let token = server.sequence();
    vcsim.govc(&["object.rename", &format!("/DC0/vm/{name}"), "renamed"]);
    let changes = changes_until(&server, &token, |all| of(all, &id, "UPDATE"));
    only(&changes, &[&id]);
    assert_eq!(stored(&server, "VirtualMachine", &id)["name"], "renamed");

    let token = server.sequence();
    vcsim.govc(&["folder.create", "/DC0/vm/inner"]);
    let is_folder = |c: &Value| c["resource"]["type"] == "Folder" && c["kind"] == "CREATE";
    let changes = changes_until(&server, &token, |all| all.iter().any(is_folder));
    let folder = changes.iter().find(|c| is_folder(c)).unwrap()["resource"]["id"].as_str().unwrap().to_owned();
    only(&changes, &[&folder]);

    let token = server.sequence();
    vcsim.govc(&["object.mv", "/DC0/vm/renamed", "/DC0/vm/inner"]);
    let changes = changes_until(&server, &token, |all| of(all, &id, "UPDATE"));
    only(&changes, &[&id]);
    assert_eq!(stored(&server, "VirtualMachine", &id)["folder"], json!({"type": "Folder", "id": folder}));
    let moved = changes.iter().find(|c| c["resource"]["id"] == id).unwrap();
    assert_eq!(moved["parent_resources"][0]["id"], json!(folder), "{moved}");
    assert!(!of(&changes, &id, "DELETE") && !of(&changes, &id, "CREATE"), "a move is a change: {changes:?}");

    let token = server.sequence();
    vcsim.govc(&[
        "vm.create",
        "-on=false",
        "-c",
        "2",
        "-m",
        "512",
        "-net",
        "VM Network",
        "-host",
        "/DC0/host/DC0_H0/DC0_H0",
        "fresh",
    ]);
    let is_fresh = |c: &Value| c["resource"]["type"] == "VirtualMachine" && c["kind"] == "CREATE";
    let changes = changes_until(&server, &token, |all| all.iter().any(is_fresh));
    let fresh = vm_id(&vcsim, "fresh");
    let created = changes.iter().find(|c| is_fresh(c)).unwrap();
    assert_eq!(created["resource"]["id"], json!(fresh));
    let kinds: Vec<_> = created["parent_resources"].as_array().unwrap().iter().map(|p| p["type"].clone()).collect();
    assert_eq!(kinds, ["Folder", "Datacenter", "Folder"], "{created}");
    only(&changes, &[&fresh]);
    let properties = stored(&server, "VirtualMachine", &fresh);
    assert_eq!(
        (&properties["name"], &properties["cpu_count"], &properties["memory_size_MiB"], &properties["power_state"]),
        (&json!("fresh"), &json!(2), &json!(512), &json!("POWERED_OFF")),
        "{properties}"
    );

    let token = server.sequence();
    vcsim.govc(&["snapshot.create", "-vm", "fresh", "before"]);
    let changes = changes_until(&server, &token, |all| of(all, &fresh, "UPDATE"));
    only(&changes, &[&fresh]);
    let snapshots = stored(&server, "VirtualMachine", &fresh)["snapshots"].clone();
    assert_eq!((&snapshots[0]["name"], &snapshots[0]["current"]), (&json!("before"), &json!(true)), "{snapshots}");

    let token = server.sequence();
    vcsim.govc(&["vm.destroy", "fresh"]);
    let changes = changes_until(&server, &token, |all| of(all, &fresh, "DELETE"));
    let deleted = changes.iter().find(|c| c["kind"] == "DELETE").unwrap();
    assert_eq!(deleted["parent_resources"][0]["type"], "Folder", "{deleted}");
    only(&changes, &[&fresh]);
    equal(&server, &vcsim, "", SOON);
}

#[test]
fn tags_and_their_categories_come_along_and_those_of_people_stay() {
    if !is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "2"]);
    let category = vcsim.govc(&["tags.category.create", "tier"]).trim().to_owned();
    let gold = vcsim.govc(&["tags.create", "-c", "tier", "gold"]).trim().to_owned();
    vcsim.govc(&["tags.attach", "gold", "/DC0/vm/DC0_H0_VM0"]);
    let server = server();
    let mut own = server.cli(&["tag", "categories", "create", "mine"]);
    let output = own.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    vcsim.collect(&server, "vc", vcsim.address());
    let id = vm_id(&vcsim, "DC0_H0_VM0");
    let tags = eventually(READ, "the tag is attached", || {
        let tags = stored(&server, "VirtualMachine", &id)["tags"].clone();
        tags.is_array().then_some(tags)
    });
    assert_eq!(tags, json!([{"type": "Tag", "id": gold}]));
    let tag = stored(&server, "Tag", &gold);
    assert_eq!((&tag["name"], &tag["category"]["id"]), (&json!("gold"), &json!(category)), "{tag}");
    assert_eq!(stored(&server, "TagCategory", &category)["name"], "tier");
    let asked = server.cli(&["query", "VirtualMachine where tags.name = 'gold'", "--output", "csv"]).output().unwrap();
    assert!(String::from_utf8_lossy(&asked.stdout).contains(&id));

    // People's own tag stays beside it, over a change and a purge.
    let path = format!("/api/lockstep/resources/VirtualMachine/{id}");
    let both = json!({"tags": [{"type": "Tag", "id": "mine"}, {"type": "Tag", "id": gold}]});
    let (status, answer) = server.call("PATCH", &path, &json!({ "properties": both }));
    assert!(status < 300, "{answer}");
    vcsim.govc(&["object.rename", "/DC0/vm/DC0_H0_VM0", "renamed"]);
    equal(&server, &vcsim, "", SOON);
    assert_eq!(stored(&server, "VirtualMachine", &id)["tags"], both["tags"]);
    let ended = server.cli(&["collect", "delete", "vc", "--purge"]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let (status, _) = server.call("GET", &format!("/api/lockstep/resources/Tag/{gold}"), &json!(null));
    assert_eq!(status, 404);
}

/// Passes bytes on, and cuts the connection that the source has sent so many over.
struct Proxy {
    address: SocketAddr,
    /// How many bytes a connection may bring; `usize::MAX`: any number.
    limit: Arc<AtomicUsize>,
    /// The most that a connection has brought.
    most: Arc<AtomicUsize>,
    /// Connections that were cut.
    cuts: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            address: listener.local_addr().unwrap(),
            limit: Arc::new(AtomicUsize::new(usize::MAX)),
            most: Arc::default(),
            cuts: Arc::default(),
            open: Arc::default(),
        };
        let (limit, most, cuts, open) =
            (proxy.limit.clone(), proxy.most.clone(), proxy.cuts.clone(), proxy.open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(client) = client else { return };
                let Ok(source) = TcpStream::connect(target) else { continue };
                let (mut from_client, mut to_source) = (client.try_clone().unwrap(), source.try_clone().unwrap());
                open.lock().unwrap().push(client.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut to_source);
                    let _ = to_source.shutdown(Shutdown::Both);
                });
                let (limit, most, cuts) = (limit.clone(), most.clone(), cuts.clone());
                std::thread::spawn(move || {
                    let (mut source, mut client, mut buffer, mut passed) = (source, client, vec![0; 4096], 0);
                    while let Ok(count @ 1..) = source.read(&mut buffer) {
                        passed += count;
                        if passed > limit.load(Ordering::SeqCst) {
                            // Cut once: the next connection goes through.
                            limit.store(usize::MAX, Ordering::SeqCst);
                            cuts.fetch_add(1, Ordering::SeqCst);
                            break;
                        }
                        most.fetch_max(passed, Ordering::SeqCst);
                        if client.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                    let _ = client.shutdown(Shutdown::Both);
                    let _ = source.shutdown(Shutdown::Both);
                });
            }
        });
        proxy
    }

    /// Cuts what is open.
    fn cut(&self) {
        self.open.lock().unwrap().drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }
}

#[test]
fn a_read_that_is_cut_anywhere_deletes_nothing_and_ends_equal() {
    if !is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "40", "-host", "8"]);
    let server = server();
    let proxy = Proxy::start(vcsim.address());
    vcsim.collect(&server, "vc", proxy.address);
    equal(&server, &vcsim, "", READ);
    let whole = proxy.most.load(Ordering::SeqCst);
    let token = server.sequence();
    for moment in 1..=10 {
        // Something happens while nobody looks.
        let confirmed = info(&server, "vc")["confirmed"].clone();
        proxy.limit.store(whole * moment / 11, Ordering::SeqCst);
        proxy.cut();
        vcsim.govc(&["object.rename", "/DC0/vm/DC0_H0_VM1", &format!("name-{moment}")]);
        eventually(READ, "the read is cut", || (proxy.cuts.load(Ordering::SeqCst) >= moment).then_some(()));
        eventually(READ, "it follows again", || {
            let now = info(&server, "vc");
            (now["phase"] == "FOLLOWING" && now["confirmed"] != confirmed).then_some(())
        });
        equal(&server, &vcsim, "", READ);
        vcsim.govc(&["object.rename", &format!("/DC0/vm/name-{moment}"), "DC0_H0_VM1"]);
    }
    let changes = changes_until(&server, &token, |all| !all.is_empty());
    let stray = changes.iter().find(|c| c["kind"] != "UPDATE");
    assert!(stray.is_none(), "something was deleted or made anew: {stray:?}");
    let touched: BTreeSet<&str> = changes.iter().filter_map(|c| c["resource"]["id"].as_str()).collect();
    let renamed = vm_id(&vcsim, "DC0_H0_VM1");
    assert!(touched.iter().all(|id| *id == renamed || *id == "vc"), "{touched:?}");
}

#[test]
fn a_first_read_that_is_cut_goes_on() {
    if !is_there() {
        return;
    }
    let vcsim = Vcsim::start(&["-vm", "40", "-host", "8"]);
    let server = server();
    let proxy = Proxy::start(vcsim.address());
    proxy.limit.store(300_000, Ordering::SeqCst);
    let output = vcsim.collect_command(&server, "vc", proxy.address).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(proxy.cuts.load(Ordering::SeqCst) == 1 && (output.status.success() || told.contains("broke")), "{told}");
    equal(&server, &vcsim, "", READ);
}

#[test]
fn sessions_that_end_and_sources_and_servers_that_start_again_are_mended() {
    if !is_there() {
        return;
    }
    let mut vcsim = Vcsim::start(&["-vm", "3"]);
    let mut server = server();
    vcsim.collect(&server, "vc", vcsim.address());
    let id = vm_id(&vcsim, "DC0_H0_VM0");
    let token = server.sequence();

    // The server of the source ends the session: the call that waits still tells what happens, the next one is refused.
    let sessions = vcsim.govc(&["session.ls"]);
    let ours = sessions.lines().find(|line| line.contains("lockstep/")).unwrap_or_else(|| panic!("{sessions}"));
    let key = ours.split_whitespace().next().unwrap();
    vcsim.govc(&["session.rm", key]);
    vcsim.govc(&["object.rename", "/DC0/vm/DC0_H0_VM0", "first"]);
    eventually(READ, "a new session", || {
        let sessions = vcsim.govc(&["session.ls"]);
        sessions.lines().any(|line| line.contains("lockstep/") && !line.contains(key)).then_some(())
    });
    equal(&server, &vcsim, "", READ);
    vcsim.govc(&["object.rename", "/DC0/vm/first", "second"]);
    equal(&server, &vcsim, "", READ);

    // The source is killed and starts again, without the changes: it is what it is.
    vcsim.restart();
    equal(&server, &vcsim, "", READ);
    assert_eq!(stored(&server, "VirtualMachine", &id)["name"], "DC0_H0_VM0");
    // The simulator makes some things anew at a start: its datastore is a directory.
    let changes = changes_until(&server, &token, |all| !all.is_empty());
    let stray = changes.iter().find(|c| c["kind"] != "UPDATE" && c["resource"]["type"] == "VirtualMachine");
    assert!(stray.is_none(), "{stray:?}");

    // This server starts again while things happen.
    server.kill();
    vcsim.govc(&["object.rename", "/DC0/vm/DC0_H0_VM0", "third"]);
    vcsim.govc(&["vm.destroy", "DC0_H0_VM1"]);
    server.restart();
    equal(&server, &vcsim, "", READ);
    eventually(READ, "it follows", || (info(&server, "vc")["phase"] == "FOLLOWING").then_some(()));
    let stop = vcsim.govc(&["session.ls"]);
    assert!(stop.contains("lockstep/"), "{stop}");
}

#[test]
fn errors_say_what_to_do() {
    if !is_there() {
        return;
    }
    let mut vcsim = Vcsim::start(&["-vm", "1"]);
    let server = server();
    let said = |command: &mut Command| {
        let output = command.output().unwrap();
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let address = vcsim.address().to_string();
    let base = ["collect", "vcenter", &address, "--source-username", "user"];
    let password = vcsim.dir.path().join("password");
    let unknown = said(server.cli(&base).arg("--source-password-file").arg(&password));
    assert!(unknown.contains(&format!("--source-thumbprint {}", vcsim.thumbprint)), "{unknown}");
    let wrong = vcsim.dir.path().join("wrong");
    std::fs::write(&wrong, "nope").unwrap();
    let mut command = server.cli(&base);
    command.arg("--source-password-file").arg(&wrong);
    let refused = said(command.args(["--source-thumbprint", &vcsim.thumbprint.to_string()]));
    assert!(refused.contains("wrong user name or password") && refused.contains("right password"), "{refused}");
    let nobody = format!("127.0.0.1:{}", free_port());
    let mut command = server.cli(&["collect", "vcenter", &nobody, "--source-username", "user"]);
    let unreachable = said(command.arg("--source-password-file").arg(&password));
    assert!(unreachable.contains("connection refused") && unreachable.contains("check the address"), "{unreachable}");
    assert_eq!(server.ok("GET", "/api/lockstep/collectors", &json!(null)), json!([]), "nothing was kept");

    vcsim.collect(&server, "vc", vcsim.address());
    let again = said(&mut vcsim.collect_command(&server, "other", vcsim.address()));
    assert!(again.contains("is collected by vc already"), "{again}");
    vcsim.kill();
    let told = eventually(READ, "the source is gone", || {
        let told = info(&server, "vc");
        (told["phase"] == "FAILED" && told["error"].to_string().contains("unreachable")).then_some(told)
    });
    assert!(told["lag_s"].as_i64().is_some(), "{told}");
    assert!(!inventory(&server, "").is_empty(), "what was collected stays");
}

#[test]
fn sources_keep_apart_and_passwords_sealed() {
    if !is_there() {
        return;
    }
    let (one, two) = (Vcsim::start(&["-vm", "2"]), Vcsim::start(&["-vm", "3"]));
    let server = server();
    one.collect(&server, "one", one.address());
    two.collect(&server, "two", two.address());
    equal(&server, &two, "two:", READ);
    let of_both = inventory(&server, "");
    let of_one: BTreeSet<_> = of_both.into_iter().filter(|(_, id, _)| !id.starts_with("two:")).collect();
    assert_eq!(of_one, one.inventory());
    let id = vm_id(&two, "DC0_H0_VM0");
    let vm = stored(&server, "VirtualMachine", &format!("two:{id}"));
    assert!(vm["host"]["id"].as_str().unwrap().starts_with("two:"), "{vm}");

    // People write what the collector does not own, and nothing else of it.
    let path = format!("/api/lockstep/resources/VirtualMachine/two:{id}");
    let patch = |properties: Value| server.call("PATCH", &path, &json!({ "properties": properties }));
    let (status, answer) = patch(json!({"custom/owner": "ann"}));
    assert!(status < 300, "{answer}");
    let (status, answer) = patch(json!({"collected_by": {"type": "Collector", "id": "one"}}));
    assert!(status == 400 && answer.to_string().contains("collected_by"), "{answer}");
    let (status, answer) = server.call("DELETE", &path, &json!(null));
    assert!(status == 400 && answer.to_string().contains("kept by the collector two"), "{status} {answer}");
    two.govc(&["object.rename", "/DC0/vm/DC0_H0_VM0", "renamed"]);
    equal(&server, &two, "two:", SOON);
    assert_eq!(stored(&server, "VirtualMachine", &format!("two:{id}"))["custom"]["owner"], "ann");

    // The password is nowhere in the clear.
    let everything = server.cli(&["export"]).output().unwrap();
    let text = String::from_utf8_lossy(&everything.stdout).into_owned();
    assert!(text.contains("Collector") && !text.contains("\"password\""), "{text}");
    let mut journal = Vec::new();
    for entry in std::fs::read_dir(server.data.path().join("journal")).unwrap() {
        if let Ok(mut file) = std::fs::File::open(entry.unwrap().path()) {
            let _ = file.read_to_end(&mut journal);
        }
    }
    assert!(!journal.windows(5).any(|bytes| bytes == b"\x04pass"));

    let ended = server.cli(&["collect", "delete", "two", "--purge"]).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert!(inventory(&server, "two:").is_empty());
    assert_eq!(inventory(&server, ""), one.inventory());
    let sessions = two.govc(&["session.ls"]);
    assert!(!sessions.contains("lockstep/"), "the session is ended: {sessions}");
    let counts: BTreeMap<String, i64> = info(&server, "one")["resources"]
        .as_array()
        .unwrap()
        .iter()
        .map(|count| (count["resource_type"].as_str().unwrap().to_owned(), count["count"].as_i64().unwrap()))
        .collect();
    assert_eq!(counts["VirtualMachine"], 4);
}
