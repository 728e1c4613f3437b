//! Models of the other site: what its resources are read by.

use lockstep_contract::services::NoInput;
use lockstep_contract::services::link_pull::Models;
use lockstep_model::{Document, Registry, RegistryError, ResourceId, ResourceModel, Value, builtin};
use lockstep_site::WriteError;
use std::time::Duration;

use super::peer::{call, malformed};
use crate::provider::AUTHOR;
use crate::{Run, SyncError};

/// Most models that a site may have.
const MODELS_MAX: usize = 10_000;

/// Registers what the other site has and this one has not; the version that was taken up.
///
/// A model that is here with less is extended, one that is here with more is left: documents of either fit then. One that
/// contradicts ends the sync.
pub(crate) async fn take_up(run: &Run) -> Result<String, SyncError> {
    let answer = call(&run.client, Models, NoInput {}, Duration::ZERO).await?;
    if answer.definitions.len() > MODELS_MAX {
        return Err(malformed(format!("{} models; {MODELS_MAX} are the most", answer.definitions.len())));
    }
    for definition in &answer.definitions {
        let model: ResourceModel =
            serde_json::from_str(definition).map_err(|e| malformed(format!("a model that is none: {e}")))?;
        let registry = run.site.view().registry().clone();
        if !is_new(&registry, &model)? {
            continue;
        }
        let canonical = serde_json::to_string(&model).map_err(|e| malformed(e.to_string()))?;
        let mut document = Document::default();
        document.set("name", Some(Value::from(&*model.name)));
        document.set("resource_type", Some(Value::from(model.resource_type.as_str())));
        document.set("definition", Some(Value::from(&*canonical)));
        let id = ResourceId::new(builtin::RESOURCE_MODEL, &*model.name);
        run.site.write_document(AUTHOR.into(), id, document, None).await.map_err(|error| match error {
            WriteError::Commit(error) => SyncError::Commit(error),
            other => malformed(format!("the model {}: {other}", model.name)),
        })?;
    }
    Ok(answer.models)
}

/// Whether the model says something that is not known here.
fn is_new(registry: &Registry, model: &ResourceModel) -> Result<bool, SyncError> {
    let differs = || SyncError::Model { name: model.name.to_string() };
    if let Some(known) = registry.model(&model.name) {
        if **known == *model {
            return Ok(false);
        }
        if builtin::is_builtin(&model.name) {
            return Err(differs());
        }
        let mut alone = Registry::new();
        if alone.register(model.clone()).is_ok() && alone.register((**known).clone()).is_ok() {
            return Ok(false);
        }
    }
    match registry.clone().register(model.clone()) {
        Ok(()) => Ok(true),
        Err(RegistryError::Model(error)) => Err(malformed(format!("the model {}: {error}", model.name))),
        Err(_) => Err(differs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::{Kind, Property};

    #[test]
    fn models_may_add_but_not_contradict() {
        let model = |name: &str, properties: &[(&str, Kind)]| ResourceModel {
            name: name.into(),
            resource_type: "t.T".into(),
            properties: properties.iter().map(|(name, kind)| Property::new(name, kind.clone())).collect(),
        };
        let mut here = Registry::new();
        here.register(model("t.A", &[("x", Kind::Long), ("y", Kind::String)])).unwrap();
        let check = |theirs: ResourceModel| is_new(&here, &theirs).map_err(|e| e.to_string());
        assert_eq!(check(model("t.A", &[("x", Kind::Long), ("y", Kind::String)])), Ok(false));
        assert_eq!(check(model("t.A", &[("y", Kind::String)])), Ok(false));
        assert_eq!(check(model("t.A", &[("x", Kind::Long), ("y", Kind::String), ("z", Kind::Boolean)])), Ok(true));
        assert_eq!(check(model("t.B", &[("x", Kind::Long)])), Ok(true));
        let differs = |name: &str| Err(format!("the model {name} is declared differently at the other site"));
        assert_eq!(check(model("t.A", &[("x", Kind::String)])), differs("t.A"));
        assert_eq!(check(model("t.A", &[("x", Kind::Long), ("z", Kind::Boolean)])), differs("t.A"));
        assert_eq!(check(model("t.B", &[("x", Kind::String)])), differs("t.B"));
        assert_eq!(check(model("Tag", &[("x", Kind::String)])), differs("Tag"));
        assert!(check(model("t.C", &[])).unwrap_err().contains("cannot be"));
    }
}
