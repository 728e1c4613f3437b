//! A task as it is stored, and as it is told.

use lockstep_contract::services::replication::codes;
use lockstep_contract::services::tasks::{ApiError, LogLine, State, Task, Workflow};
use lockstep_contract::{Data, Error, ErrorKind, Opaque};
use lockstep_model::{Document, Name, Value};

use super::{Done, RESULT_BYTES_MAX, TEXT_BYTES_MAX};
use crate::times;

/// What was asked for, by whom, of what.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Asked {
    /// What is done, e.g. `sync`.
    pub kind: String,
    /// Who asked.
    pub user: String,
    /// Where it runs.
    pub site: String,
    /// The id that ties log lines together.
    pub operation_id: Option<String>,
    /// What kind of thing it is about, e.g. `vmReplication`.
    pub resource_type: String,
    /// The id of that.
    pub resource_id: String,
    /// The name of that, for people.
    pub resource_name: String,
    /// From which organization, for those who look for it.
    pub source_org: Option<String>,
    /// To which organization, for those who look for it.
    pub destination_org: Option<String>,
    /// The parameters as JSON, for who takes it up after a restart.
    pub input: Option<String>,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    pub(super) time_ms: i64,
    pub(super) text: String,
}

/// A task as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// A UUID.
    pub id: String,
    /// What was asked for.
    pub asked: Asked,
    pub(super) state: State,
    pub(super) progress: i64,
    pub(super) start_ms: i64,
    pub(super) updated_ms: i64,
    pub(super) end_ms: Option<i64>,
    pub(super) result_type: Option<String>,
    pub(super) result: Option<String>,
    pub(super) error: Option<ApiError>,
    pub(super) warnings: Vec<String>,
    pub(super) log: Vec<Line>,
}

