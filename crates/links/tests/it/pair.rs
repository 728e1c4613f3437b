//! A source behind a real server, a target that copies it, and a wire between them that can be cut.

#![allow(dead_code, clippy::unwrap_used, reason = "for tests and benches, which use different parts of it")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockstep_api::ApiConfig;
use lockstep_client::{Client, Config, Login, Trust};
use lockstep_contract::services::TypedId;
use lockstep_contract::services::accounts::{IssueTokenInput, Role};
use lockstep_contract::services::link_pull::{Changes, ChangesOut, ModelList, Models, Page, PageOut, Start, Started};
use lockstep_contract::{Binary, Secret};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_links::inventory::{self, Inventory};
use lockstep_links::provider::initial;
use lockstep_links::{LinkId, Run, SyncError, SyncProvider};
use lockstep_model::{Document, LINKED_FROM, Position, ResourceId, Value, builtin};
use lockstep_query::{Limits, Query, parse_text};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::Table;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The source's name at the target.
pub const DOMAIN: &str = "site2.local";

/// Enough like random.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }
}

pub fn open(dir: &Path) -> Arc<Site> {
    let config = lockstep_site::Config {
        name: "s".to_owned(),
        data_dir: dir.to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: Limits::default(),
        sessions: lockstep_site::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    };
    Site::open(config, &mut |_| {}).unwrap()
}

async fn serve(site: Arc<Site>, table: Table) -> SocketAddr {
    let listener = lockstep_api::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    let never = std::future::pending::<()>();
    tokio::spawn(lockstep_api::serve(site, Arc::new(table), listener, ApiConfig::default(), never));
    address
}

/// A wire to an address that breaks after so many bytes.
struct Wire {
    address: SocketAddr,
    /// Bytes that are let through in all; `usize::MAX` for no limit.
    left: Arc<AtomicUsize>,
}

impl Wire {
    async fn lay(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let budget = left.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let budget = budget.clone();
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let (mut near_in, mut near_out) = near.into_split();
                    let (mut far_in, mut far_out) = far.into_split();
                    tokio::select! {
                        () = carry(&mut near_in, &mut far_out, &budget) => {}
                        () = carry(&mut far_in, &mut near_out, &budget) => {}
                    }
                });
            }
        });
        Self { address, left }
    }
}

