//! Operations, declared once.

use crate::{ErrorKind, StructDef, Type, Wire};

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// Nothing: anyone may, logged in or not.
    Anonymous,
    /// Be logged in: the operation is about the caller's own session.
    Session,
    /// See the inventory, its models and its changes.
    Read,
    /// Change the inventory.
    Write,
    /// Register and remove resource models.
    Models,
    /// Manage accounts.
    Accounts,
    /// Switch virtual machines.
    Power,
    /// Keep a host in the inventory, as its collector.
    Collect,
    /// Be a provider of samples.
    Sample,
    /// Store what a linked site replicates.
    Replicate,
    /// Replicate machines, fail them over and back.
    Protect,
}

/// An HTTP method of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names of HTTP")]
pub enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// How an operation is called under `/api`; `/rest` with the same path follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The method.
    pub method: Method,
    /// The path below `/api`, e.g. `/hvc/links/{link}`; a name in braces is a parameter.
    pub path: &'static str,
    /// The value of the query parameter `action`, when several operations share method and path.
    pub action: Option<&'static str>,
    /// The status of success.
    pub status: u16,
    /// The parameter that is the body itself under `/api`. One of bytes travels as they are, as `application/octet-stream`, and the
    /// other parameters stand in the URL.
    pub body: Option<&'static str>,
    /// Names of query parameters that differ from the field's: (query name, dotted path of the field).
    pub query: &'static [(&'static str, &'static str)],
    /// Another path under `/rest`, without an action, for clients that put the action there, e.g. `/vcenter/vm/{vm}/power/start`.
    pub alias: Option<&'static str>,
}

impl Rest {
    /// A call with nothing special about it.
    pub const fn new(method: Method, path: &'static str, status: u16) -> Self {
        Self { method, path, action: None, status, body: None, query: &[], alias: None }
    }

    /// The same with an action.
    pub const fn action(mut self, action: &'static str) -> Self {
        self.action = Some(action);
        self
    }

    /// The same with a parameter that is the body.
    pub const fn body(mut self, parameter: &'static str) -> Self {
        self.body = Some(parameter);
        self
    }
}

/// What an operation does to the caller's login, besides its result: transports tell it to clients in their own ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// Takes a user name and a password, and answers the token of a session.
    Begins,
    /// Ends the session that asks.
    Ends,
}

/// An operation of a service.
#[derive(Debug)]
pub struct Operation {
    /// The canonical name of the service.
    pub service: &'static str,
    /// The canonical name of the operation.
    pub name: &'static str,
    /// What it does, for people.
    pub doc: &'static str,
    /// Its parameters.
    pub input: fn() -> &'static StructDef,
    /// Its result.
    pub output: fn() -> Type,
    /// The errors it declares, besides those of the infrastructure.
    pub errors: &'static [ErrorKind],
    /// Who may call it.
    pub privilege: Privilege,
    /// Its call under `/api`, if it has one.
    pub rest: Option<Rest>,
    /// Its call in the API of Cloud Director Availability, whose paths begin at the root: `/vm-replications/{replicationId}/sync`.
    pub availability: Option<Rest>,
    /// The names of the parameters that stand in a legacy URL as the id, e.g. `tag_id`.
    pub id_parameter: Option<&'static str>,
    /// Whether an answer may be held back until there is something to tell: such calls are counted and limited apart.
    pub waits: bool,
    /// What it does to the caller's login.
    pub login: Option<Login>,
}

impl Operation {
    /// `service.name`, as logs and metrics write it.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.service, self.name)
    }

    /// The parameter whose bytes are the body, as they are.
    pub fn bytes_parameter(&self) -> Option<&'static str> {
        let name = self.rest?.body?;
        let field = (self.input)().fields.iter().find(|field| field.name == name)?;
        matches!((field.ty)(), Type::Binary).then_some(name)
    }

    /// Method, path and action in the legacy generation, by rule from the service's name; for services of `com.vmware` only.
    ///
    /// Source: `api/vapi-wire.md`, 3.2.
    pub fn legacy_route(&self) -> Option<(Method, String, Option<String>)> {
        let base = format!("/rest/{}", self.service.replace('.', "/").replace('_', "-").to_lowercase());
        if !self.service.starts_with("com.vmware.") {
            return None;
        }
        let with_id = self.id_parameter.map(|id| format!("{base}/{{{id}}}"));
        Some(match (self.name, with_id) {
            ("list", _) => (Method::Get, base, None),
            ("create", _) => (Method::Post, base, None),
            ("get", Some(path)) => (Method::Get, path, None),
            ("update", Some(path)) => (Method::Patch, path, None),
            ("set", Some(path)) => (Method::Put, path, None),
            ("delete", Some(path)) => (Method::Delete, path, None),
            // A session is deleted without naming it.
            ("delete", None) if self.login == Some(Login::Ends) => (Method::Delete, base, None),
            (name, with_id) => (Method::Post, with_id.unwrap_or(base), Some(name.replace('_', "-"))),
        })
    }

    /// The root elements of the operation's XML bodies, and their namespace.
    ///
    /// Source: `api/cis-data-and-cdc.md`, A8.
    pub fn xml_root(&self) -> (String, String, String) {
        let camel: String = self
            .name
            .split('_')
            .flat_map(|word| {
                let mut chars = word.chars();
                chars.next().into_iter().flat_map(char::to_uppercase).chain(chars).collect::<Vec<_>>()
            })
            .collect();
        let path = self.service.strip_prefix("com.vmware.").unwrap_or(self.service).replace('.', "/");
        (format!("{camel}-Input"), format!("{camel}-Result"), format!("http://vmware.com/{path}"))
    }
}

/// The Rust face of an operation: its types, and its declaration.
pub trait Declared: 'static {
    /// The parameters.
    type Input: Wire + Send + 'static;
    /// The result.
    type Output: Wire + Send + 'static;
    /// The declaration.
    const OPERATION: Operation;
}

/// Declares an operation: a marker type with its input structure and its [`Operation`].
#[macro_export]
macro_rules! operation {
    (
        $(#[doc = $doc:literal])*
        pub $rust:ident = $service:literal . $name:literal
        ( $input:ty ) -> $output:ty,
        errors: [$($error:ident),* $(,)?],
        privilege: $privilege:ident
        $(, rest: $rest:expr)?
        $(, availability: $availability:expr)?
        $(, id: $id:literal)?
        $(, waits: $waits:literal)?
        $(, login: $login:ident)?
        $(,)?
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy)]
        pub struct $rust;

        impl $crate::Declared for $rust {
            type Input = $input;
            type Output = $output;
            const OPERATION: $crate::Operation = $crate::Operation {
                service: $service,
                name: $name,
                doc: concat!($($doc, "\n"),*),
                input: || { static DEF: $crate::StructDef = <$input>::DEF; &DEF },
                output: <$output as $crate::Wire>::ty,
                errors: &[$($crate::ErrorKind::$error),*],
                privilege: $crate::Privilege::$privilege,
                rest: $crate::operation!(@option $($rest)?),
                availability: $crate::operation!(@option $($availability)?),
                id_parameter: $crate::operation!(@option $($id)?),
                waits: $crate::operation!(@flag $($waits)?),
                login: $crate::operation!(@option $($crate::Login::$login)?),
            };
        }
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
    (@flag) => { false };
    (@flag $value:literal) => { $value };
}