/// The text, cut where it is too long.
pub(super) fn clipped(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Record {
    pub(super) fn new(id: String, asked: Asked) -> Self {
        let now_ms = times::now_ms();
        Self {
            id,
            asked,
            state: State::Running,
            progress: 0,
            start_ms: now_ms,
            updated_ms: now_ms,
            end_ms: None,
            result_type: None,
            result: None,
            error: None,
            warnings: Vec::new(),
            log: Vec::new(),
        }
    }

    pub(super) fn end(&mut self, outcome: Result<Done, Error>) {
        let outcome = outcome.and_then(|done| {
            let json = done.result.map(|data| data.to_json());
            if json.as_ref().is_some_and(|json| json.len() > RESULT_BYTES_MAX) {
                let message = format!("the result is longer than {RESULT_BYTES_MAX} bytes");
                return Err(Error::new(ErrorKind::Error, "lockstep.tasks.result", message, Vec::new()));
            }
            Ok((done.result_type, json))
        });
        match outcome {
            Ok((result_type, json)) => {
                self.state = State::Succeeded;
                self.progress = 100;
                self.result_type = result_type;
                self.result = json;
            }
            Err(error) => {
                let mut error = codes::api_error(&error);
                error.msg = clipped(error.msg);
                self.state = State::Failed;
                self.error = Some(error);
            }
        }
        // A clock that was set back makes no task end before it began.
        self.end_ms = Some(times::now_ms().max(self.start_ms));
    }

    /// As it is told.
    pub fn to_task(&self) -> Task {
        let warning = |text: &String| ApiError {
            code: "Warning".to_owned(),
            msg: text.clone(),
            args: Vec::new(),
            stacktrace: String::new(),
        };
        let asked = &self.asked;
        Task {
            id: self.id.clone(),
            user: asked.user.clone(),
            site: asked.site.clone(),
            state: self.state,
            progress: self.progress,
            start_time: self.start_ms,
            last_updated: self.updated_ms,
            end_time: self.end_ms.unwrap_or(-1),
            result_type: self.result_type.clone(),
            result: self.result.as_ref().and_then(|json| Data::from_json(json.as_bytes()).ok()).map(Opaque),
            error: self.error.clone(),
            warnings: self.warnings.iter().map(warning).collect(),
            workflow_info: Workflow {
                kind: asked.kind.clone(),
                resource_type: asked.resource_type.clone(),
                resource_id: asked.resource_id.clone(),
                resource_name: asked.resource_name.clone(),
            },
            operation_id: asked.operation_id.clone(),
        }
    }

    pub(super) fn lines(&self) -> Vec<LogLine> {
        self.log.iter().map(|line| LogLine { time: line.time_ms, text: line.text.clone() }).collect()
    }

    /// As it is stored, with the present as the time at which it was.
    pub(super) fn to_document(&self) -> Document {
        let mut document = Document::default();
        let mut set = |path: &str, text: Option<&str>| document.set(path, text.map(Value::from));
        let asked = &self.asked;
        set("kind", Some(&asked.kind));
        set("user", Some(&asked.user));
        set("site", Some(&asked.site));
        set("state", Some(self.state.name()));
        set("start_time", Some(&times::text(self.start_ms)));
        set("last_updated", Some(&times::text(self.end_ms.unwrap_or_else(times::now_ms))));
        set("end_time", self.end_ms.map(times::text).as_deref());
        set("resource_type", Some(&asked.resource_type));
        set("resource_id", Some(&asked.resource_id));
        set("resource_name", Some(&asked.resource_name));
        set("source_org", asked.source_org.as_deref());
        set("destination_org", asked.destination_org.as_deref());
        set("operation_id", asked.operation_id.as_deref());
        set("input", asked.input.as_deref());
        set("result_type", self.result_type.as_deref());
        set("result", self.result.as_deref());
        document.set("progress", Some(Value::from(self.progress)));
        document.set("error", self.error.as_ref().map(error_value));
        let warning = |text: &String| {
            let fields: [(Name, Value); 2] =
                [("code".into(), Value::from("Warning")), ("msg".into(), Value::from(&**text))];
            Value::Struct(fields.into())
        };
        document.set("warnings", list(self.warnings.iter().map(warning)));
        let line = |line: &Line| {
            let fields: [(Name, Value); 2] =
                [("time".into(), Value::from(&*times::text(line.time_ms))), ("text".into(), Value::from(&*line.text))];
            Value::Struct(fields.into())
        };
        document.set("log", list(self.log.iter().map(line)));
        document
    }

    /// What a document says; what is not there is taken for empty.
    pub(super) fn from_document(id: &str, document: &Document) -> Self {
        let text = |path: &str| document.get(path).and_then(Value::as_str).map(str::to_owned);
        let owned = |path: &str| text(path).unwrap_or_default();
        let ms = |path: &str| text(path).as_deref().and_then(times::read_ms);
        let items = |path: &str| match document.get(path) {
            Some(Value::List(items)) => items.to_vec(),
            _ => Vec::new(),
        };
        let field = |item: &Value, name: &str| item.field(name).and_then(Value::as_str).map(str::to_owned);
        let line =
            |item: &Value| Some(Line { time_ms: times::read_ms(&field(item, "time")?)?, text: field(item, "text")? });
        Self {
            id: id.to_owned(),
            asked: Asked {
                kind: owned("kind"),
                user: owned("user"),
                site: owned("site"),
                operation_id: text("operation_id"),
                resource_type: owned("resource_type"),
                resource_id: owned("resource_id"),
                resource_name: owned("resource_name"),
                source_org: text("source_org"),
                destination_org: text("destination_org"),
                input: text("input"),
            },
            state: text("state").as_deref().and_then(State::from_name).unwrap_or(State::Failed),
            progress: match document.get("progress") {
                Some(Value::Long(progress)) => *progress,
                _ => 0,
            },
            start_ms: ms("start_time").unwrap_or_default(),
            updated_ms: ms("last_updated").unwrap_or_default(),
            end_ms: ms("end_time"),
            result_type: text("result_type"),
            result: text("result"),
            error: document.get("error").and_then(error_of),
            warnings: items("warnings").iter().filter_map(|item| field(item, "msg")).collect(),
            log: items("log").iter().filter_map(line).collect(),
        }
    }
}

fn list(items: impl Iterator<Item = Value>) -> Option<Value> {
    let items: Box<[Value]> = items.collect();
    (!items.is_empty()).then_some(Value::List(items))
}

/// An error as a structure of a document.
pub fn error_value(error: &ApiError) -> Value {
    let mut fields: Vec<(Name, Value)> =
        vec![("code".into(), Value::from(&*error.code)), ("msg".into(), Value::from(&*error.msg))];
    let args = list(error.args.iter().map(|arg| Value::from(&**arg)));
    fields.extend(args.map(|args| ("args".into(), args)));
    Value::Struct(fields.into())
}

/// The error in a structure of a document.
pub fn error_of(value: &Value) -> Option<ApiError> {
    let text = |name| value.field(name).and_then(Value::as_str).map(str::to_owned);
    let args = match value.field("args") {
        Some(Value::List(items)) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    Some(ApiError { code: text("code")?, msg: text("msg").unwrap_or_default(), args, stacktrace: String::new() })
}
