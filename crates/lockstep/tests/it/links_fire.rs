//! Two real servers under fire: their connection is cut in the middle of a first sync, either of them is killed, and both tag at once.
//!
//! The short form runs with the others. `LOCKSTEP_LINK_FIRE=full` has twenty cuts and ten kills of each side, over 50,000 resources.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::links::{SOON, cli, site, spec};
use crate::server::{Server, eventually};

/// Enough like random.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % n
    }
}

/// A wire to a port that can be cut: it lets so many bytes through, and then nothing until it is mended.
struct Wire {
    port: u16,
    /// How long each piece is held back, in microseconds.
    pace_us: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Wire {
    fn lay(to: u16, pace: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let open: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let pace_us = Arc::new(AtomicUsize::new(usize::try_from(pace.as_micros()).unwrap()));
        let (budget, streams, pace) = (left.clone(), open.clone(), pace_us.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                if budget.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                let copies = || (near.try_clone().unwrap(), far.try_clone().unwrap());
                streams.lock().unwrap().extend([copies().0, copies().1]);
                for (from, to) in [copies(), (copies().1, copies().0)] {
                    let (budget, streams, pace) = (budget.clone(), streams.clone(), pace.clone());
                    std::thread::spawn(move || carry(from, to, &budget, &streams, &pace));
                }
            }
        });
        Self { port, pace_us, left, open }
    }

    fn cut_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    fn hurry(&self) {
        self.pace_us.store(0, Ordering::SeqCst);
    }

    fn is_cut(&self) -> bool {
        self.left.load(Ordering::SeqCst) == 0
    }

    fn mend(&self) {
        self.open.lock().unwrap().clear();
        self.left.store(usize::MAX, Ordering::SeqCst);
    }
}

fn carry(
    mut from: TcpStream,
    mut to: TcpStream,
    left: &AtomicUsize,
    open: &Mutex<Vec<TcpStream>>,
    pace_us: &AtomicUsize,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let take = |left: usize| if left == usize::MAX { Some(left) } else { Some(left.saturating_sub(n)) };
        let before = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).unwrap();
        if before != usize::MAX && before <= n {
            // All connections go at once.
            for stream in open.lock().unwrap().drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
            return;
        }
        std::thread::sleep(Duration::from_micros(pace_us.load(Ordering::SeqCst) as u64));
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

fn machines(count: usize) -> String {
    let line = |n: usize| {
        let properties = json!({
            "name": format!("vm-{n:06}"), "power_state": "POWERED_ON", "cpu_count": n % 16 + 1, "memory_size_MiB": 1024 + n,
            "host": {"type": "HostSystem", "id": format!("host-{}", n / 40)}, "ip_address": format!("10.0.{}.{}", n >> 8 & 255, n & 255),
            "instance_uuid": format!("{:08x}-0000-4000-8000-{:012x}", n * 2_654_435, n * 40_503),
            "guest": {"hostname": format!("guest-{n}.example"), "family": "LINUX"},
        });
        json!({"type": "VirtualMachine", "id": format!("vm-{n:06}"), "properties": properties}).to_string() + "\n"
    };
    (0..count).map(line).collect()
}

fn count(server: &Server, resource_type: &str) -> usize {
    let all = json!({"filter_type": "TYPE", "resource_type": resource_type});
    let spec = json!({"resource_filter": all, "property_spec": [], "limit": 0, "compute_total_item_count": true});
    usize::try_from(server.query(spec)["total_item_count"].as_u64().unwrap()).unwrap()
}

/// Where the copy is, as it is stored: what kind of place, its token, and the last resource.
fn place(server: &Server, link: &str) -> Option<(String, String, String)> {
    let (status, stored) = server.get(&format!("/api/lockstep/resources/SyncCursor/{link}%2Finventory"));
    assert_eq!(status, 200, "{stored}");
    let cursor = stored["properties"]["cursor"].as_str()?.to_owned();
    let mut parts = cursor.splitn(3, '\t');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    Some((next(), next(), next()))
}