async fn carry(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin), left: &AtomicUsize) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let before = left.load(Ordering::Relaxed);
        if before != usize::MAX
            && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |l| l.checked_sub(n)).is_err()
        {
            return;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

/// The site that copies.
pub struct Target {
    site: Arc<Site>,
    dir: Arc<tempfile::TempDir>,
    provider: Inventory,
    url: String,
    token: Secret,
}

impl Target {
    pub async fn open_new(url: String, token: Secret) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let target = Self { site: open(dir.path()), dir, provider: Inventory::new(), url, token };
        let link = LinkId::new("link-1");
        let mut properties = Document::default();
        properties.set("domain_name", Some(Value::from(DOMAIN)));
        let create = Change { id: link.resource(), operation: Operation::Create(properties), parents: Arc::from([]) };
        let mut changes = vec![(create, Expect::Absent)];
        changes.extend(initial(&link, &target.provider));
        target.site.commit(Batch { author: "test".into(), changes, relies_on: Vec::new() }).await.unwrap();
        target
    }

    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    pub fn run(&self) -> Run {
        let config = Config { url: self.url.clone(), login: Login::Token(self.token.clone()), trust: Trust::Anything };
        let client = Client::new(config).unwrap();
        Run::new(self.site.clone(), client, LinkId::new("link-1"), DOMAIN.to_owned(), "inventory")
    }

    pub async fn sync(&self) -> Result<(), SyncError> {
        let run = self.run();
        let outcome = self.provider.sync(&run).await;
        if outcome.is_ok() {
            let progress = *run.progress().borrow();
            assert_eq!(progress.completed, progress.total, "what was told to be done was done");
        }
        outcome
    }

    pub async fn changed(&self) -> Result<(), SyncError> {
        self.provider.changed(&self.run()).await
    }

    pub async fn reset(&self) {
        let id = LinkId::new("link-1").cursor("inventory");
        let cursor = [("cursor".to_owned(), "null".to_owned())];
        self.site.patch_resource("test".into(), id, &cursor, None).await.unwrap();
    }

    pub async fn model(&self, name: &str, definition: &str) {
        model(&self.site, name, definition).await;
    }

    pub fn json(&self, id: &ResourceId) -> Option<String> {
        let view = self.site.view();
        let mut out = Vec::new();
        view.find(id)?.write_json(&mut out);
        Some(String::from_utf8(out).unwrap())
    }

    /// The copies, by the ids of their originals and with what those hold.
    pub fn copies(&self) -> BTreeMap<(String, String), serde_json::Value> {
        let view = self.site.view();
        let mut all = BTreeMap::new();
        for def in view.registry().types() {
            for resource in view.resources(def.name.as_str(), None).filter(|r| r.linked_from().is_some()) {
                let id = resource.id().strip_prefix(DOMAIN).unwrap().strip_prefix('~').unwrap().to_owned();
                all.insert((resource.resource_type().to_owned(), id), content(&resource, true));
            }
        }
        all
    }

    /// How many changes of copies there were in all.
    pub fn writes(&self) -> usize {
        let mut writes = 0;
        let mut at = Position::ZERO;
        loop {
            let commits = self.site.journal().read(at, 1 << 20).unwrap();
            let Some(last) = commits.last() else { return writes };
            at = last.position;
            let copies = |change: &&Change| change.id.id.starts_with(&format!("{DOMAIN}~"));
            writes += commits.iter().flat_map(|commit| &commit.changes).filter(copies).count();
        }
    }

    pub fn query(&self, text: &str) -> Vec<String> {
        let view = self.site.view();
        let limits = Limits::default();
        let spec = parse_text(text, view.registry()).unwrap();
        let query = Query::compile(&spec, view.registry(), &limits).unwrap();
        view.query(&query).items().map(|item| item.id().1.to_string()).collect()
    }

    pub fn start_answer(&self) -> Started {
        let view = self.site.view();
        let count = |t: &str| view.count(t) - view.linked_count(t);
        let total = ["VirtualMachine", "HostSystem", "Datastore"].into_iter().map(count).sum::<usize>();
        Started { token: String::new(), total: total as i64, models: String::new() }
    }
}

/// What a resource holds, in a form that does not depend on the site.
fn content(resource: &lockstep_query::ResourceRef<'_>, is_copy: bool) -> serde_json::Value {
    let mut out = Vec::new();
    resource.write_json(&mut out);
    let mut json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    if is_copy {
        assert_eq!(json.as_object_mut().unwrap().remove(LINKED_FROM).unwrap()["id"], "link-1");
        strip(&mut json);
    }
    json
}

fn strip(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(fields)
            if fields.len() == 2 && fields.contains_key("type") && fields.contains_key("id") =>
        {
            let id = fields["id"].as_str().unwrap().strip_prefix(&format!("{DOMAIN}~")).unwrap().to_owned();
            fields.insert("id".to_owned(), id.into());
        }
        serde_json::Value::Object(fields) => fields.values_mut().for_each(strip),
        serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

async fn model(site: &Site, name: &str, definition: &str) {
    let mut document = Document::default();
    document.set("name", Some(Value::from(name)));
    document.set("resource_type", Some(Value::from("t.Thing")));
    document.set("definition", Some(Value::from(definition)));
    let id = ResourceId::new(builtin::RESOURCE_MODEL, name);
    site.write_document("test".into(), id, document, None).await.unwrap();
}

/// The site that is copied, behind the real server.
pub struct Source {
    pub site: Arc<Site>,
    pub address: SocketAddr,
    pub token: Secret,
    dir: tempfile::TempDir,
}

impl Source {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = open(dir.path());
        let token = issue(&site, "link-1").await;
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        inventory::register(&mut table);
        let address = serve(site.clone(), table).await;
        Self { site, address, token, dir }
    }
}

