//! `lockstep tag categories`.

use anyhow::Result;
use lockstep_contract::services::tagging::category::{Cardinality, Create, CreateInput, CreateSpec, Delete, IdInput};
use serde_json::{Value, json};

use super::{catalogue, print_id};
use crate::commands::Context;
use crate::output::{Listing, print};

/// List, create and delete categories of tags.
#[derive(Debug, clap::Subcommand)]
pub enum CategoriesCommand {
    /// List the categories.
    #[command(after_help = "Example:\n  lockstep tag categories list")]
    List,
    /// Create a category. Prints its id.
    #[command(after_help = "Examples:\n  \
        lockstep tag categories create owner\n  \
        lockstep tag categories create tier --single --type VirtualMachine --type Datastore")]
    Create {
        /// Its name, unique among categories
        name: String,
        /// An object has one of its tags at most
        #[arg(long)]
        single: bool,
        /// Only for objects of this type; may be given several times [default: any type]
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// For people
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
    },
    /// Delete categories with their tags, and take those off whatever they are attached to.
    #[command(after_help = "Example:\n  lockstep tag categories delete tier")]
    Delete {
        /// The categories: names or ids
        #[arg(required = true, value_name = "CATEGORY")]
        categories: Vec<String>,
    },
}

impl CategoriesCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let client = &context.client;
        match self {
            Self::List => {
                let categories = catalogue::categories(client).await?;
                let mut listing = Listing::new(["name", "cardinality", "types", "id", "description"]).whole(&["id"]);
                for category in &categories {
                    let of = |name: &str| category.get(name).cloned().unwrap_or(Value::Null);
                    listing.push(["name", "cardinality", "associable_types", "id", "description"].map(of));
                }
                print(context.output, &listing, &json!(categories))
            }
            Self::Create { name, single, types, description } => {
                let cardinality = if single { Cardinality::Single } else { Cardinality::Multiple };
                let create_spec =
                    CreateSpec { name, description, cardinality, associable_types: types, category_id: None };
                let id = client.call(Create, CreateInput { create_spec }).await?;
                print_id(context, &id)
            }
            Self::Delete { categories } => {
                for category in categories {
                    let category_id = catalogue::category(client, &category).await?;
                    client.call(Delete, IdInput { category_id }).await?;
                    eprintln!("deleted {category}");
                }
                Ok(())
            }
        }
    }
}
