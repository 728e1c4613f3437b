//! OpenAPI 3.1, made from the declarations.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::{ErrorKind, FieldDef, Login, Operation, Privilege, StructDef, Type, UnionDef};

/// The document for these operations, as served under `/api`.
pub fn document<'a>(operations: impl IntoIterator<Item = &'a Operation>, version: &str) -> Value {
    let mut schemas = BTreeMap::new();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let Some(rest) = operation.rest else { continue };
        // Operations that share method and path differ by `action`, which OpenAPI has no word for: the key says it.
        let path = match rest.action {
            Some(action) => format!("/api{}?action={action}", rest.path),
            None => format!("/api{}", rest.path),
        };
        let item = paths.entry(path).or_default();
        item.insert(rest.method.name().to_lowercase(), describe(operation, &mut schemas));
    }
    schemas.insert("error".to_owned(), error_schema());
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Lockstep", "version": version, "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" } },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "session": { "type": "apiKey", "in": "header", "name": "vmware-api-session-id" },
                "basic": { "type": "http", "scheme": "basic" },
            },
        },
    })
}

fn describe(operation: &Operation, schemas: &mut BTreeMap<String, Value>) -> Value {
    // Called for operations that have one.
    let Some(rest) = operation.rest else { return Value::Null };
    let input = (operation.input)();
    let in_path: Vec<&str> =
        rest.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    let takes_body = rest.method.name() != "GET" && rest.method.name() != "DELETE";
    let bytes = operation.bytes_parameter();
    let mut parameters = Vec::new();
    let mut members = Map::new();
    let mut required = Vec::new();
    for (name, path) in rest.query {
        // A parameter that stands for a field further down: its holder is not a parameter then.
        if let Some(field) = field_at(input, path) {
            parameters.push(json!({
                "name": name, "in": "query", "required": false,
                "description": field.doc.trim(), "schema": schema((field.ty)(), schemas),
            }));
        }
    }
    for field in input.fields {
        if rest.query.iter().any(|(_, path)| path.split('.').next() == Some(field.name)) {
            continue;
        }
        let ty = (field.ty)();
        let place = if in_path.contains(&field.name) {
            "path"
        } else if takes_body && bytes.is_none_or(|bytes| bytes == field.name) {
            if !matches!(ty, Type::Optional(_)) {
                required.push(field.name);
            }
            let mut schema = schema(ty, schemas);
            add_doc(&mut schema, field.doc);
            members.insert(field.name.to_owned(), schema);
            continue;
        } else {
            "query"
        };
        parameters.push(json!({
            "name": field.name, "in": place, "required": !matches!(ty, Type::Optional(_)),
            "description": field.doc.trim(), "schema": schema(ty, schemas),
        }));
    }
    let mut responses = Map::new();
    let output = (operation.output)();
    responses.insert(rest.status.to_string(), match output {
        Type::Void => json!({ "description": "done" }),
        ty => json!({ "description": "the result", "content": { "application/json": { "schema": schema(ty, schemas) } } }),
    });
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for kind in operation.errors.iter().chain(&[ErrorKind::InternalServerError]) {
        by_status.entry(kind.status()).or_default().push(kind.name());
    }
    for (status, kinds) in by_status {
        responses.insert(
            status.to_string(),
            json!({
                "description": kinds.join(", "),
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/error" } } },
            }),
        );
    }
    let mut doc = json!({
        "operationId": operation.full_name(),
        "tags": [operation.service],
        "summary": operation.doc.trim().lines().next().unwrap_or_default().trim(),
        "description": tidy(operation.doc),
        "responses": responses,
        "x-lockstep-privilege": format!("{:?}", operation.privilege),
    });
    if !parameters.is_empty() {
        doc["parameters"] = Value::Array(parameters);
    }
    if bytes.is_some() {
        doc["requestBody"] = json!({ "required": true, "content": { "application/octet-stream": {} } });
    } else if let Some(body) = rest.body.and_then(|name| members.get(name)) {
        doc["requestBody"] = json!({ "required": true, "content": { "application/json": { "schema": body } } });
    } else if !members.is_empty() {
        let schema =
            json!({ "type": "object", "properties": members, "required": required, "additionalProperties": false });
        doc["requestBody"] =
            json!({ "required": !required.is_empty(), "content": { "application/json": { "schema": schema } } });
    }
    if let Some(second) = operation.availability {
        doc["x-lockstep-availability"] = format!("{} {}", second.method.name(), second.path).into();
    }
    doc["security"] = match (operation.privilege, operation.login) {
        (_, Some(Login::Begins)) => json!([{ "basic": [] }]),
        (Privilege::Anonymous, _) => json!([]),
        _ => json!([{ "session": [] }, { "basic": [] }]),
    };
    doc
}

