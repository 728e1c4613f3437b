//! The operations of the site itself: sessions, accounts, models, resources and queries.
//!
//! Each handler turns typed input into a call of the part that knows the rules, and its outcome into the contract's words.

mod models;
mod query;
mod resources;
mod session;

pub(crate) use models::check_model_document;
pub use query::filter_spec;

use lockstep_contract::services::accounts;

use crate::table::Table;

/// Registers all operations of the site.
pub fn register(table: &mut Table) {
    session::register(table);
    resources::register(table);
    models::register(table);
    query::register(table);
    table.register(accounts::List, async |context, _| Ok(context.site.accounts()));
    table.register(accounts::Set, async |context, input| context.site.set_account(&context.caller, input).await);
    table.register(accounts::IssueToken, async |context, input| context.site.issue_token(&context.caller, input).await);
    table.register(accounts::Delete, async |context, input| {
        context.site.delete_account(&context.caller, &input.user).await
    });
}
