//! One site, and what is asked of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use lockstep_client::{Client, Config, Login, Trust};
use lockstep_contract::services::links::tagging::{ConflictsInput, Reason};
use lockstep_contract::{Data, Encoding, Error, Secret};
use lockstep_journal::{Batch, Change, Expect, Operation};
use lockstep_model::builtin::TAGS;
use lockstep_model::{Document, Position, ResourceId, Value as Stored};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::linked::{self, Incoming};
use lockstep_site::stamps::{Stamps, listed};
use lockstep_site::table::{Context, Table};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::{conflicts, serve};
use crate::inventory::frame::{Frame, FrameWriter};
use crate::inventory::set::TAGGING;
use crate::{LinkId, Run};

pub(super) const CATEGORY: &str = "com.vmware.cis.tagging.category";
pub(super) const TAG_SERVICE: &str = "com.vmware.cis.tagging.tag";
pub(super) const ASSOCIATION: &str = "com.vmware.cis.tagging.tag_association";

pub(super) struct House {
    pub(super) name: String,
    pub(super) site: Arc<Site>,
    pub(super) table: Arc<Table>,
    pub(super) dir: TempDir,
    pub(super) registers: BTreeMap<ResourceId, Stamps>,
}

pub(super) fn open(dir: &TempDir, name: &str) -> Arc<Site> {
    let config = lockstep_site::Config {
        name: name.to_owned(),
        data_dir: dir.path().to_owned(),
        journal: lockstep_journal::Config::default(),
        query_limits: lockstep_query::Limits::default(),
        sessions: lockstep_site::sessions::SessionLimits::default(),
        epoch_types: Vec::new(),
    };
    Site::open(config, &mut |_| {}).unwrap()
}

impl House {
    pub(super) fn new(name: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let site = open(&dir, name);
        let mut table = Table::default();
        lockstep_site::register(&mut table);
        lockstep_tagging::register(&mut table);
        Self { name: name.to_owned(), site, table: Arc::new(table), dir, registers: BTreeMap::new() }
    }

    /// Stops and starts.
    pub(super) async fn reopen(&mut self) {
        let old = self.site.clone();
        tokio::task::spawn_blocking(move || old.close()).await.unwrap();
        self.site = open(&self.dir, &self.name);
    }

    pub(super) fn log(&self) -> String {
        format!("{:016x}", self.site.origin().epoch)
    }

    pub(super) async fn link(&self, link: &LinkId, peer: &Self) {
        let mut document = Document::default();
        document.set("domain_name", Some(Stored::from(&*peer.name)));
        document.set("peer_log", Some(Stored::from(&*peer.log())));
        let change = Change { id: link.resource(), operation: Operation::Create(document), parents: Arc::from([]) };
        let batch = Batch { author: "test".into(), changes: vec![(change, Expect::Absent)], relies_on: Vec::new() };
        self.site.commit(batch).await.unwrap();
    }

    pub(super) fn run(&self, link: &LinkId, peer: &Self) -> Run {
        // Nobody is called: frames are carried by hand.
        let config = Config {
            url: "http://127.0.0.1:9".to_owned(),
            login: Login::Token(Secret("t".to_owned())),
            trust: Trust::Anything,
        };
        Run::new(self.site.clone(), Client::new(config).unwrap(), link.clone(), peer.name.clone(), TAGGING)
    }

    pub(super) async fn call(&self, service: &str, operation: &str, input: Value) -> Result<Value, Error> {
        let entry = &self.table.entries()[self.table.find(service, operation).unwrap()];
        let context = self.context();
        let data = Data::from_json(input.to_string().as_bytes()).unwrap();
        let answer = entry.call(context, data, Encoding::Plain, false).await?;
        let mut w = lockstep_contract::PlainJson::default();
        answer.value.encode(&mut w);
        Ok(serde_json::from_slice(&w.out).unwrap())
    }

    pub(super) fn context(&self) -> Context {
        Context { site: self.site.clone(), caller: Caller::Server("test"), operation_id: "test".into() }
    }

    pub(super) async fn category(&self, name: &str, cardinality: &str) -> String {
        let spec = json!({"name": name, "description": "", "cardinality": cardinality, "associable_types": []});
        self.call(CATEGORY, "create", json!({ "create_spec": spec })).await.unwrap().as_str().unwrap().to_owned()
    }

    pub(super) async fn tag(&self, name: &str, category: &str) -> String {
        let spec = json!({"name": name, "description": "", "category_id": category});
        self.call(TAG_SERVICE, "create", json!({ "create_spec": spec })).await.unwrap().as_str().unwrap().to_owned()
    }