/// The field that a dotted path names.
fn field_at(def: &StructDef, path: &str) -> Option<&'static FieldDef> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let field = def.fields.iter().find(|field| field.name == first)?;
    let mut ty = (field.ty)();
    if let Type::Optional(inner) = ty {
        ty = inner();
    }
    match (rest, ty) {
        (None, _) => Some(field),
        (Some(rest), Type::Struct(def)) => field_at(def, rest),
        (Some(_), _) => None,
    }
}

/// A doc comment as text: lines joined, the blank after `///` taken off.
fn tidy(doc: &str) -> String {
    doc.lines().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn add_doc(schema: &mut Value, doc: &str) {
    if let Value::Object(schema) = schema {
        schema.insert("description".to_owned(), tidy(doc).into());
    }
}

fn schema(ty: Type, schemas: &mut BTreeMap<String, Value>) -> Value {
    match ty {
        Type::Boolean => json!({ "type": "boolean" }),
        Type::Long => json!({ "type": "integer", "format": "int64" }),
        Type::Double => json!({ "type": "number", "format": "double" }),
        Type::String => json!({ "type": "string" }),
        Type::Secret => json!({ "type": "string", "format": "password" }),
        Type::DateTime => json!({ "type": "string", "format": "date-time" }),
        Type::Binary => json!({ "type": "string", "contentEncoding": "base64" }),
        Type::Opaque => json!({}),
        Type::Void => json!({ "type": "null" }),
        Type::Optional(inner) => schema(inner(), schemas),
        Type::List(inner) => json!({ "type": "array", "items": schema(inner(), schemas) }),
        Type::Map(inner) => json!({ "type": "object", "additionalProperties": schema(inner(), schemas) }),
        Type::Enum(def) => {
            let value = || json!({ "type": "string", "enum": def.constants, "description": tidy(def.doc) });
            schemas.entry(def.name.to_owned()).or_insert_with(value);
            reference(def.name)
        }
        Type::Struct(def) => {
            if !schemas.contains_key(def.name) {
                // Entered first: a structure may hold itself.
                schemas.insert(def.name.to_owned(), Value::Null);
                let value = structure(def, schemas);
                schemas.insert(def.name.to_owned(), value);
            }
            reference(def.name)
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn structure(def: &StructDef, schemas: &mut BTreeMap<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in def.fields {
        let ty = (field.ty)();
        if !matches!(ty, Type::Optional(_)) {
            required.push(field.name);
        }
        let mut value = schema(ty, schemas);
        add_doc(&mut value, field.doc);
        properties.insert(field.name.to_owned(), value);
    }
    let mut out =
        json!({ "type": "object", "description": tidy(def.doc), "properties": properties, "required": required });
    if let Some(UnionDef { tag, cases }) = def.union {
        let one = |(case, member): &(&str, &str)| {
            let others: Vec<_> =
                cases.iter().filter(|(_, m)| m != member).map(|(_, m)| json!({ "required": [m] })).collect();
            json!({ "properties": { tag: { "const": case } }, "required": [member], "not": { "anyOf": others } })
        };
        out["oneOf"] = cases.iter().map(one).collect();
    }
    out
}

fn error_schema() -> Value {
    let kinds: Vec<_> = ErrorKind::ALL.iter().map(|k| k.name()).collect();
    json!({
        "type": "object",
        "properties": {
            "messages": { "type": "array", "items": {
                "type": "object",
                "properties": {
                    "id": { "type": "string" }, "default_message": { "type": "string" },
                    "args": { "type": "array", "items": { "type": "string" } },
                },
                "required": ["id", "default_message", "args"],
            } },
            "data": { "type": "object" },
            "error_type": { "type": "string", "enum": kinds },
        },
        "required": ["messages", "error_type"],
    })
}
