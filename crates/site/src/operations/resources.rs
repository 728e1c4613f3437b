//! Resources, one at a time.

use lockstep_contract::services::TypedId;
use lockstep_contract::services::resources::{
    Create, Delete, Get, GetInput, IdPage, List, ListInput, Patch, PatchInput, Replace, Resource, Written as WrittenOut,
};
use lockstep_contract::{Data, Error, Opaque};
use lockstep_model::{Position, ResourceId, builtin};

use crate::export::secrets;
use crate::inventory::{WriteError, Written, type_def};
use crate::table::{Answer, Context, Table};
use crate::token;

/// Most ids of one page of a list.
const LIST_MAX: usize = 10_000;

pub(super) fn register(table: &mut Table) {
    table.register_answer(Create, async |context, input| {
        let id = writable(input.resource_type, input.id)?;
        let author = context.caller.name();
        written(&context, context.site.create_resource(author, id, &object(&input.properties)?).await)
    });
    table.register_answer(Replace, async |context, input| {
        let id = writable(input.resource_type, input.id)?;
        let expected = expected(input.expected_position)?;
        let author = context.caller.name();
        written(&context, context.site.replace_resource(author, id, &object(&input.properties)?, expected).await)
    });
    table.register_answer(Patch, async |context, input| patch(context, input).await);
    table.register_answer(Delete, async |context, input| {
        let id = writable(input.resource_type, input.id)?;
        let expected = expected(input.expected_position)?;
        let author = context.caller.name();
        written(&context, context.site.delete_resource(author, id, expected, input.cascade.unwrap_or(false)).await)
    });
    table.register(Get, async |context, input| get(&context, input));
    table.register(List, async |context, input| list(&context, input));
}

/// The id, unless its type is written by a service of its own that has rules and privileges of its own.
fn writable(resource_type: String, id: String) -> Result<ResourceId, Error> {
    match builtin::writing_service(&resource_type) {
        Some(service) => {
            let message = format!("resources of type {resource_type} are written by the service {service}");
            Err(Error::invalid_argument("lockstep.resources.service", "type", &message))
        }
        None => Ok(ResourceId::new(&*resource_type, id)),
    }
}

/// The properties as JSON text; they must be an object.
fn object(properties: &Opaque) -> Result<String, Error> {
    match &properties.0 {
        Data::Struct(..) => Ok(properties.0.to_json()),
        other => {
            let message = format!("expected an object, found {}", other.kind_name());
            Err(Error::invalid_argument("lockstep.input.type", "properties", &message))
        }
    }
}

fn expected(position: Option<i64>) -> Result<Option<Position>, Error> {
    let read = |p: i64| u64::try_from(p).map(Position);
    position.map(read).transpose().map_err(|_| {
        Error::invalid_argument("lockstep.resources.position", "expected_position", "a position is not negative")
    })
}

fn written(context: &Context, result: Result<Written, WriteError>) -> Result<Answer, Error> {
    let written = result.map_err(WriteError::into_error)?;
    let position = written.position;
    // When nothing changed, the feed goes on from the present.
    let from = if written.changed { position } else { context.site.position() };
    let sequence = token::write(context.site.origin(), from);
    let number = i64::try_from(position.0).unwrap_or(i64::MAX);
    let mut answer = Answer::new(WrittenOut { position: number, sequence: sequence.clone(), changed: written.changed });
    answer.headers = vec![("lockstep-position", position.to_string()), ("lockstep-sequence", sequence)];
    Ok(answer)
}

async fn patch(context: Context, input: PatchInput) -> Result<Answer, Error> {
    let id = writable(input.resource_type, input.id)?;
    let Data::Struct(_, fields) = input.properties.0 else {
        let message = format!("expected an object, found {}", input.properties.0.kind_name());
        return Err(Error::invalid_argument("lockstep.input.type", "properties", &message));
    };
    let values: Vec<(String, String)> = fields.into_iter().map(|(path, value)| (path, value.to_json())).collect();
    let expected = expected(input.expected_position)?;
    let author = context.caller.name();
    written(&context, context.site.patch_resource(author, id, &values, expected).await)
}

fn get(context: &Context, input: GetInput) -> Result<Resource, Error> {
    let id = ResourceId::new(&*input.resource_type, input.id);
    let view = context.site.view();
    let stored = view.get(&id).filter(|_| input.resource_type != builtin::ACCOUNT);
    let Some((mut stored, type_def)) = stored.zip(view.registry().type_def(&input.resource_type)) else {
        return Err(WriteError::NotFound(id).into_error());
    };
    secrets(type_def).iter().for_each(|path| stored.document.set(path, None));
    let json = serde_json::to_vec(&stored.document).map_err(|_| Error::internal())?;
    let properties = Data::from_json(&json).map_err(|_| Error::internal())?;
    let number = |p: Position| i64::try_from(p.0).unwrap_or(i64::MAX);
    Ok(Resource {
        resource_type: input.resource_type,
        id: id.id.into(),
        properties: Opaque(properties),
        created: number(stored.created),
        modified: number(stored.modified),
    })
}

fn list(context: &Context, input: ListInput) -> Result<IdPage, Error> {
    let view = context.site.view();
    type_def(&view, &input.resource_type).map_err(WriteError::into_error)?;
    if input.resource_type == builtin::ACCOUNT {
        return Err(WriteError::UnknownType(input.resource_type).into_error());
    }
    let wanted = match input.limit {
        None => LIST_MAX,
        Some(limit) => usize::try_from(limit)
            .ok()
            .filter(|limit| *limit <= LIST_MAX)
            .ok_or_else(|| Error::invalid_argument("lockstep.resources.limit", "limit", &format!("0 to {LIST_MAX}")))?,
    };
    let typed = |id: ResourceId| TypedId { resource_type: input.resource_type.clone(), id: id.id.into() };
    let mut ids = view.ids(&input.resource_type, input.after.as_deref());
    let resources = ids.by_ref().take(wanted).map(typed).collect();
    Ok(IdPage { resources, more: ids.next().is_some() })
}
