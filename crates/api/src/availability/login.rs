//! Logins of this API: credentials in the body, a token in a header.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, request};
use hyper::body::Incoming;
use lockstep_contract::services::replication::sessions::{AuthenticatedSite, CreateInput, Details};
use lockstep_contract::{Data, Encoding, Error, Place, PlainJson, Secret, Wire as _};
use lockstep_model::{ResourceId, builtin};
use lockstep_site::Site;
use lockstep_site::caller::{Caller, User};
use lockstep_site::table::{Basic, Context};

use super::{TOKEN, Version, case, lenient, read_json, refused_login, stopped, version};
use crate::body::Body;
use crate::operation_id;
use crate::refusal::Refusal;
use crate::request::{Peer, Plan, Stopped};
use crate::running::What;
use crate::server::Server;

/// Sessions of one user that such logins leave behind: clients log in anew for every request.
const SESSIONS_OF_USER_MAX: usize = 64;

const LOGIN: What = What::Other("availability.log_in");
const LOGOUT: What = What::Other("availability.log_out");

/// Answers `POST /sessions`.
pub(crate) async fn log_in(
    server: &Arc<Server>,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
) -> Result<Plan, Box<Stopped>> {
    let version = version(LOGIN, &parts.headers)?;
    let made = begin(server, peer, parts, body, version).await;
    let response = made.map_err(|refusal| stopped(LOGIN, version, refusal))?;
    Ok(Plan::Done(LOGIN, None, response))
}

async fn begin(
    server: &Arc<Server>,
    peer: &Peer,
    parts: &request::Parts,
    body: Incoming,
    version: Version,
) -> Result<http::Response<Body>, Refusal> {
    let body = lenient::fit(CreateInput::ty(), read_json(server, parts, body).await?);
    let input =
        CreateInput::decode(body, &Place::root(Encoding::Plain)).map_err(|fault| Error::from_fault(fault, false))?;
    let user = user(&server.site, peer, input).await?;
    let token = server.site.sessions.create(&user.name, user.role)?;
    server.site.sessions.keep_newest_of(&user.name, SESSIONS_OF_USER_MAX);
    // The session's own key is what is kept of the token.
    let user = server.site.sessions.find(&token).ok_or_else(Error::internal)?;
    let mut response = version.with_body(StatusCode::OK, Body::one(details(server, user).await?));
    let mut value = HeaderValue::try_from(token).map_err(|_| Error::internal())?;
    value.set_sensitive(true);
    response.headers_mut().insert(TOKEN, value);
    case::spell(&mut response).await;
    Ok(response)
}

/// Who is logged in and where, as the service tells it.
async fn details(server: &Arc<Server>, user: User) -> Result<Vec<u8>, Error> {
    let mut w = PlainJson { keeps_unset: true, ..PlainJson::default() };
    match server.table.find("lockstep.replication.sessions", "get") {
        Some(index) => {
            let operation_id = operation_id::new();
            let context = Context { site: server.site.clone(), caller: Caller::User(user), operation_id };
            let entry = &server.table.entries()[index];
            let answer = entry.call(context, Data::object([]), Encoding::Plain, false).await?;
            answer.value.encode(&mut w);
        }
        None => {
            let site = AuthenticatedSite { site: server.site.config.name.clone(), org: "System".to_owned() };
            let roles = vec!["EVERYONE".to_owned()];
            Details { user: user.name.to_string(), roles, authenticated_sites: vec![site] }.encode(&mut w);
        }
    }
    Ok(w.out)
}

async fn user(site: &Site, peer: &Peer, input: CreateInput) -> Result<User, Error> {
    let basic = |user: Option<String>, password: Option<Secret>| match (user, password) {
        (Some(user), Some(password)) => Ok(Basic { user, password }),
        _ => Err(refused_login()),
    };
    match &*input.kind {
        "localUser" => site.log_in(&basic(input.local_user, input.local_password)?, peer.address).await,
        "vcdCredentials" => {
            let mut basic = basic(input.vcd_user, input.vcd_password)?;
            basic.user = account(site, basic.user);
            site.log_in(&basic, peer.address).await
        }
        "vcdCookie" => {
            let user = input.vcd_cookie.and_then(|token| site.sessions.find(&token.0));
            user.ok_or_else(refused_login)
        }
        "vcdAccessToken" => {
            let user = input.vcd_access_token.and_then(|token| site.find_token(&token.0));
            user.ok_or_else(refused_login)
        }
        _ => Err(refused_login()),
    }
}

/// The account that `user@org` means: one of that name, or of the name before the organization, of which a site has one.
fn account(site: &Site, user: String) -> String {
    let exists = |name: &str| site.view().modified(&ResourceId::new(builtin::ACCOUNT, name.to_lowercase())).is_some();
    match user.rsplit_once('@') {
        Some((name, _)) if !exists(&user) && exists(name) => name.to_owned(),
        _ => user,
    }
}

/// Answers `DELETE /sessions`.
pub(crate) fn log_out(server: &Server, parts: &request::Parts) -> Result<Plan, Box<Stopped>> {
    let version = version(LOGOUT, &parts.headers)?;
    let token = parts.headers.get(TOKEN).and_then(|token| token.to_str().ok());
    let key = token.and_then(|token| server.site.sessions.find(token)).and_then(|user| user.session);
    match key.filter(|key| server.site.sessions.delete(*key)) {
        Some(_) => Ok(Plan::Done(LOGOUT, None, version.with_body(StatusCode::NO_CONTENT, Body::Empty))),
        None => Err(stopped(LOGOUT, version, Error::unauthenticated())),
    }
}
