//! The property collector's one-time reads: objects, what is reached from them, and some of their properties.
//!
//! A specification names objects to begin with, ways on from them (properties that point to other objects, by the type that they are of; a way
//! may go on by others, itself among them), and for each type of object the properties that are wanted. An object is answered once, however
//! many ways lead to it. A property that is not served is left out, as one that is not set.

use std::collections::HashSet;
use std::fmt::Write as _;

use lockstep_contract::{Error, ErrorKind};
use lockstep_model::ResourceId;

use super::fault::Fault;
use super::message::{Element, escaped};
use super::property::{is_a, names, property};
use super::tree::Tree;
use super::value::{Value, write_object};
use super::view::ContainerView;

/// Most bytes of an answer. Who has more asks the query service, page by page.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Most steps from object to object of one call.
const STEPS_MAX: usize = 1_000_000;

/// A way on from objects of a type.
struct Way<'e> {
    name: &'e str,
    type_name: &'e str,
    path: &'e str,
    /// Whether the objects at its end are only passed through.
    skip: bool,
    on: Vec<&'e Element>,
}

/// A call's reading of the tree.
struct Collector<'t, 'e> {
    tree: &'t Tree<'t>,
    /// Types, and the paths that are wanted of them; all when there are none.
    wanted: Vec<(&'e str, Option<Vec<&'e str>>)>,
    ways: Vec<Way<'e>>,
    told: HashSet<ResourceId>,
    /// Steps that were gone: an object, and the way that led on from it.
    gone: HashSet<(ResourceId, usize)>,
    element: &'static str,
    out: String,
}

/// The objects that the specifications of a call are for, each in an element.
pub(super) fn collect(tree: &Tree<'_>, call: &Element, element: &'static str) -> Result<String, Fault> {
    let mut out = String::new();
    for spec in call.all("specSet") {
        let mut collector = Collector {
            tree,
            wanted: spec.all("propSet").map(wanted).collect::<Result<_, _>>()?,
            ways: Vec::new(),
            told: HashSet::new(),
            gone: HashSet::new(),
            element,
            out: std::mem::take(&mut out),
        };
        for set in spec.all("objectSet") {
            // Ways are known by their names within the set that they stand in.
            collector.ways.clear();
            collector.gone.clear();
            set.all("selectSet").try_for_each(|way| collector.learn(way))?;
            let id = set.object("obj")?;
            let is_view = ContainerView::from_id(&id.id).is_some() && id.resource_type.as_str() == "ContainerView";
            // The session manager is asked for a session that may be there; the answer is that it has none to tell.
            if !is_view && !tree.exists(&id) && id.resource_type.as_str() != "SessionManager" {
                return Err(Fault::NoObject(id));
            }
            collector.visit(id, set.flag("skip"), &set.all("selectSet").collect::<Vec<_>>())?;
        }
        out = collector.out;
    }
    Ok(out)
}

fn wanted(set: &Element) -> Result<(&str, Option<Vec<&str>>), Fault> {
    let paths = set.all("pathSet").map(|path| path.text.trim()).collect();
    Ok((set.text_of("type")?.trim(), (!set.flag("all")).then_some(paths)))
}

impl<'e> Collector<'_, 'e> {
    /// Takes up a way and those that it goes on by. One that is only a name stands for one that is told elsewhere.
    fn learn(&mut self, select: &'e Element) -> Result<(), Fault> {
        let Some(path) = select.first("path") else { return Ok(()) };
        self.ways.push(Way {
            name: select.first("name").map_or("", |name| name.text.trim()),
            type_name: select.text_of("type")?.trim(),
            path: path.text.trim(),
            skip: select.flag("skip"),
            on: select.all("selectSet").collect(),
        });
        select.all("selectSet").try_for_each(|way| self.learn(way))
    }

    /// The number of the way that a selection means.
    fn way(&self, select: &Element) -> Option<usize> {
        let name = select.first("name").map_or("", |name| name.text.trim());
        let Some(path) = select.first("path") else { return self.ways.iter().position(|way| way.name == name) };
        let type_name = select.first("type").map_or("", |name| name.text.trim());
        self.ways.iter().position(|way| way.name == name && way.type_name == type_name && way.path == path.text.trim())
    }

    /// Tells of an object, and of what is reached from it.
    fn visit(&mut self, id: ResourceId, skip: bool, on: &[&'e Element]) -> Result<(), Fault> {
        // A stack of its own: a tree may be deep.
        let mut open = vec![(id, skip, on.to_vec())];
        while let Some((id, skip, on)) = open.pop() {
            if !skip {
                self.tell(&id)?;
            }
            for select in on {
                let Some(at) = self.way(select) else { continue };
                let way = &self.ways[at];
                if !is_a(id.resource_type.as_str(), way.type_name) || self.gone.contains(&(id.clone(), at)) {
                    continue;
                }
                let (skip, on) = (way.skip, way.on.clone());
                let reached = self.reached(&id, way.path)?;
                self.gone.insert((id.clone(), at));
                if self.gone.len() + open.len() + reached.len() > STEPS_MAX {
                    return Err(too_much());
                }
                open.extend(reached.into_iter().rev().map(|next| (next, skip, on.clone())));
            }
        }
        Ok(())
    }

    fn reached(&self, id: &ResourceId, path: &str) -> Result<Vec<ResourceId>, Fault> {
        if id.resource_type.as_str() == "ContainerView" {
            let view = ContainerView::from_id(&id.id).ok_or_else(|| Fault::NoObject(id.clone()))?;
            return if path == "view" { view.objects(self.tree.view) } else { Ok(Vec::new()) };
        }
        Ok(self.value(id, path).map(|value| value.objects().to_vec()).unwrap_or_default())
    }

    fn value(&self, id: &ResourceId, path: &str) -> Option<Value> {
        match path.split_once('.') {
            None => property(self.tree, id, path),
            Some((name, rest)) => property(self.tree, id, name)?.at(rest).cloned(),
        }
    }

    fn tell(&mut self, id: &ResourceId) -> Result<(), Fault> {
        let type_name = id.resource_type.as_str();
        let sets: Vec<_> = self.wanted.iter().filter(|(wanted, _)| is_a(type_name, wanted)).collect();
        if sets.is_empty() || !self.told.insert(id.clone()) {
            return Ok(());
        }
        let mut paths: Vec<&str> = Vec::new();
        for (_, wanted) in sets {
            match wanted {
                Some(some) => paths.extend(some),
                None => paths.extend(names(type_name)),
            }
        }
        paths.sort_unstable();
        paths.dedup();
        let mut told = String::new();
        for path in paths {
            if let Some(value) = self.value(id, path) {
                _ = write!(told, "<propSet><name>{}</name>", escaped(path));
                value.write_any(&mut told, "val");
                told.push_str("</propSet>");
            }
        }
        _ = write!(self.out, "<{}>", self.element);
        write_object(&mut self.out, "obj", id, false);
        _ = write!(self.out, "{told}</{}>", self.element);
        if self.out.len() > ANSWER_BYTES_MAX { Err(too_much()) } else { Ok(()) }
    }
}

fn too_much() -> Fault {
    let message = "the call asks for more than one answer holds: use the query service";
    Fault::Failed(Error::new(ErrorKind::UnableToAllocateResource, "lockstep.soap.collect", message, Vec::new()).into())
}
