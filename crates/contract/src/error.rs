//! The standard errors, and how each travels.
//!
//! Source: `api/hvc.md`, "Standard errors" and section 5.

use crate::{Fault, Map, Wire, Writer, enumeration, structure};

enumeration! {
    /// The kind of an error. Each is a structure `com.vmware.vapi.std.errors.<name in lower case>`.
    pub enum ErrorKind = "com.vmware.vapi.std.errors.error.type" {
        /// Anything without a better name.
        Error = "ERROR",
        /// Something of that name or id is there.
        AlreadyExists = "ALREADY_EXISTS",
        /// The change asked for is the present state.
        AlreadyInDesiredState = "ALREADY_IN_DESIRED_STATE",
        /// The operation was cancelled.
        Canceled = "CANCELED",
        /// The data changed since the caller read them.
        ConcurrentChange = "CONCURRENT_CHANGE",
        /// A feature in use hinders it.
        FeatureInUse = "FEATURE_IN_USE",
        /// A defect in the server.
        InternalServerError = "INTERNAL_SERVER_ERROR",
        /// A value is outside what the operation takes.
        InvalidArgument = "INVALID_ARGUMENT",
        /// An element of a group has a wrong configuration for that group.
        InvalidElementConfiguration = "INVALID_ELEMENT_CONFIGURATION",
        /// An element of a group is of a wrong type for that group.
        InvalidElementType = "INVALID_ELEMENT_TYPE",
        /// The request is malformed.
        InvalidRequest = "INVALID_REQUEST",
        /// Possible in principle, not in the present state.
        NotAllowedInCurrentState = "NOT_ALLOWED_IN_CURRENT_STATE",
        /// The named thing does not exist.
        NotFound = "NOT_FOUND",
        /// No such operation.
        OperationNotFound = "OPERATION_NOT_FOUND",
        /// The resource is in the middle of another change.
        ResourceBusy = "RESOURCE_BUSY",
        /// Something else uses the resource.
        ResourceInUse = "RESOURCE_IN_USE",
        /// The resource cannot be reached.
        ResourceInaccessible = "RESOURCE_INACCESSIBLE",
        /// The service is stopped, starting or overloaded.
        ServiceUnavailable = "SERVICE_UNAVAILABLE",
        /// A deadline passed.
        TimedOut = "TIMED_OUT",
        /// Out of space or the like.
        UnableToAllocateResource = "UNABLE_TO_ALLOCATE_RESOURCE",
        /// No login, a wrong login, or a session that is gone.
        Unauthenticated = "UNAUTHENTICATED",
        /// Logged in, but not allowed.
        Unauthorized = "UNAUTHORIZED",
        /// An unknown field in the request.
        UnexpectedInput = "UNEXPECTED_INPUT",
        /// Not possible for this kind of resource.
        Unsupported = "UNSUPPORTED",
        /// The other side's certificate did not check out.
        UnverifiedPeer = "UNVERIFIED_PEER",
    }
}

impl ErrorKind {
    /// The canonical name of the error's structure.
    pub fn structure_name(self) -> String {
        format!("com.vmware.vapi.std.errors.{}", self.name().to_lowercase())
    }

    /// The HTTP status in the current generation, under `/api`.
    pub fn status(self) -> u16 {
        match self {
            Self::Error
            | Self::InternalServerError
            | Self::ResourceBusy
            | Self::ResourceInaccessible
            | Self::TimedOut
            | Self::UnableToAllocateResource => 500,
            Self::ConcurrentChange => 409,
            Self::NotFound | Self::OperationNotFound => 404,
            Self::ServiceUnavailable => 503,
            Self::Unauthenticated => 401,
            Self::Unauthorized => 403,
            Self::AlreadyExists
            | Self::AlreadyInDesiredState
            | Self::Canceled
            | Self::FeatureInUse
            | Self::InvalidArgument
            | Self::InvalidElementConfiguration
            | Self::InvalidElementType
            | Self::InvalidRequest
            | Self::NotAllowedInCurrentState
            | Self::ResourceInUse
            | Self::UnexpectedInput
            | Self::Unsupported
            | Self::UnverifiedPeer => 400,
        }
    }

    /// The HTTP status in the legacy generation, under `/rest`: it differs for five kinds.
    pub fn legacy_status(self) -> u16 {
        match self {
            Self::Canceled => 500,
            Self::ResourceBusy | Self::ResourceInaccessible | Self::UnableToAllocateResource => 400,
            Self::TimedOut => 504,
            other => other.status(),
        }
    }
}

structure! {
    /// A message for people, with what a catalogue needs to say it in another language.
    pub struct Message = "com.vmware.vapi.std.localizable_message" {
        /// The key in a catalogue of templates.
        id: String,
        /// English text, arguments filled in.
        default_message: String,
        /// Positional arguments.
        args: Vec<String>,
        /// Named arguments; unset in this service's answers.
        params: Option<Map<crate::Opaque>>,
        /// The text in the locale asked for; unset in this service's answers.
        localized: Option<String>,
    }
}

impl Message {
    /// A message of that id and text.
    pub fn new(id: impl Into<String>, default_message: impl Into<String>, args: Vec<String>) -> Self {
        Self { id: id.into(), default_message: default_message.into(), args, params: None, localized: None }
    }
}

