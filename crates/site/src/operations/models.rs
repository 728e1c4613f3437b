//! Types and models.

use lockstep_contract::services::models::{Delete, Get, List, ListTypes, ModelInfo, PropertyInfo, Register, TypeInfo};
use lockstep_contract::{Error, ErrorKind, Opaque};
use lockstep_model::{Document, Kind, Property, Registry, RegistryError, ResourceId, ResourceModel, Value, builtin};

use crate::inventory::WriteError;
use crate::table::{Context, Table};

pub(super) fn register(table: &mut Table) {
    table.register(ListTypes, async |context, _| {
        let view = context.site.view();
        let one = |t: &std::sync::Arc<lockstep_model::TypeDef>| TypeInfo {
            name: t.name.to_string(),
            models: t.models.iter().map(|m| m.name.to_string()).collect(),
            count: i64::try_from(view.count(t.name.as_str())).unwrap_or(i64::MAX),
        };
        Ok(view.registry().types().filter(|t| t.name.as_str() != builtin::ACCOUNT).map(one).collect())
    });
    table.register(List, async |context, _| {
        let view = context.site.view();
        let visible = view.registry().models().filter(|m| m.resource_type.as_str() != builtin::ACCOUNT);
        Ok(visible.map(|m| info(m)).collect::<Vec<_>>())
    });
    table.register(Get, async |context, input| {
        let view = context.site.view();
        view.registry().model(&input.model).map(|m| info(m)).ok_or_else(|| unknown(&input.model))
    });
    table.register(Register, async |context, input| add(&context, &input.definition).await);
    table.register(Delete, async |context, input| remove(&context, &input.model).await);
}

fn unknown(model: &str) -> Error {
    Error::not_found("lockstep.models.not_found", format!("no resource model {model}"), vec![model.to_owned()])
}

fn info(model: &ResourceModel) -> ModelInfo {
    let mut properties = Vec::new();
    list_properties(&model.properties, "", &mut properties);
    ModelInfo {
        name: model.name.to_string(),
        resource_type: model.resource_type.to_string(),
        built_in: builtin::is_builtin(&model.name),
        properties,
    }
}

fn list_properties(properties: &[Property], at: &str, out: &mut Vec<PropertyInfo>) {
    for property in properties.iter().filter(|p| !p.secret) {
        let path = if at.is_empty() { property.name.to_string() } else { format!("{at}/{}", property.name) };
        let (targets, parent) = match &property.kind {
            Kind::Id { targets, parent } => (targets.iter().map(ToString::to_string).collect(), *parent),
            _ => (Vec::new(), false),
        };
        let kind = property.kind.name().to_owned();
        out.push(PropertyInfo { path: path.clone(), kind, list: property.list, targets, parent });
        if let Kind::Struct { fields } = &property.kind {
            list_properties(fields, &path, out);
        }
    }
}

fn invalid(place: &str, message: &str) -> Error {
    Error::invalid_argument("lockstep.models.invalid", place, message)
}

/// Whether a model can be registered beside what is there.
fn check(registry: &Registry, model: &ResourceModel) -> Result<(), Error> {
    registry.clone().register(model.clone()).map_err(|error| match &error {
        RegistryError::Unknown(name) => unknown(name),
        RegistryError::Model(_)
        | RegistryError::BuiltIn(_)
        | RegistryError::OtherType { .. }
        | RegistryError::Conflict { .. }
        | RegistryError::Reserved(_)
        | RegistryError::Incompatible(_) => invalid("definition", &error.to_string()),
    })
}

/// Whether a resource that holds a model, as an export wrote it, can be stored.
pub(crate) fn check_model_document(registry: &Registry, id: &ResourceId, document: &Document) -> Result<(), Error> {
    let text = document.get("definition").and_then(Value::as_str).unwrap_or_default();
    let model: ResourceModel =
        serde_json::from_str(text).map_err(|e| invalid("properties.definition", &e.to_string()))?;
    if *model.name != *id.id {
        return Err(invalid("id", "it is not the name of the model in the definition"));
    }
    // What is registered already in the same way need not be registered again.
    if registry.model(&model.name).is_some_and(|known| **known == model) { Ok(()) } else { check(registry, &model) }
}

async fn add(context: &Context, definition: &Opaque) -> Result<ModelInfo, Error> {
    let text = definition.0.to_json();
    let model: ResourceModel = serde_json::from_str(&text).map_err(|e| invalid("definition", &e.to_string()))?;
    check(context.site.view().registry(), &model)?;
    let mut document = Document::default();
    document.set("name", Some(Value::from(&*model.name)));
    document.set("resource_type", Some(Value::from(model.resource_type.as_str())));
    let canonical = serde_json::to_string(&model).map_err(|_| Error::internal())?;
    document.set("definition", Some(Value::from(&*canonical)));
    let id = ResourceId::new(builtin::RESOURCE_MODEL, &*model.name);
    context.site.write_document(context.caller.name(), id, document, None).await.map_err(WriteError::into_error)?;
    Ok(info(&model))
}

async fn remove(context: &Context, name: &str) -> Result<(), Error> {
    {
        let view = context.site.view();
        let model = view.registry().model(name).ok_or_else(|| unknown(name))?;
        if builtin::is_builtin(name) {
            return Err(invalid("model", &format!("{name} is built in")));
        }
        let count = view.count(model.resource_type.as_str());
        if count > 0 {
            let message = format!("{count} resources of type {} are left", model.resource_type);
            let args = vec![name.to_owned(), count.to_string()];
            return Err(Error::new(ErrorKind::ResourceInUse, "lockstep.models.in_use", message, args));
        }
    }
    let id = ResourceId::new(builtin::RESOURCE_MODEL, name);
    context.site.delete_resource(context.caller.name(), id, None, false).await.map_err(WriteError::into_error)?;
    Ok(())
}
