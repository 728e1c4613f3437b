//! Logging in and out.

use std::time::SystemTime;

use jiff::Timestamp;
use lockstep_contract::services::session::{Create, Delete, Get, Info};
use lockstep_contract::{DateTime, Error, Secret};

use crate::caller::Caller;
use crate::table::{Context, Table};

pub(super) fn register(table: &mut Table) {
    table.register(Create, async |context, _| create(&context));
    table.register(Get, async |context, _| get(&context));
    table.register(Delete, async |context, _| delete(&context));
}

/// The credentials were checked when the caller became known; a session cannot beget sessions.
fn create(context: &Context) -> Result<Secret, Error> {
    match &context.caller {
        Caller::User(user) if user.session.is_none() => context.site.sessions.create(&user.name, user.role).map(Secret),
        Caller::User(_) | Caller::Anonymous | Caller::Server(_) => Err(Error::unauthenticated()),
    }
}

fn get(context: &Context) -> Result<Info, Error> {
    let key = session_key(context)?;
    let info = context.site.sessions.info(key).ok_or_else(Error::unauthenticated)?;
    Ok(Info {
        user: info.user.to_string(),
        created_time: date_time(info.created),
        last_accessed_time: date_time(info.used),
    })
}

fn delete(context: &Context) -> Result<(), Error> {
    let key = session_key(context)?;
    if context.site.sessions.delete(key) { Ok(()) } else { Err(Error::unauthenticated()) }
}

fn session_key(context: &Context) -> Result<crate::sessions::SessionKey, Error> {
    match &context.caller {
        Caller::User(user) => user.session.ok_or_else(Error::unauthenticated),
        Caller::Anonymous | Caller::Server(_) => Err(Error::unauthenticated()),
    }
}

/// With three fraction digits and `Z`, as the SDK writes it.
fn date_time(time: SystemTime) -> DateTime {
    let text = Timestamp::try_from(time).map(|t| format!("{t:.3}"));
    DateTime(text.unwrap_or_else(|_| "1970-01-01T00:00:00.000Z".to_owned()))
}
