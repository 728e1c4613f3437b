//! Tags and categories of a vCenter, over its REST API: a service of its own, without updates, so it is asked now and then.
//!
//! Their ids are unique everywhere, so they are the same here, with no prefix; vCenters that are linked have the same tags, and the
//! first collector keeps them. An ESXi host has none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_journal::CommitError;
use lockstep_model::builtin::{TAG, TAG_CATEGORY, TAGS};
use lockstep_model::{COLLECTED_BY, ResourceId};
use lockstep_site::Site;
use lockstep_site::collected::{self, Incoming, Seen};
use serde_json::{Map, Value, json};

use crate::object::{Ids, ObjectRef};
use crate::run::Source;
use crate::vim::Vim;

/// How often tags are asked for.
const EVERY: Duration = Duration::from_secs(60);

/// How often the names of tags that are known are asked for again.
const DETAILS_EVERY: Duration = Duration::from_secs(600);

/// Tags and categories at the most.
const TAGS_MAX: usize = 20_000;

/// So many tags are asked about in one call.
const TAGS_ASKED: usize = 200;

/// So many resources are written in one commit.
const BATCH: usize = 250;

/// Longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);

const BASE: &str = "/rest/com/vmware/cis";

/// The properties that a collector owns.
const OF_CATEGORY: &[&str] = &["name", "description", "cardinality", "associable_types"];
const OF_TAG: &[&str] = &["name", "description", "category"];

/// Whether a resource is of the types that are read here.
pub(crate) fn is_of_tagging(id: &ResourceId) -> bool {
    matches!(id.resource_type.as_str(), TAG | TAG_CATEGORY)
}

/// When tags were read, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Tags {
    read: Option<Instant>,
    details_read: Option<Instant>,
    details: HashMap<String, Map<String, Value>>,
}

/// All tags of a source.
#[derive(Debug, Default)]
pub(crate) struct SeenTags {
    /// Categories, then tags: id and properties.
    resources: Vec<(ResourceId, Map<String, Value>)>,
    attached: BTreeMap<ObjectRefKey, BTreeSet<ResourceId>>,
}

/// Type and id of an object there.
type ObjectRefKey = (String, String);

impl Tags {
    /// Reads all tags when it is time to; `None` when it is not, or when the source is a host.
    ///
    /// # Errors
    /// Why the source does not tell them.
    pub(crate) async fn read(&mut self, vim: &Vim, source: &Source) -> Result<Option<SeenTags>, String> {
        if !vim.about.is_vcenter || self.read.is_some_and(|read| read.elapsed() < EVERY) {
            return Ok(None);
        }
        self.read = Some(Instant::now());
        if self.details_read.is_none_or(|read| read.elapsed() >= DETAILS_EVERY) {
            self.details.clear();
            self.details_read = Some(Instant::now());
        }
        let request = vim.connector.http().post(format!("{}{BASE}/session", vim.url));
        let token = answer(request.basic_auth(&source.user, Some(&source.password.0))).await?;
        let token = token.as_str().ok_or("no session")?.to_owned();
        let session = Session { vim, token };
        let seen = self.read_all(&session).await;
        // A session that is left behind ends by itself.
        let _ = session.ask(reqwest::Method::DELETE, "/session", None).await;
        seen.map(Some)
    }

    async fn read_all(&mut self, session: &Session<'_>) -> Result<SeenTags, String> {
        let categories = texts(&session.get("/tagging/category").await?);
        let tags = texts(&session.get("/tagging/tag").await?);
        if categories.len() + tags.len() > TAGS_MAX {
            return Err(format!("more than {TAGS_MAX} tags and categories"));
        }
        let known: HashSet<&String> = categories.iter().chain(&tags).collect();
        self.details.retain(|id, _| known.contains(id));
        let mut seen = SeenTags::default();
        for (resource_type, path, ids) in [(TAG_CATEGORY, "category", &categories), (TAG, "tag", &tags)] {
            for id in ids {
                let properties = match self.details.get(id) {
                    Some(known) => known.clone(),
                    None => {
                        let told = session.get(&format!("/tagging/{path}/id:{id}")).await?;
                        let properties = if resource_type == TAG { of_tag(&told) } else { of_category(&told) };
                        self.details.insert(id.clone(), properties.clone());
                        properties
                    }
                };
                seen.resources.push((ResourceId::new(resource_type, &**id), properties));
            }
        }
        for asked in tags.chunks(TAGS_ASKED) {
            let path = "/tagging/tag-association?~action=list-attached-objects-on-tags";
            let told = session.ask(reqwest::Method::POST, path, Some(json!({ "tag_ids": asked }))).await?;
            for of_tag in told.as_array().into_iter().flatten() {
                let Some(tag) = of_tag["tag_id"].as_str() else { continue };
                for object in of_tag["object_ids"].as_array().into_iter().flatten() {
                    if let (Some(kind), Some(id)) = (object["type"].as_str(), object["id"].as_str()) {
                        let key = (kind.to_owned(), id.to_owned());
                        seen.attached.entry(key).or_default().insert(ResourceId::new(TAG, tag));
                    }
                }
            }
        }
        Ok(seen)
    }
}

struct Session<'a> {
    vim: &'a Vim,
    token: String,
}

impl Session<'_> {
    async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(reqwest::Method::GET, path, None).await
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Result<Value, String> {
        let mut request = self.vim.connector.http().request(method, format!("{}{BASE}{path}", self.vim.url));
        request = request.header("vmware-api-session-id", &self.token);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        answer(request).await
    }
}

