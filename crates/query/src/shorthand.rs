//! Paths as people write them, completed with the models they leave out.

use lockstep_model::{Kind, Property, Registry, TypeDef};

/// Writes a path in full.
pub(crate) fn complete(word: &str, base: Option<&TypeDef>, registry: &Registry) -> Result<(String, Kind), String> {
    let mut hops: Vec<String> = Vec::new();
    let mut at = base;
    let mut kind = None;
    for part in word.split("->") {
        let model = part.split_once('/').and_then(|(model, names)| Some((registry.model(model)?, names)));
        if let Some((model, names)) = model {
            let def = registry
                .type_def(model.resource_type.as_str())
                .ok_or_else(|| format!("no resource type {}", model.resource_type))?;
            let property = def
                .property(names.split('/'))
                .ok_or_else(|| format!("model {} declares no property {names}", model.name))?;
            hops.push(part.to_owned());
            at = target(property, registry);
            kind = Some(property.kind.clone());
            continue;
        }
        let Some(def) = at else {
            return Err(format!("{word}: name the model behind ->, as in host->HostSystem/name"));
        };
        let (more, property) = walk(def, part, registry)?;
        hops.extend(more);
        at = target(property, registry);
        kind = Some(property.kind.clone());
    }
    let kind = kind.ok_or_else(|| format!("{word} is no property"))?;
    Ok((hops.join("->"), kind))
}

/// The only type that a property can point to.
fn target<'a>(property: &Property, registry: &'a Registry) -> Option<&'a TypeDef> {
    match &property.kind {
        Kind::Id { targets, .. } => match &targets[..] {
            [only] => registry.type_def(only.as_str()).map(|def| &**def),
            _ => None,
        },
        _ => None,
    }
}

/// Looks names up from a type on, through structures and relations; the hops in full and the last property.
fn walk<'a>(def: &'a TypeDef, names: &str, registry: &'a Registry) -> Result<(Vec<String>, &'a Property), String> {
    let (property, mut hop, rest) = property(&def.properties, names).ok_or_else(|| {
        let first = names.split(['.', '/']).next().unwrap_or_default();
        format!("{} has no property {first}", def.name)
    })?;
    let top = hop.split('/').next().unwrap_or_default().to_owned();
    let mut property = property;
    let mut rest = rest;
    while let Some(names) = rest {
        match &property.kind {
            Kind::Struct { fields } => {
                let (field, name, left) =
                    self::property(fields, names).ok_or_else(|| format!("{}/{hop} has no field {names}", def.name))?;
                hop = format!("{hop}/{name}");
                (property, rest) = (field, left);
            }
            Kind::Id { .. } => {
                let next = target(property, registry);
                let next = next.ok_or_else(|| {
                    format!("{}/{hop} can point to several types: write {hop}->Model/{names}", def.name)
                })?;
                let (mut hops, last) = walk(next, names, registry)?;
                hops.insert(0, format!("{}/{hop}", model_of(def, &top)));
                return Ok((hops, last));
            }
            _ => return Err(format!("{}/{hop} has no fields, so there is no {names} in it", def.name)),
        }
    }
    Ok((vec![format!("{}/{hop}", model_of(def, &top))], property))
}

/// The model that declares a property of a type.
fn model_of<'a>(def: &'a TypeDef, property: &str) -> &'a str {
    let declares = def.models.iter().find(|m| m.properties.iter().any(|p| &*p.name == property));
    declares.map_or(def.name.as_str(), |model| &model.name)
}

/// The property that the names begin with, its name, and the names behind it. A name may hold dots, so the longest wins.
fn property<'a, 'n>(properties: &'a [Property], names: &'n str) -> Option<(&'a Property, String, Option<&'n str>)> {
    let ends = names.match_indices(['.', '/']).map(|(at, _)| at).chain([names.len()]);
    ends.collect::<Vec<_>>().into_iter().rev().find_map(|end| {
        let found = properties.iter().find(|p| *p.name == names[..end])?;
        Some((found, found.name.to_string(), names.get(end + 1..).filter(|rest| !rest.is_empty())))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn registry() -> Registry {
        let mut registry = Registry::new();
        let model = r#"{"name":"com.acme.PersonModel","resource_type":"com.acme.Person","properties":[
            {"name":"name","kind":"STRING"},{"name":"full.name","kind":"STRING"},{"name":"age","kind":"DOUBLE"},
            {"name":"friend","kind":"ID"},{"name":"address","kind":"STRUCT","fields":[{"name":"city","kind":"STRING"}]}]}"#;
        registry.register(serde_json::from_str(model).unwrap()).unwrap();
        registry
    }

    #[test]
    fn paths_are_completed() {
        let registry = registry();
        let check = |base: &str, word: &str, expected: &str| {
            let base = registry.type_def(base).map(|def| &**def);
            assert_eq!(complete(word, base, &registry).map(|p| p.0).as_deref(), Ok(expected));
        };
        check("VirtualMachine", "guest.tools.version", "VirtualMachine/guest/tools/version");
        check("VirtualMachine", "VirtualMachine/guest/tools/version", "VirtualMachine/guest/tools/version");
        check("VirtualMachine", "nics.label", "VirtualMachine/nics/label");
        check(
            "VirtualMachine",
            "host->cluster->name",
            "VirtualMachine/host->HostSystem/cluster->ClusterComputeResource/name",
        );
        check("VirtualMachine", "datastores.name", "VirtualMachine/datastores->Datastore/name");
        check("com.acme.Person", "full.name", "com.acme.PersonModel/full.name");
        check("com.acme.Person", "address.city", "com.acme.PersonModel/address/city");
        check(
            "com.acme.Person",
            "friend->com.acme.PersonModel/age",
            "com.acme.PersonModel/friend->com.acme.PersonModel/age",
        );
    }
}