/// Both sites.
pub struct Pair {
    pub source: Arc<Site>,
    source_dir: tempfile::TempDir,
    wire: Wire,
    token: Secret,
    target: Option<Target>,
}

impl Pair {
    pub async fn start() -> Self {
        let Source { site: source, address, token, dir: source_dir } = Source::start().await;
        let wire = Wire::lay(address).await;
        let url = format!("http://{}", wire.address);
        let target = Some(Target::open_new(url, token.clone()).await);
        Self { source, source_dir, wire, token, target }
    }

    pub fn target(&self) -> &Target {
        self.target.as_ref().unwrap()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.wire.address)
    }

    pub fn token(&self) -> Secret {
        self.token.clone()
    }

    pub fn cut_after(&self, bytes: usize) {
        self.wire.left.store(bytes, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.wire.left.store(usize::MAX, Ordering::Relaxed);
    }

    pub async fn reopen_target(&mut self) {
        let old = self.target.take().unwrap();
        let dir = old.dir.clone();
        tokio::task::spawn_blocking(move || old.site.close()).await.unwrap();
        let site = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || open(dir.path())
        });
        let site = site.await.unwrap();
        self.target = Some(Target { site, dir, provider: Inventory::new(), url: self.url(), token: self.token() });
    }

    /// The source forgets its log up to the present.
    pub fn forget_log(&self) {
        self.source.journal().compact(self.source.journal().head()).unwrap();
    }

    pub async fn issue_token(&self, user: &str) {
        issue(&self.source, user).await;
    }

    pub async fn revoke(&self) {
        self.source.delete_account(&Caller::Server("test"), "link-1").await.unwrap();
    }

    pub async fn create(&self, resource_type: &str, id: &str, json: &str) {
        let id = ResourceId::new(resource_type, id);
        self.source.create_resource("test".into(), id, json).await.unwrap();
    }

    pub async fn rename(&self, resource_type: &str, id: &str, name: &str) {
        let name = [("name".to_owned(), format!("{name:?}"))];
        self.source.patch_resource("test".into(), ResourceId::new(resource_type, id), &name, None).await.unwrap();
    }

    pub async fn delete(&self, resource_type: &str, id: &str) {
        self.source.delete_resource("test".into(), ResourceId::new(resource_type, id), None, false).await.unwrap();
    }

    pub async fn model(&self, name: &str, definition: &str) {
        model(&self.source, name, definition).await;
    }

    /// Makes so many machines.
    pub async fn fill(&self, count: usize) {
        fill(&self.source, count).await;
    }

    /// Up to `most` changes of any kind.
    pub async fn change(&self, random: &mut Random, most: u64) {
        change(&self.source, random, most).await;
    }

    /// Changes the source while something else goes on.
    pub fn churn(&self, seed: u64) -> JoinHandle<()> {
        let source = self.source.clone();
        tokio::spawn(async move { change(&source, &mut Random::new(seed), 60).await })
    }

    /// Whether the copies are what the originals are.
    pub fn check(&self) {
        let originals: BTreeMap<(String, String), serde_json::Value> = {
            let view = self.source.view();
            let shared = view.registry().types().filter(|def| {
                let name = def.name.as_str();
                builtin::writing_service(name).is_none() && !matches!(name, builtin::TAG | builtin::TAG_CATEGORY)
            });
            let all = shared.flat_map(|def| view.resources(def.name.as_str(), None));
            all.map(|r| ((r.resource_type().to_owned(), r.id().to_owned()), content(&r, false))).collect()
        };
        let copies = self.target().copies();
        for (id, original) in &originals {
            assert_eq!(copies.get(id), Some(original), "{id:?}");
        }
        let extra: Vec<_> = copies.keys().filter(|id| !originals.contains_key(*id)).collect();
        assert!(extra.is_empty(), "{extra:?}");
    }
}

async fn issue(site: &Site, user: &str) -> Secret {
    let input = IssueTokenInput { user: user.to_owned(), role: Role::Link, description: None };
    site.issue_token(&Caller::Server("test"), input).await.unwrap()
}

