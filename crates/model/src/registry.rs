//! The registry: every model there is, and what paths mean under them.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::{
    Document, Kind, LeafPath, Misfit, MisfitReason, ModelError, Name, Property, PropertyPath, RelationPath,
    ResourceModel, ResourceType, Value, builtin, parse,
};

/// The property that every type has without declaring it: the link that a resource came by, unset on a site's own. Only the link's
/// provider sets it.
pub const LINKED_FROM: &str = "linked_from";

/// The property that every type has without declaring it: the collector that keeps a resource as its source has it, unset on what people
/// keep. Only the collector sets it.
pub const COLLECTED_BY: &str = "collected_by";

/// The properties that every type has without declaring them, in the order in which they stand behind those that are declared.
fn implicit() -> &'static [Property; 2] {
    static DECLARED: LazyLock<[Property; 2]> = LazyLock::new(|| {
        [(COLLECTED_BY, builtin::COLLECTOR), (LINKED_FROM, builtin::LINK)]
            .map(|(name, target)| Property::new(name, Kind::Id { targets: vec![target.into()], parent: false }))
    });
    &DECLARED
}

/// Why a model cannot be registered or removed beside those that are.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The model by itself makes no sense.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A built-in model cannot be changed or removed, nor can another be added to its type.
    #[error("{0} is built in")]
    BuiltIn(String),
    /// The model is registered for another type.
    #[error("model {model} is registered for type {resource_type}")]
    OtherType {
        /// The model.
        model: String,
        /// The type it is registered for.
        resource_type: String,
    },
    /// Another model of the type declares the property in another way.
    #[error("property {property} is declared differently by model {model}")]
    Conflict {
        /// The property.
        property: String,
        /// The other model.
        model: String,
    },
    /// A registered property would vanish or change its kind.
    #[error("property {0} cannot be removed or changed once it is registered: stored resources may have it")]
    Incompatible(String),
    /// The model declares what every type has anyway.
    #[error("property {0} cannot be declared: every type has it, and links and collectors alone set it")]
    Reserved(&'static str),
    /// No such model.
    #[error("no model {0}")]
    Unknown(String),
}

/// A resource type with all its models.
#[derive(Debug, Clone)]
pub struct TypeDef {
    /// The type's name.
    pub name: ResourceType,
    /// Its models, at least one, in the order of their names.
    pub models: Vec<Arc<ResourceModel>>,
    /// What the documents may hold: the union of what the models declare, then [`COLLECTED_BY`] and [`LINKED_FROM`].
    pub properties: Vec<Property>,
}

impl TypeDef {
    /// The property at these names from the top down, looking into structures and into lists of structures.
    pub fn property<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Option<&Property> {
        let mut names = names.into_iter();
        let first = names.next()?;
        let top = self.properties.iter().find(|p| &*p.name == first)?;
        names.try_fold(top, |property, name| match &property.kind {
            Kind::Struct { fields } => fields.iter().find(|p| &*p.name == name),
            _ => None,
        })
    }

    /// Reads a document of this type from plain JSON.
    ///
    /// # Errors
    /// [`Misfit`], naming the property that does not fit.
    pub fn read_document(&self, json: &str) -> Result<Document, Misfit> {
        parse::document(&self.properties, json)
    }

    /// Reads a document of this type where it stands in a longer text, in one pass with that.
    ///
    /// # Errors
    /// The reader's own. When what is wrong is a property that does not fit, `misfit` says which, as from
    /// [`TypeDef::read_document`].
    pub fn read_document_within<'de, D: serde::Deserializer<'de>>(
        &self,
        reader: D,
        misfit: &mut Option<Misfit>,
    ) -> Result<Document, D::Error> {
        parse::document_within(&self.properties, reader, misfit)
    }

    /// Reads the value that a patch gives for `path`; `None` unsets it.
    ///
    /// # Errors
    /// [`Misfit`] when the type has no such property, when the path leads into a list, or when the value does not fit.
    pub fn read_value(&self, path: &LeafPath, json: &str) -> Result<Option<Value>, Misfit> {
        let misfit = |reason| Misfit { path: path.to_string(), reason };
        let property = self.property(path.names()).ok_or_else(|| misfit(MisfitReason::Unknown))?;
        let names: Vec<&str> = path.names().collect();
        let into_list = (1..names.len()).any(|n| self.property(names[..n].iter().copied()).is_some_and(|p| p.list));
        if into_list {
            let expected = "a path that ends at the list: a list changes as a whole".to_owned();
            return Err(misfit(MisfitReason::WrongKind { expected, found: "a path into it".to_owned() }));
        }
        parse::value(property, json).map_err(|inner| {
            let path = match &*inner.path {
                "" => path.to_string(),
                below if below.starts_with('[') => format!("{path}{below}"),
                below => format!("{path}/{below}"),
            };
            Misfit { path, reason: inner.reason }
        })
    }

