//! Lockstep's own resources.

use super::{model, string};
use crate::ResourceModel;

/// The type of models that were registered at run time; the id is the model's name.
pub const RESOURCE_MODEL: &str = "ResourceModel";

/// The type of accounts; the id is the user's name in lower case.
pub const ACCOUNT: &str = "Account";

pub(super) fn models() -> Vec<ResourceModel> {
    vec![
        model(
            RESOURCE_MODEL,
            vec![
                string("name"),
                string("resource_type"),
                // The declaration as JSON: property trees nest without bound, properties do not.
                string("definition"),
            ],
        ),
        // Who may log in is shown by its own service, to administrators: nothing of an account is in a query or an export.
        model(
            ACCOUNT,
            vec![
                string("name").secret(),
                string("role").secret(),
                string("password_hash").secret(),
                string("token_hash").secret(),
                string("description").secret(),
            ],
        ),
    ]
}
