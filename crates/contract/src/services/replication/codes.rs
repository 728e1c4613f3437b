//! The errors of Cloud Director Availability: a status of HTTP and a code, for each kind of error and, where that does not tell, its id.
//!
//! Source: `api/vcda.md`, section 4.

use crate::services::tasks::ApiError;
use crate::{Error, ErrorKind};

/// The id of the refusal of a site that is not linked.
pub const SITE_NOT_FOUND: &str = "lockstep.replication.site_not_found";

/// The id of the refusal of a site that this session has not logged in to.
pub const REMOTE_AUTHENTICATION: &str = "lockstep.replication.remote_authentication";

/// The id of the refusal of an unknown replication.
pub const REPLICATION_NOT_FOUND: &str = "lockstep.replication.not_found";

/// The id of the refusal of an unknown instance.
pub const INSTANCE_NOT_FOUND: &str = "lockstep.replication.instance_not_found";

/// The id of the refusal of an unknown machine.
pub const VM_NOT_FOUND: &str = "lockstep.replication.vm_not_found";

/// The id of the refusal of an unknown task.
pub const TASK_NOT_FOUND: &str = "lockstep.tasks.not_found";

/// The status and the code of an error.
pub fn code(error: &Error) -> (u16, &'static str) {
    let id = error.messages.first().map_or("", |message| &*message.id);
    match error.kind {
        ErrorKind::Unauthenticated if id == REMOTE_AUTHENTICATION => (401, "RemoteAuthenticationFailure"),
        ErrorKind::Unauthenticated => (401, "NotAuthenticated"),
        ErrorKind::Unauthorized => (403, "Forbidden"),
        ErrorKind::NotFound => (
            404,
            match id {
                SITE_NOT_FOUND => "SiteNotFound",
                REPLICATION_NOT_FOUND => "ReplicationNotFound",
                INSTANCE_NOT_FOUND => "InstanceNotFound",
                VM_NOT_FOUND => "VmNotFound",
                TASK_NOT_FOUND => "TaskNotFound",
                _ => "NotFound",
            },
        ),
        ErrorKind::OperationNotFound => (404, "NotFound"),
        ErrorKind::InvalidRequest => (400, "BadRequest"),
        ErrorKind::InvalidArgument
        | ErrorKind::UnexpectedInput
        | ErrorKind::InvalidElementConfiguration
        | ErrorKind::InvalidElementType
        | ErrorKind::Unsupported
        | ErrorKind::UnverifiedPeer => (400, "InvalidArgument"),
        ErrorKind::NotAllowedInCurrentState
        | ErrorKind::AlreadyExists
        | ErrorKind::AlreadyInDesiredState
        | ErrorKind::FeatureInUse => (409, "OperationNotAllowedInState"),
        ErrorKind::ConcurrentChange | ErrorKind::ResourceBusy | ErrorKind::ResourceInUse => {
            (409, "ConcurrentOperation")
        }
        ErrorKind::Canceled => (500, "TaskCanceled"),
        ErrorKind::ServiceUnavailable => (503, "ServiceUnavailable"),
        ErrorKind::Error
        | ErrorKind::InternalServerError
        | ErrorKind::ResourceInaccessible
        | ErrorKind::TimedOut
        | ErrorKind::UnableToAllocateResource => (500, "GeneralServerFailure"),
    }
}

/// The error in that API's form.
pub fn api_error(error: &Error) -> ApiError {
    let mut msg = String::new();
    let mut args = Vec::new();
    for message in &error.messages {
        if !msg.is_empty() {
            msg.push_str(": ");
        }
        msg.push_str(&message.default_message);
        args.extend(message.args.iter().cloned());
    }
    ApiError { code: code(error).1.to_owned(), msg, args, stacktrace: String::new() }
}