    /// The properties that can point to a resource's parent, first wins.
    pub fn parent_properties(&self) -> impl Iterator<Item = &Property> {
        self.properties.iter().filter(|p| matches!(p.kind, Kind::Id { parent: true, .. }))
    }
}

/// One hop of a path, under the registry.
#[derive(Debug, Clone)]
pub struct ResolvedHop {
    /// The type that the property belongs to.
    pub resource_type: ResourceType,
    /// The names from the top of the document down.
    pub names: Vec<Name>,
    /// The declaration of the last name.
    pub property: Property,
    /// Whether the property or a structure around it is a list, so that a resource can have several values.
    pub is_many: bool,
}

/// A relation path, under the registry.
#[derive(Debug, Clone)]
pub struct ResolvedPath {
    /// At least one; all but the last are identifiers.
    pub hops: Vec<ResolvedHop>,
}

impl ResolvedPath {
    /// The last hop: whose value is compared, shown or sorted by.
    pub fn last(&self) -> &ResolvedHop {
        // Never empty: made only by `Registry::resolve` from a path of at least one hop.
        &self.hops[self.hops.len() - 1]
    }

    /// Whether a resource can have several values at this path.
    pub fn is_many(&self) -> bool {
        self.hops.iter().any(|hop| hop.is_many)
    }
}

/// Why a path means nothing under the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No model of that name.
    #[error("no resource model {model}{}", hint(.similar))]
    UnknownModel {
        /// The name.
        model: String,
        /// A model of a similar name.
        similar: Option<String>,
    },
    /// The model declares no such property.
    #[error("model {model} declares no property {property}{}", hint(.similar))]
    UnknownProperty {
        /// The model.
        model: String,
        /// The property, with the structures around it.
        property: String,
        /// A property of a similar name.
        similar: Option<String>,
    },
    /// An arrow behind something that is no identifier.
    #[error("{0} is not an identifier, so nothing can follow it behind ->")]
    NotAnId(String),
    /// The next hop is a property of a type that the identifier cannot point to.
    #[error("{path} points to {targets}, not to {found}")]
    WrongTarget {
        /// The identifier's path.
        path: String,
        /// What it points to.
        targets: String,
        /// The type of the next hop's model.
        found: String,
    },
    /// The property is never shown.
    #[error("property {0} is secret")]
    Secret(String),
}