/// A machine as large as those of the inventory that the product is measured with.
pub fn machine(i: usize) -> String {
    format!(
        r#"{{"name":"vm-{i:06}","host":{{"type":"HostSystem","id":"host-{}"}},"power_state":"POWERED_ON","cpu_count":{},"memory_size_MiB":{},"guest":{{"tools":{{"version":{},"running":true}}}},"ip_address":"10.{}.{}.{}","datastores":[{{"type":"Datastore","id":"ds-{}"}}],"nics":[{{"label":"Network adapter 1"}},{{"label":"Network adapter 2"}}]}}"#,
        i / 40,
        i % 16 + 1,
        1024 << (i % 6),
        12_000 + i % 100,
        i >> 16 & 255,
        i >> 8 & 255,
        i & 255,
        i / 100,
    )
}

pub async fn fill(site: &Arc<Site>, count: usize) {
    let caller = Caller::Server("test");
    let mut importer = lockstep_site::import::Importer::new(site.clone(), &caller, Default::default());
    for i in 0..count {
        let line = format!(r#"{{"type":"VirtualMachine","id":"vm-{i:06}","properties":{}}}"#, machine(i));
        importer.push(line.as_bytes()).await.unwrap();
        importer.push(b"\n").await.unwrap();
    }
    importer.finish().await.unwrap();
}

async fn change(site: &Site, random: &mut Random, most: u64) {
    for _ in 0..random.below(most) {
        let i = random.below(3200);
        let vm = ResourceId::new("VirtualMachine", format!("vm-{i:06}"));
        let thing = ResourceId::new("t.Thing", format!("{}", random.below(30)));
        let outcome = match random.below(6) {
            0 => site.delete_resource("test".into(), vm, None, false).await,
            1 => site.delete_resource("test".into(), thing, None, false).await,
            2 => {
                let json = format!(r#"{{"a":{},"to":{{"type":"t.Thing","id":"{i}"}}}}"#, random.below(9));
                site.replace_resource("test".into(), thing, &json, None).await
            }
            3 => site.replace_resource("test".into(), vm, r#"{"name":"small"}"#, None).await,
            _ => site.replace_resource("test".into(), vm, &machine(random.below(9) as usize), None).await,
        };
        if let Err(error) = outcome {
            assert!(matches!(error, lockstep_site::WriteError::NotFound(_)), "{error:?}");
        }
    }
}

/// A site that answers what it is told to.
pub struct Liar {
    pub token: String,
    pub models: Vec<String>,
    /// Every page.
    pub page: Option<(Binary, Option<TypedId>)>,
    /// What comes of following.
    pub more: bool,
}

impl Default for Liar {
    fn default() -> Self {
        Self { token: "t".to_owned(), models: Vec::new(), page: None, more: false }
    }
}

impl Liar {
    /// Serves the lies; the target that asks for them.
    pub async fn serve(self) -> Target {
        let dir = tempfile::tempdir().unwrap();
        let site = open(dir.path());
        let token = issue(&site, "link-1").await;
        let mut table = Table::default();
        let Self { token: told, models, page, more } = self;
        let empty = || Binary(lz4_flex::block::compress_prepend_size(b"").into());
        let version = if models.is_empty() { String::new() } else { "1".to_owned() };
        let started = Started { token: told.clone(), total: 1, models: version };
        table.register(Start, move |_, _| std::future::ready(Ok(started.clone())));
        table.register(Models, move |_, _| {
            std::future::ready(Ok(ModelList { models: "1".to_owned(), definitions: models.clone() }))
        });
        let (frame, next) = page.unwrap_or_else(|| (empty(), None));
        table.register(Page, move |_, _| {
            std::future::ready(Ok(PageOut { frame: frame.clone(), next: next.clone(), models: String::new() }))
        });
        table.register(Changes, move |_, _| {
            let (token, models) = (told.clone(), String::new());
            std::future::ready(Ok(ChangesOut { token, frame: empty(), more, models }))
        });
        let address = serve(site, table).await;
        Target::open_new(format!("http://{address}"), token).await
    }
}