/// How often copies of machines were created, and changed in anything but what they are tagged with, since a token of the feed.
fn writes(server: &Server, token: &str) -> (usize, usize) {
    let (mut token, mut created, mut changed) = (token.to_owned(), 0, 0);
    loop {
        let (status, answer) = server.changes(&token);
        assert_eq!(status, 200, "{answer}");
        let Some(events) = answer["value"]["changes"].as_array() else { return (created, changed) };
        for event in events.iter().filter(|event| event["resource"]["type"] == "VirtualMachine") {
            match event["kind"].as_str().unwrap() {
                "CREATE" => created += 1,
                "UPDATE" if event["properties"] == json!(["tags"]) => {}
                _ => changed += 1,
            }
        }
        token = answer["value"]["sequence"].as_str().unwrap().to_owned();
    }
}

fn is_full() -> bool {
    std::env::var("LOCKSTEP_LINK_FIRE").is_ok_and(|text| text == "full")
}

/// A category and tags at a site, on its first machines; the tags' ids.
fn tag(server: &Server, count: usize) -> Vec<String> {
    let spec = json!({"name": "env", "description": "", "cardinality": "MULTIPLE", "associable_types": []});
    let category = server.ok("POST", "/api/cis/tagging/category", &spec);
    let make = |n: usize| {
        let spec = json!({"name": format!("tag {n}"), "description": "", "category_id": category});
        let tag = server.ok("POST", "/api/cis/tagging/tag", &spec).as_str().unwrap().to_owned();
        attach(server, &tag, &format!("vm-{n:06}"));
        tag
    };
    (0..count).map(make).collect()
}

fn attach(server: &Server, tag: &str, vm: &str) {
    let object = json!({"object_id": {"type": "VirtualMachine", "id": vm}});
    server.ok("POST", &format!("/api/cis/tagging/tag-association/{tag}?action=attach"), &object);
}

fn tags_of(server: &Server, vm: &str) -> Vec<String> {
    let object = json!({"object_id": {"type": "VirtualMachine", "id": vm}});
    let tags = server.ok("POST", "/api/cis/tagging/tag-association?action=list-attached-tags", &object);
    let mut tags: Vec<String> = tags.as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()).collect();
    tags.sort();
    tags
}

/// A site with machines and tags, one that links itself with it over a wire, and what they have come to.
struct Fire {
    a: Server,
    b: Server,
    wire: Wire,
    link: String,
    machines: usize,
    tags: Vec<String>,
    /// Where the feed of `b` stood before.
    before: String,
    token: String,
    /// Where the copy was seen last.
    last: String,
}

impl Fire {
    fn light(machines_count: usize, pace: Duration) -> Self {
        let a = site("site1.local", &[]);
        let b = site("site2.local", &["--poll-limit", "1"]);
        let (status, report) = a.import(machines(machines_count));
        assert_eq!(status, 200, "{report}");
        let tags = tag(&a, 40);
        let wire = Wire::lay(a.url.rsplit(':').next().unwrap().parse().unwrap(), pace);
        let before = b.sequence();
        let spec = spec(&a, "site1.local", json!({"port": wire.port.to_string()}));
        let link = b.ok("POST", "/api/hvc/links", &spec).as_str().unwrap().to_owned();
        let (token, last) = (String::new(), String::new());
        Self { a, b, wire, link, machines: machines_count, tags, before, token, last }
    }

    /// Forces a sync, unless one is under way: after a failure the next would wait.
    fn start(&self) {
        for provider in ["inventory", "tagging"] {
            let path = format!("/api/hvc/links/{}/sync/providers/{provider}?action=start", self.link);
            let (status, answer) = self.b.call("POST", &path, &Value::Null);
            assert!(status == 204 || answer["error_type"] == "RESOURCE_BUSY", "{status} {answer}");
        }
    }