    /// Waits until an edit here is later than all that the other has made: within a millisecond, neither is.
    pub(super) async fn outlast(&self, other: &Self) {
        let now = other.site.journal().now_ms();
        while self.site.journal().now_ms() <= now {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn pair(&self, what: &str, tag: &str, vm: &str) -> Result<(), Error> {
        let object = json!({"type": "VirtualMachine", "id": vm});
        self.call(ASSOCIATION, what, json!({"tag_id": tag, "object_id": object})).await.map(drop)
    }

    pub(super) async fn vm(&self, id: &str, properties: &str) {
        let id = ResourceId::new("VirtualMachine", id);
        self.site.replace_resource("test".into(), id, properties, None).await.unwrap();
    }

    pub(super) fn ids(&self, resource_type: &str) -> Vec<String> {
        self.site.view().ids(resource_type, None).map(|id| id.id.into()).collect()
    }

    pub(super) fn tags_of(&self, vm: &str) -> BTreeSet<String> {
        let view = self.site.view();
        let stored = view.get(&ResourceId::new("VirtualMachine", vm));
        let tags = stored.map(|stored| listed(&stored.document)).unwrap_or_default();
        tags.into_iter().filter(|tag| view.modified(tag).is_some()).map(|tag| tag.id.into()).collect()
    }

    pub(super) fn get(&self, resource_type: &str, id: &str) -> Option<Document> {
        self.site.view().get(&ResourceId::new(resource_type, id)).map(|stored| stored.document)
    }

    pub(super) fn text(&self, resource_type: &str, id: &str, path: &str) -> String {
        let document = self.get(resource_type, id).unwrap();
        document.get(path).and_then(Stored::as_str).unwrap_or_default().to_owned()
    }

    pub(super) fn conflicts(&self) -> Vec<(Reason, String, String)> {
        let all = conflicts::list(&self.context(), &ConflictsInput { limit: None }).unwrap();
        all.into_iter().map(|one| (one.reason, one.property, one.lost)).collect()
    }

    /// All that is known here for the other site, in frames.
    pub(super) fn state(&self, link: &LinkId) -> Vec<Frame> {
        let view = self.site.view();
        let (mut frames, mut after) = (Vec::new(), None);
        loop {
            let mut frame = FrameWriter::default();
            after = serve::page(&view, link, after.as_ref(), &mut frame);
            frames.push(Frame::open(&frame.finish()).unwrap());
            if after.is_none() {
                return frames;
            }
        }
    }

    /// What changed since a moment, for the other site.
    pub(super) fn since(&self, link: &LinkId, after: Position) -> Frame {
        let mut frame = FrameWriter::default();
        let mut told = HashSet::new();
        let mut at = after;
        loop {
            let commits = self.site.journal().read(at, 1 << 20).unwrap();
            let Some(last) = commits.last() else { return Frame::open(&frame.finish()).unwrap() };
            at = last.position;
            let view = self.site.view();
            for change in commits.iter().flat_map(|commit| &commit.changes) {
                serve::tell(link, change, &view, &mut frame, &mut told);
            }
        }
    }
}

/// What a copy has of its original.
pub(super) async fn copy(from: &House, to: &House, link: &LinkId) {
    let prefix = format!("{}~", from.name);
    let incoming = {
        let (view, there) = (to.site.view(), from.site.view());
        let def = view.registry().type_def("VirtualMachine").unwrap().clone();
        let mut incoming: Vec<Incoming> = Vec::new();
        for original in there.resources("VirtualMachine", None).filter(|vm| vm.linked_from().is_none()) {
            let mut document = there.get(&original.resource_id()).unwrap().document;
            document.set(TAGS, None);
            let id = ResourceId::new("VirtualMachine", format!("{prefix}{}", original.id()));
            incoming.push(Incoming { id, present: Some((def.clone(), document)) });
        }
        let is_gone = |id: &ResourceId| {
            let own = id.id.strip_prefix(&*prefix).unwrap();
            there.modified(&ResourceId::new("VirtualMachine", own)).is_none()
        };
        let gone = view.ids("VirtualMachine", None).filter(|id| id.id.starts_with(&prefix)).filter(is_gone);
        incoming.extend(gone.map(|id| Incoming { id, present: None }));
        incoming
    };
    let changes = linked::plan(&to.site.view(), &link.resource(), incoming).unwrap();
    if !changes.is_empty() {
        to.site.commit(Batch { author: "link".into(), changes, relies_on: Vec::new() }).await.unwrap();
    }
}
