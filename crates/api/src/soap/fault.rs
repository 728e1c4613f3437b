//! Why a method failed, as the VIM schema says it.

use http::StatusCode;
use lockstep_contract::{Error, ErrorKind};
use lockstep_model::ResourceId;

use super::message::escaped;
use crate::refusal::Refusal;

/// Why a method failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The request is no call.
    Malformed(String),
    /// There is no such method here.
    UnknownMethod(String),
    /// An argument is missing or is none.
    InvalidArgument(&'static str),
    /// The user name or the password is wrong.
    InvalidLogin,
    /// Nobody is logged in who could call a method on this.
    NotAuthenticated(ResourceId),
    /// Who is logged in may not.
    NoPermission(ResourceId),
    /// There is no such object.
    NoObject(ResourceId),
    /// The object has no such property.
    InvalidProperty(String),
    /// What any request may run into: limits, defects.
    Failed(Refusal),
}

impl Fault {
    /// SOAP answers failures with 500; limits keep the status that says which.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Failed(refusal) => refusal.status_in(false),
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The fault's type in the VIM schema, its members, and its text for people.
    fn parts(&self) -> (&'static str, String, String) {
        let object = |name: &str, id: &ResourceId| {
            format!("<{name} type=\"{}\">{}</{name}>", escaped(id.resource_type.as_str()), escaped(&id.id))
        };
        match self {
            Self::Malformed(reason) => ("InvalidRequest", String::new(), format!("the request is malformed: {reason}")),
            Self::UnknownMethod(name) => {
                ("InvalidRequest", String::new(), format!("Unable to resolve WSDL method name {name}"))
            }
            Self::InvalidArgument(name) => {
                let text = format!("A specified parameter was not correct: {name}");
                ("InvalidArgument", format!("<invalidProperty>{name}</invalidProperty>"), text)
            }
            Self::InvalidLogin => {
                let text = "Cannot complete login due to an incorrect user name or password.";
                ("InvalidLogin", String::new(), text.to_owned())
            }
            Self::NotAuthenticated(id) => {
                let members = object("object", id) + "<privilegeId>System.View</privilegeId>";
                ("NotAuthenticated", members, "The session is not authenticated.".to_owned())
            }
            Self::NoPermission(id) => {
                let members = object("object", id) + "<privilegeId>System.View</privilegeId>";
                ("NoPermission", members, "Permission to perform this operation was denied.".to_owned())
            }
            Self::NoObject(id) => {
                let text = format!("The object '{}:{}' does not exist", id.resource_type, id.id);
                ("ManagedObjectNotFound", object("obj", id), text)
            }
            Self::InvalidProperty(name) => {
                let text = format!("the property {name} is not there or not served");
                ("InvalidProperty", format!("<name>{}</name>", escaped(name)), text)
            }
            Self::Failed(refusal) => ("RuntimeFault", String::new(), refusal.error.to_string()),
        }
    }

    /// The body of the answer.
    pub(super) fn text(&self) -> String {
        let (name, members, text) = self.parts();
        format!(
            "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>{}</faultstring>\
             <detail><{name}Fault xmlns=\"urn:vim25\" xsi:type=\"{name}\">{members}</{name}Fault></detail></soapenv:Fault>",
            escaped(&text)
        )
    }

    /// The error, as logs and counters have it.
    pub(super) fn into_error(self) -> Error {
        let kind = match &self {
            Self::Malformed(_) => ErrorKind::InvalidRequest,
            Self::UnknownMethod(_) => ErrorKind::OperationNotFound,
            Self::InvalidArgument(_) | Self::InvalidProperty(_) => ErrorKind::InvalidArgument,
            Self::InvalidLogin | Self::NotAuthenticated(_) => ErrorKind::Unauthenticated,
            Self::NoPermission(_) => ErrorKind::Unauthorized,
            Self::NoObject(_) => ErrorKind::NotFound,
            Self::Failed(refusal) => refusal.error.kind,
        };
        match self {
            Self::Failed(refusal) => refusal.error,
            other => Error::new(kind, "lockstep.soap.fault", other.parts().2, Vec::new()),
        }
    }
}