fn hint(similar: &Option<String>) -> String {
    similar.as_ref().map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// All types and models. Cloned when a model is registered, shared otherwise.
#[derive(Debug, Clone)]
pub struct Registry {
    types: BTreeMap<ResourceType, Arc<TypeDef>>,
    models: BTreeMap<Name, Arc<ResourceModel>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// The built-in models alone.
    pub fn new() -> Self {
        let mut registry = Self { types: BTreeMap::new(), models: BTreeMap::new() };
        for model in builtin::models() {
            registry.insert(Arc::new(model));
        }
        registry
    }

    /// All types, in the order of their names.
    pub fn types(&self) -> impl Iterator<Item = &Arc<TypeDef>> {
        self.types.values()
    }

    /// The type of that name.
    pub fn type_def(&self, name: &str) -> Option<&Arc<TypeDef>> {
        self.types.get(name)
    }

    /// All models, in the order of their names.
    pub fn models(&self) -> impl Iterator<Item = &Arc<ResourceModel>> {
        self.models.values()
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<&Arc<ResourceModel>> {
        self.models.get(name)
    }

    /// Registers a model, or adds properties to one that was registered at run time.
    ///
    /// # Errors
    /// [`RegistryError`]; the registry is unchanged then.
    pub fn register(&mut self, model: ResourceModel) -> Result<(), RegistryError> {
        model.check()?;
        if builtin::is_builtin(&model.name) || builtin::is_builtin_type(model.resource_type.as_str()) {
            return Err(RegistryError::BuiltIn(model.name.to_string()));
        }
        for reserved in [COLLECTED_BY, LINKED_FROM] {
            if model.properties.iter().any(|p| &*p.name == reserved) {
                return Err(RegistryError::Reserved(reserved));
            }
        }
        if let Some(old) = self.models.get(&model.name) {
            if old.resource_type != model.resource_type {
                let resource_type = old.resource_type.to_string();
                return Err(RegistryError::OtherType { model: model.name.to_string(), resource_type });
            }
            extends(&model.properties, &old.properties, "")?;
        }
        let others = self.models.values().filter(|m| m.resource_type == model.resource_type && m.name != model.name);
        for other in others {
            for property in &model.properties {
                if other.properties.iter().any(|p| p.name == property.name && p != property) {
                    return Err(RegistryError::Conflict {
                        property: property.name.to_string(),
                        model: other.name.to_string(),
                    });
                }
            }
        }
        self.insert(Arc::new(model));
        Ok(())
    }

    /// Removes a model that was registered at run time; whether resources still need it is the caller's to check.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`] or [`RegistryError::BuiltIn`].
    pub fn remove(&mut self, name: &str) -> Result<(), RegistryError> {
        if builtin::is_builtin(name) {
            return Err(RegistryError::BuiltIn(name.to_owned()));
        }
        let model = self.models.remove(name).ok_or_else(|| RegistryError::Unknown(name.to_owned()))?;
        self.rebuild(&model.resource_type);
        Ok(())
    }

    fn insert(&mut self, model: Arc<ResourceModel>) {
        let resource_type = model.resource_type.clone();
        self.models.insert(model.name.clone(), model);
        self.rebuild(&resource_type);
    }

    /// Makes the type anew from its models: one path for every change of the registry.
    fn rebuild(&mut self, name: &ResourceType) {
        let models: Vec<_> = self.models.values().filter(|m| m.resource_type == *name).cloned().collect();
        if models.is_empty() {
            self.types.remove(name);
            return;
        }
        // What was there keeps its place, so that a further model does not reorder stored documents.
        let mut properties: Vec<Property> = Vec::new();
        let before = self.types.get(name).map(|t| t.properties.clone()).unwrap_or_default();
        for property in before.iter().chain(models.iter().flat_map(|m| &m.properties)) {
            let declared = models.iter().flat_map(|m| &m.properties).find(|p| p.name == property.name);
            if let Some(declared) = declared.filter(|d| !properties.iter().any(|p| p.name == d.name)) {
                properties.push(declared.clone());
            }
        }
        properties.extend(implicit().iter().cloned());
        self.types.insert(name.clone(), Arc::new(TypeDef { name: name.clone(), models, properties }));
    }

    /// What a path means.
    ///
    /// # Errors
    /// [`ResolveError`], naming the part that means nothing.
    pub fn resolve(&self, path: &RelationPath) -> Result<ResolvedPath, ResolveError> {
        let mut hops: Vec<ResolvedHop> = Vec::with_capacity(path.hops.len());
        for (i, hop) in path.hops.iter().enumerate() {
            let resolved = self.resolve_hop(hop)?;
            if let Some(previous) = hops.last() {
                let at = &path.hops[i - 1];
                let Kind::Id { targets, .. } = &previous.property.kind else {
                    return Err(ResolveError::NotAnId(at.to_string()));
                };
                if !targets.is_empty() && !targets.contains(&resolved.resource_type) {
                    return Err(ResolveError::WrongTarget {
                        path: at.to_string(),
                        targets: targets.iter().map(ResourceType::as_str).collect::<Vec<_>>().join(" or "),
                        found: resolved.resource_type.to_string(),
                    });
                }
            }
            hops.push(resolved);
        }
        Ok(ResolvedPath { hops })
    }

    fn resolve_hop(&self, hop: &PropertyPath) -> Result<ResolvedHop, ResolveError> {
        let model = self.models.get(&hop.model).ok_or_else(|| ResolveError::UnknownModel {
            model: hop.model.to_string(),
            similar: similar(&hop.model, self.models.keys().map(|n| &**n)),
        })?;
        let mut fields = &model.properties[..];
        let mut found: Option<&Property> = None;
        let mut is_many = false;
        for (depth, name) in hop.names.iter().enumerate() {
            let shown = || hop.names[..=depth].join("/");
            let implicit = implicit().iter().find(|p| depth == 0 && p.name == *name);
            let property = fields.iter().find(|p| p.name == *name).or(implicit).ok_or_else(|| {
                let above = &hop.names[..depth];
                let beside = similar(name, fields.iter().filter(|p| !p.secret).map(|p| &*p.name));
                let similar = beside.map(|n| above.iter().map(|a| &**a).chain([&*n]).collect::<Vec<_>>().join("/"));
                ResolveError::UnknownProperty { model: hop.model.to_string(), property: shown(), similar }
            })?;
            if property.secret {
                return Err(ResolveError::Secret(hop.to_string()));
            }
            is_many |= property.list;
            fields = match &property.kind {
                Kind::Struct { fields } => fields,
                _ => &[],
            };
            found = Some(property);
        }
        let property = found.cloned().ok_or_else(|| ResolveError::UnknownProperty {
            model: hop.model.to_string(),
            property: String::new(),
            similar: None,
        })?;
        Ok(ResolvedHop { resource_type: model.resource_type.clone(), names: hop.names.clone(), property, is_many })
    }
}

/// The candidate that a misspelt name probably meant: equal but for case, dashes and underscores, or one that begins alike.
fn similar<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let fold = |s: &str| s.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let wanted = fold(name);
    let candidates: Vec<&str> = candidates.collect();
    let same = candidates.iter().find(|c| fold(c) == wanted);
    let prefix = || {
        let alike = |c: &&&str| wanted.len() >= 3 && (fold(c).starts_with(&wanted) || wanted.starts_with(&fold(c)));
        candidates.iter().find(alike)
    };
    same.or_else(prefix).map(|c| (*c).to_owned())
}

/// Whether `new` has everything that `old` has, in the same way.
fn extends(new: &[Property], old: &[Property], at: &str) -> Result<(), RegistryError> {
    for before in old {
        let path = if at.is_empty() { before.name.to_string() } else { format!("{at}/{}", before.name) };
        let after =
            new.iter().find(|p| p.name == before.name).ok_or_else(|| RegistryError::Incompatible(path.clone()))?;
        match (&before.kind, &after.kind) {
            (Kind::Struct { fields: old }, Kind::Struct { fields: new })
                if before.list == after.list && before.secret == after.secret =>
            {
                extends(new, old, &path)?;
            }
            _ if before == after => {}
            _ => return Err(RegistryError::Incompatible(path)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(path: &str) -> Result<ResolvedPath, String> {
        Registry::new().resolve(&path.parse().unwrap()).map_err(|e| e.to_string())
    }

    #[test]
    fn paths_resolve_over_any_number_of_hops() {
        let one = resolve("VirtualMachine/guest/tools/version").unwrap();
        assert_eq!((one.hops.len(), one.is_many(), &one.last().property.kind), (1, false, &Kind::Long));
        assert!(resolve("VirtualMachine/nics/label").unwrap().is_many());
        assert!(resolve("VirtualMachine/datastores->Datastore/name").unwrap().is_many());
        let far =
            resolve("VirtualMachine/host->HostSystem/cluster->ClusterComputeResource/datacenter->Datacenter/name")
                .unwrap();
        assert_eq!((far.hops.len(), far.is_many(), far.last().resource_type.as_str()), (4, false, "Datacenter"));
    }

    #[test]
    fn what_means_nothing_is_named_and_a_likely_name_is_offered() {
        let check = |path: &str, expected: &str| assert_eq!(resolve(path).unwrap_err(), expected, "{path}");
        check("Virtualmachine/name", "no resource model Virtualmachine; did you mean VirtualMachine?");
        check(
            "VirtualMachine/powerState",
            "model VirtualMachine declares no property powerState; did you mean power_state?",
        );
        check("VirtualMachine/guest/tools/x", "model VirtualMachine declares no property guest/tools/x");
        check("VirtualMachine/name/x", "model VirtualMachine declares no property name/x");
        check(
            "VirtualMachine/name->HostSystem/name",
            "VirtualMachine/name is not an identifier, so nothing can follow it behind ->",
        );
        check("VirtualMachine/host->Folder/name", "VirtualMachine/host points to HostSystem, not to Folder");
        check("Account/password_hash", "property Account/password_hash is secret");
    }

    fn model(name: &str, properties: Vec<Property>) -> ResourceModel {
        ResourceModel { name: name.into(), resource_type: "t.T".into(), properties }
    }

    #[test]
    fn every_type_tells_the_link_and_the_collector_that_a_resource_came_by() {
        assert!(resolve("VirtualMachine/collected_by->Collector/address").is_ok());
        let path = resolve("VirtualMachine/linked_from->Link/domain_name").unwrap();
        assert_eq!(
            (path.hops.len(), path.is_many(), path.hops[0].resource_type.as_str()),
            (2, false, "VirtualMachine")
        );
        let mut registry = Registry::new();
        assert!(registry.types().all(|def| def.property([LINKED_FROM]).is_some()));
        for reserved in [COLLECTED_BY, LINKED_FROM] {
            let declares = model("t.A", vec![Property::new(reserved, Kind::String)]);
            assert_eq!(registry.register(declares), Err(RegistryError::Reserved(reserved)));
        }
        let inside = Kind::Struct { fields: vec![Property::new(LINKED_FROM, Kind::String)] };
        registry.register(model("t.A", vec![Property::new("inner", inside)])).unwrap();
        let resolved = registry.resolve(&"t.A/inner/linked_from".parse().unwrap()).unwrap();
        assert_eq!(resolved.last().property.kind, Kind::String);
        assert!(registry.resolve(&"t.A/linked_from".parse().unwrap()).is_ok());
    }

    #[test]
    fn models_of_one_type_add_up_and_never_contradict() {
        let mut registry = Registry::new();
        registry
            .register(model("t.A", vec![Property::new("x", Kind::Long), Property::new("y", Kind::String)]))
            .unwrap();
        registry
            .register(model("t.B", vec![Property::new("y", Kind::String), Property::new("z", Kind::Boolean)]))
            .unwrap();
        let names = |r: &Registry| {
            r.type_def("t.T").map(|t| t.properties.iter().map(|p| p.name.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(names(&registry).unwrap(), ["x", "y", "z", COLLECTED_BY, LINKED_FROM]);
        let refused = |m| registry.clone().register(m).unwrap_err();
        assert!(matches!(
            refused(model("t.C", vec![Property::new("x", Kind::String)])),
            RegistryError::Conflict { .. }
        ));
        assert!(
            matches!(refused(model("t.A", vec![Property::new("x", Kind::Long)])), RegistryError::Incompatible(p) if p == "y")
        );
        assert!(matches!(refused(model("Tag", vec![Property::new("x", Kind::Long)])), RegistryError::BuiltIn(_)));
        assert!(matches!(refused(model("t.D", vec![])), RegistryError::Model(ModelError::Empty(_))));
        assert!(matches!(
            refused(model("t.D", vec![Property::new("a/b", Kind::Long)])),
            RegistryError::Model(ModelError::Name { .. })
        ));
        registry.remove("t.A").unwrap();
        assert_eq!(names(&registry).unwrap(), ["y", "z", COLLECTED_BY, LINKED_FROM]);
        registry.remove("t.B").unwrap();
        assert_eq!(names(&registry), None);
    }

    #[test]
    fn documents_are_read_into_the_models_order_without_what_is_unset() {
        let registry = Registry::new();
        let vm = registry.type_def("VirtualMachine").unwrap();
        let read = |json: &str| vm.read_document(json);
        let json = r#"{"cpu_count":2,"name":"v","ip_address":null,"guest":{"tools":{"version":null}},"tags":[],"host":{"id":"h","type":"HostSystem"},"stats":{"cpu_ready_percent":1}}"#;
        let document = read(json).unwrap();
        assert_eq!(
            serde_json::to_string(&document).unwrap(),
            r#"{"name":"v","cpu_count":2,"host":{"type":"HostSystem","id":"h"},"tags":[],"stats":{"cpu_ready_percent":1.0}}"#
        );
        let misfit = |json: &str, expected: &str| assert_eq!(read(json).unwrap_err().to_string(), expected, "{json}");
        misfit(r#"{"name":"a","name":"b"}"#, "property name: it stands there twice");
        misfit(r#"{"nics":[{"label":"a"},{"label":7}]}"#, "property nics[1]/label: expected a string, found a number");
        misfit(r#"{"nics":[null]}"#, "property nics[0]: null in a list");
        misfit(r#"{"cpu_count":9223372036854775808}"#, "property cpu_count: the number is outside the range of a long");
        misfit(
            r#"{"stats":{"cpu_ready_percent":1e999}}"#,
            "property stats/cpu_ready_percent: the number is outside the range of a double",
        );
        misfit(r#"{"tags":{"type":"Tag","id":"1"}}"#, "property tags: expected a list, found an object");
        misfit(r#"{"guest":[]}"#, "property guest: expected a structure, found a list");
        misfit(r#"[]"#, "expected a structure, found a list");
        misfit(
            r#"{"host":{"type":"HostSystem"}}"#,
            "property host: expected a resource id {\"type\": …, \"id\": …}, found an object without type or id",
        );
        assert!(matches!(read("{").unwrap_err().reason, MisfitReason::Syntax(_)));
        let path = LeafPath::new("guest/tools");
        let set = vm.read_value(&path, r#"{"running":true}"#).unwrap();
        assert_eq!(set.map(|v| format!("{v:?}")).as_deref(), Some(r#"{"running":true}"#));
        let into_a_list = vm.read_value(&LeafPath::new("nics/label"), r#""x""#).unwrap_err();
        assert_eq!(into_a_list.path, "nics/label");
    }
}