    /// Whether the copy goes on: from where it was, by the token that it began with.
    fn check_place(&mut self) -> bool {
        let Some((kind, token, last)) = place(&self.b, &self.link) else { return false };
        if kind == "follow" {
            return true;
        }
        assert_eq!(kind, "copy", "it never has to compare");
        if self.token.is_empty() {
            self.token = token;
        } else {
            assert_eq!(token, self.token, "it has started over");
        }
        assert!(last >= self.last, "{last} after {}", self.last);
        self.last = last;
        false
    }

    fn finish(mut self, what: &str, began: Instant) {
        self.wire.mend();
        self.wire.hurry();
        let mut forced = Instant::now();
        self.start();
        eventually(Duration::from_secs(300), "all is here", || {
            if forced.elapsed() > Duration::from_secs(2) {
                forced = Instant::now();
                self.start();
            }
            let is_copied = self.check_place() && count(&self.b, "VirtualMachine") == self.machines;
            (is_copied && count(&self.b, "Tag") == self.tags.len()).then_some(())
        });
        for (n, tag) in self.tags.iter().enumerate() {
            let copy = format!("site1.local~vm-{n:06}");
            eventually(SOON, "it is tagged", || (tags_of(&self.b, &copy) == [tag.clone()]).then_some(()));
        }
        let (created, changed) = writes(&self.b, &self.before);
        assert_eq!((created, changed), (self.machines, 0), "each copy is written once");
        eprintln!(
            "{what}: {} machines and {} tags, each written once, in {:.1} s; last place in the copy {:?}",
            self.machines,
            self.tags.len(),
            began.elapsed().as_secs_f64(),
            self.last
        );
        assert_eq!(cli(&self.b, &["link", "conflicts", "--output", "json"]).trim(), "[]");
    }
}

#[test]
fn a_first_sync_that_is_cut_again_and_again_goes_on_where_it_was() {
    let began = Instant::now();
    let (machines, cuts, bytes) = if is_full() { (50_000, 20, 400_000) } else { (12_000, 5, 200_000) };
    let mut fire = Fire::light(machines, Duration::from_millis(10));
    let mut random = Random(7);
    for nth in 0..cuts {
        fire.wire.cut_after(random.below(bytes) + 10_000);
        fire.start();
        let mut forced = Instant::now();
        let is_over = eventually(Duration::from_secs(60), "the wire is cut", || {
            if forced.elapsed() > Duration::from_secs(1) {
                // The run before had not ended when it was asked for.
                forced = Instant::now();
                fire.start();
            }
            let is_over = fire.check_place();
            (is_over || fire.wire.is_cut()).then_some(is_over)
        });
        eprintln!("cut {nth}: {}", fire.last.replace('\t', " "));
        if is_over {
            assert!(nth * 2 > cuts, "it ended after {nth} cuts");
            break;
        }
        fire.wire.mend();
    }
    fire.finish(&format!("{cuts} cuts"), began);
}

#[test]
fn a_first_sync_outlives_both_sites_being_killed() {
    let began = Instant::now();
    let (machines, kills, pace) = if is_full() { (50_000, 10, 60) } else { (8000, 2, 40) };
    let mut fire = Fire::light(machines, Duration::from_millis(pace));
    let mut random = Random(11);
    for nth in 0..2 * kills {
        fire.start();
        std::thread::sleep(Duration::from_millis(u64::try_from(random.below(1000)).unwrap()));
        if fire.check_place() {
            assert!(nth > kills, "it ended after {nth} kills");
            break;
        }
        let victim = if nth % 2 == 0 { &mut fire.b } else { &mut fire.a };
        victim.restart();
        fire.check_place();
        eprintln!("kill {nth}: {}", fire.last.replace('\t', " "));
    }
    fire.finish(&format!("{kills} kills of each side"), began);
}