/// The value that a call answers.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value, String> {
    let told = |error: reqwest::Error| error.without_url().to_string();
    let read = async {
        let mut response = request.send().await.map_err(told)?;
        if !response.status().is_success() {
            return Err(format!("status {} of the tagging service", response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(told)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(format!("more than {ANSWER_BYTES_MAX} bytes from the tagging service"));
            }
            body.extend_from_slice(&chunk);
        }
        if body.is_empty() {
            return Ok(Value::Null);
        }
        let mut read: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        Ok(read.get_mut("value").map(Value::take).unwrap_or_default())
    };
    tokio::time::timeout(ANSWER_MAX, read).await.map_err(|_| "the tagging service does not answer".to_owned())?
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// The fields that are told and not empty, under the same names.
fn told(from: &Value, names: &[&str]) -> Map<String, Value> {
    let is_told = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let one = |name: &&str| Some(((*name).to_owned(), from.get(*name).filter(|value| is_told(value))?.clone()));
    names.iter().filter_map(one).collect()
}

fn of_category(category: &Value) -> Map<String, Value> {
    let mut properties = told(category, &["name", "description", "cardinality"]);
    let mut types = texts(&category["associable_types"]);
    types.sort_unstable();
    if !types.is_empty() {
        properties.insert("associable_types".to_owned(), json!(types));
    }
    properties
}

fn of_tag(tag: &Value) -> Map<String, Value> {
    let mut properties = told(tag, &["name", "description"]);
    if let Some(category) = tag["category_id"].as_str() {
        properties.insert("category".to_owned(), json!({"type": TAG_CATEGORY, "id": category}));
    }
    properties
}

impl SeenTags {
    /// Writes what differs: what is new, then what is attached, then what is gone.
    ///
    /// # Errors
    /// [`CommitError`]; some may be written then.
    pub(crate) async fn write(
        self,
        site: &Arc<Site>,
        author: &Arc<str>,
        collector: &ResourceId,
        ids: &Ids,
    ) -> Result<(), CommitError> {
        let present: HashSet<ResourceId> = self.resources.iter().map(|(id, _)| id.clone()).collect();
        let whole = self.resources.into_iter().map(|(id, properties)| {
            let paths = if id.resource_type.as_str() == TAG { OF_TAG } else { OF_CATEGORY };
            Incoming { id, seen: Seen::Present { is_whole: true, paths: paths.to_vec(), properties } }
        });
        write(site, author, collector, whole.collect()).await?;
        let attached = self.attached.into_iter().filter_map(|((kind, id), tags)| {
            let object = ObjectRef { kind: kind.into(), id: id.into() };
            Some((ids.resource(&object)?, tags))
        });
        attach(site, author, collector, attached.collect(), &present).await?;
        let is_gone = |id: &ResourceId| is_of_tagging(id) && !present.contains(id);
        collected::delete_where(site, author, collector, is_gone).await.map(|_| ())
    }
}

/// Takes all tags that a collector keeps off whatever has them.
///
/// # Errors
/// [`CommitError`]; some may be taken off then.
pub(crate) async fn detach(site: &Arc<Site>, author: &Arc<str>, collector: &ResourceId) -> Result<(), CommitError> {
    attach(site, author, collector, BTreeMap::new(), &HashSet::new()).await
}

/// Makes the collector's objects have these tags, of those that it keeps, and no others; takes tags that are not among `present` off
/// whatever else has them.
async fn attach(
    site: &Arc<Site>,
    author: &Arc<str>,
    collector: &ResourceId,
    mut attached: BTreeMap<ResourceId, BTreeSet<ResourceId>>,
    present: &HashSet<ResourceId>,
) -> Result<(), CommitError> {
    {
        let view = site.view();
        let ours: Vec<ResourceId> =
            collected::kept(&view, collector).into_iter().filter(|id| id.resource_type.as_str() == TAG).collect();
        let is_kept = |object: &ResourceId| view.reference(object, COLLECTED_BY).as_ref() == Some(collector);
        let mut of_others: BTreeMap<ResourceId, BTreeSet<ResourceId>> = BTreeMap::new();
        let mut with_vanishing = BTreeSet::new();
        for def in view.registry().types() {
            for tag in &ours {
                for object in view.referring(def.name.as_str(), TAGS, tag) {
                    if is_kept(&object) {
                        attached.entry(object).or_default();
                    } else if present.contains(tag) {
                        of_others.entry(object).or_default().insert(tag.clone());
                    } else {
                        with_vanishing.insert(object);
                    }
                }
            }
        }
        for object in with_vanishing {
            let stay = of_others.remove(&object).unwrap_or_default();
            attached.insert(object, stay);
        }
    }
    let incoming = attached.into_iter().map(|(id, tags)| Incoming { id, seen: Seen::Tagged(tags) });
    write(site, author, collector, incoming.collect()).await
}

async fn write(
    site: &Arc<Site>,
    author: &Arc<str>,
    collector: &ResourceId,
    incoming: Vec<Incoming>,
) -> Result<(), CommitError> {
    let mut incoming = incoming.into_iter().peekable();
    while incoming.peek().is_some() {
        let part = incoming.by_ref().take(BATCH).collect();
        collected::write(site, author, collector, part).await?;
    }
    Ok(())
}