/// A structure that an error carries besides its messages.
#[derive(Debug, Clone, PartialEq)]
pub enum ErrorData {
    /// Which fields are at fault: `com.vmware.vapi.std.errors.argument_locations`.
    ArgumentLocations {
        /// The field.
        primary: String,
        /// Fields that have to do with it.
        secondary: Vec<String>,
    },
    /// Whether trying again helps: `com.vmware.vapi.std.errors.transient_indication`.
    Transient(bool),
    /// The certificate that was not trusted: `com.vmware.vcenter.hvc.links.certificate_info`.
    Certificate {
        /// SHA-256 of the certificate, in hex with colons.
        ssl_thumbprint: String,
    },
}

impl ErrorData {
    fn encode(&self, w: &mut dyn Writer) {
        match self {
            Self::ArgumentLocations { primary, secondary } => {
                w.begin_struct("com.vmware.vapi.std.errors.argument_locations");
                w.field("primary", false);
                w.string(primary);
                w.field("secondary", false);
                secondary.encode(w);
            }
            Self::Transient(is_transient) => {
                w.begin_struct("com.vmware.vapi.std.errors.transient_indication");
                w.field("is_transient", false);
                w.boolean(*is_transient);
            }
            Self::Certificate { ssl_thumbprint } => {
                w.begin_struct("com.vmware.vcenter.hvc.links.certificate_info");
                w.field("ssl_thumbprint", false);
                w.string(ssl_thumbprint);
            }
        }
        w.end_struct();
    }
}

/// A failed operation, free of any transport.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", messages.first().map_or(kind.name(), |m| &m.default_message))]
pub struct Error {
    /// What kind.
    pub kind: ErrorKind,
    /// The first says what the caller did wrong, the next its cause.
    pub messages: Vec<Message>,
    /// More for programs.
    pub data: Option<ErrorData>,
}

impl Error {
    /// An error with one message.
    pub fn new(kind: ErrorKind, id: impl Into<String>, message: impl Into<String>, args: Vec<String>) -> Self {
        let data = match kind {
            ErrorKind::ResourceBusy | ErrorKind::ServiceUnavailable | ErrorKind::TimedOut => {
                Some(ErrorData::Transient(true))
            }
            _ => None,
        };
        Self { kind, messages: vec![Message::new(id, message, args)], data }
    }

    /// A value that does not fit, with the field's path as the first argument.
    pub fn invalid_argument(id: impl Into<String>, place: &str, message: &str) -> Self {
        let text = if place.is_empty() { message.to_owned() } else { format!("{place}: {message}") };
        let mut error = Self::new(ErrorKind::InvalidArgument, id, text, vec![place.to_owned()]);
        if !place.is_empty() {
            error.data = Some(ErrorData::ArgumentLocations { primary: place.to_owned(), secondary: Vec::new() });
        }
        error
    }

    /// Something that does not exist.
    pub fn not_found(id: impl Into<String>, message: impl Into<String>, args: Vec<String>) -> Self {
        Self::new(ErrorKind::NotFound, id, message, args)
    }

    /// A request that cannot be read at all.
    pub fn invalid_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidRequest, "lockstep.request.malformed", message, Vec::new())
    }

    /// The one answer to every failed login and every unknown session: it must not tell which.
    pub fn unauthenticated() -> Self {
        Self::new(
            ErrorKind::Unauthenticated,
            "lockstep.session.unauthenticated",
            "log in to use this operation",
            Vec::new(),
        )
    }

    /// The one answer to everyone who may not: it must not tell whether the thing exists.
    pub fn unauthorized() -> Self {
        Self::new(
            ErrorKind::Unauthorized,
            "lockstep.session.unauthorized",
            "your role does not allow this operation",
            Vec::new(),
        )
    }

    /// A defect; what it is goes to the log only.
    pub fn internal() -> Self {
        Self::new(
            ErrorKind::InternalServerError,
            "lockstep.internal",
            "the server failed; its log says why",
            Vec::new(),
        )
    }

    /// Writes the error as the structure it travels as.
    pub fn encode(&self, w: &mut dyn Writer) {
        w.begin_error(&self.kind.structure_name());
        w.field("messages", false);
        self.messages.encode(w);
        if w.field("data", self.data.is_none()) {
            match &self.data {
                None => w.none(),
                Some(data) => {
                    w.begin_some();
                    data.encode(w);
                    w.end_some();
                }
            }
        }
        w.field("error_type", false);
        w.begin_some();
        w.string(self.kind.name());
        w.end_some();
        // Where a login could be made: the transport says it, in a header of HTTP.
        let challenges = matches!(self.kind, ErrorKind::Unauthenticated | ErrorKind::Unauthorized);
        if challenges && w.field("challenge", true) {
            w.none();
        }
        w.end_struct();
    }

    /// The error for a request that is not what the operation takes.
    ///
    /// Source: `api/vapi-wire.md`, 2.4 and 3.1.
    pub fn from_fault(fault: Fault, is_legacy: bool) -> Self {
        match fault {
            Fault::Invalid { place, id, message } => Self::invalid_argument(id, &place, &message),
            Fault::Unexpected { place } => {
                let kind = if is_legacy { ErrorKind::InvalidRequest } else { ErrorKind::UnexpectedInput };
                Self::new(
                    kind,
                    "lockstep.input.unexpected",
                    format!("{place} is not a field of this operation"),
                    vec![place],
                )
            }
        }
    }
}