#[test]
fn what_two_sites_tag_apart_comes_together_and_what_lost_is_told() {
    let (a, b) = (site("site1.local", &[]), site("site2.local", &[]));
    a.import(machines(3));
    let tags = tag(&a, 2);
    let wire = Wire::lay(a.url.rsplit(':').next().unwrap().parse().unwrap(), Duration::ZERO);
    // The other direction goes by the address that b tells; both are cut by keeping a from b and b from being asked.
    let spec = spec(&a, "site1.local", json!({"port": wire.port.to_string()}));
    let link = b.ok("POST", "/api/hvc/links", &spec).as_str().unwrap().to_owned();
    eventually(SOON, "tags and machines", || (tags_of(&b, "site1.local~vm-000001") == [tags[1].clone()]).then_some(()));
    // A change comes over by itself, either way.
    attach(&b, &tags[0], "site1.local~vm-000002");
    let began = Instant::now();
    eventually(SOON, "attached at its own site", || (tags_of(&a, "vm-000002") == [tags[0].clone()]).then_some(()));
    eprintln!("an attachment came over in {:.0} ms", began.elapsed().as_secs_f64() * 1000.0);
    let described = |server: &Server, text: &str| {
        let spec = json!({"description": text});
        server.ok("PATCH", &format!("/api/cis/tagging/tag/{}", tags[0]), &spec);
    };
    // b does not hear of a; what a hears of b is told on by nobody.
    wire.cut_after(1);
    eventually(SOON, "unhealthy", || {
        let info = b.ok("GET", &format!("/api/hvc/links/{link}"), &Value::Null);
        (info["connection_health_status"] == "UNHEALTHY").then_some(())
    });
    described(&a, "as a has it");
    // Within a millisecond, neither edit is the later one.
    std::thread::sleep(Duration::from_millis(5));
    described(&b, "as b has it");
    let category = json!({"name": "rack", "description": "", "cardinality": "SINGLE", "associable_types": []});
    let at_b = b.ok("POST", "/api/cis/tagging/category", &category).as_str().unwrap().to_owned();
    wire.mend();
    let get = |server: &Server, path: &str| server.call("GET", path, &Value::Null).1;
    let tag_path = format!("/api/cis/tagging/tag/{}", tags[0]);
    eventually(Duration::from_secs(60), "both say the same", || {
        let (here, there) = (get(&a, &tag_path), get(&b, &tag_path));
        let is_same = here["description"] == "as b has it" && here == there;
        (is_same && get(&a, &format!("/api/cis/tagging/category/{at_b}"))["name"] == "rack").then_some(())
    });
    for server in [&a, &b] {
        let told = eventually(SOON, "the edit that lost", || {
            let told = get(server, "/api/lockstep/links/tagging/conflicts");
            (told.as_array().is_some_and(|all| !all.is_empty())).then_some(told)
        });
        let one = &told[0];
        assert_eq!((&one["reason"], &one["property"]), (&json!("LATER"), &json!("description")), "{told}");
        assert_eq!((&one["lost"], &one["kept"]), (&json!("\"as a has it\""), &json!("\"as b has it\"")), "{told}");
        assert_eq!((&one["lost_site"], &one["kept_site"]), (&json!("site1.local"), &json!("site2.local")), "{told}");
    }
    let table = cli(&b, &["link", "conflicts"]);
    assert!(table.contains("LATER") && table.contains("as a has it"), "{table}");
    eprintln!("{table}");
    let table = eventually(SOON, "in step", || {
        Some(cli(&b, &["link", "providers", "site1.local"])).filter(|table| table.matches("0 s").count() >= 3)
    });
    eprintln!("{table}");
    // Specifications of the other site are seen, and nobody here takes them for its own.
    let spec = json!({"counters": {"cid_mid": {"cid": "cpu.capacity.usage.HOST"}}, "resources": [{"type": "HOST", "id_value": "h"}], "interval": 10});
    let (status, made) = a.call("POST", "/api/stats/acq-specs", &spec);
    if status == 201 {
        let linked = || count(&b, "LinkedAcqSpec");
        eventually(SOON, "the other site's specification", || (linked() == 1).then_some(()));
        assert_eq!(b.ok("GET", "/api/stats/acq-specs", &Value::Null)["acq_specs"], json!([]), "{made}");
    } else {
        panic!("{status} {made}");
    }
}
