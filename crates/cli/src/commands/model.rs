//! `lockstep model`: what can be stored and queried.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::models::{Delete, Get, GetInput, List, ListTypes, ModelInfo, Register, RegisterInput};
use lockstep_contract::{Data, Opaque};
use serde_json::{Value, json};

use super::{Context, read_input};
use crate::json;
use crate::output::{Format, Listing, print};

/// List, register and delete resource models.
#[derive(Debug, clap::Subcommand)]
pub enum ModelCommand {
    /// List the models.
    #[command(after_help = "Example:\n  lockstep model list")]
    List,
    /// Show a model's properties: paths, kinds, and what identifiers point to.
    #[command(after_help = "Example:\n  lockstep model get VirtualMachine")]
    Get {
        /// The model's name
        model: String,
    },
    /// Register a model, or add properties to one.
    #[command(after_help = "Example: in rack.json\n  \
        {\"name\": \"com.acme.RackModel\", \"resource_type\": \"com.acme.Rack\", \"properties\": [\n    \
        {\"name\": \"row\", \"kind\": \"LONG\"},\n    \
        {\"name\": \"hosts\", \"kind\": \"ID\", \"targets\": [\"HostSystem\"], \"list\": true},\n    \
        {\"name\": \"power\", \"kind\": \"STRUCT\", \"fields\": [{\"name\": \"watts\", \"kind\": \"DOUBLE\"}]}]}\n\n  \
        lockstep model register rack.json")]
    Register {
        /// The definition as JSON; - for standard input
        file: PathBuf,
    },
    /// Delete a model that was registered. No resource of its type may be left.
    #[command(after_help = "Example:\n  lockstep model delete com.acme.RackModel")]
    Delete {
        /// The model's name
        model: String,
    },
    /// List the resource types, with how many resources there are of each.
    #[command(after_help = "Example:\n  lockstep model types")]
    Types,
}

impl ModelCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let client = &context.client;
        match self {
            Self::List => {
                let models = client.call(List, NoInput {}).await?;
                let mut listing = Listing::new(["name", "resource_type", "built_in", "properties"]);
                for model in &models {
                    listing.push([
                        json!(model.name),
                        json!(model.resource_type),
                        json!(model.built_in),
                        json!(model.properties.len()),
                    ]);
                }
                print(context.output, &listing, &json::value(&models))?;
            }
            Self::Get { model } => show(context.output, &client.call(Get, GetInput { model }).await?)?,
            Self::Register { file } => {
                let text = read_input(&file)?;
                let definition = Data::from_json(&text).map_err(anyhow::Error::msg);
                let definition = definition.with_context(|| format!("{} is not JSON", file.display()))?;
                let model = client.call(Register, RegisterInput { definition: Opaque(definition) }).await?;
                eprintln!("registered {} for {}", model.name, model.resource_type);
                show(context.output, &model)?;
            }
            Self::Delete { model } => {
                client.call(Delete, GetInput { model: model.clone() }).await?;
                eprintln!("deleted {model}");
            }
            Self::Types => {
                let types = client.call(ListTypes, NoInput {}).await?;
                let mut listing = Listing::new(["name", "resources", "models"]);
                for one in &types {
                    listing.push([json!(one.name), json!(one.count), json!(one.models)]);
                }
                print(context.output, &listing, &json::value(&types))?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn show(output: Format, model: &ModelInfo) -> Result<()> {
    let mut listing = Listing::new(["path", "kind", "targets"]);
    for property in &model.properties {
        let kind = if property.list { format!("list of {}", property.kind) } else { property.kind.clone() };
        let kind = if property.parent { format!("{kind}, parent") } else { kind };
        // As a query writes it.
        let path = format!("{}/{}", model.name, property.path);
        listing.push([json!(path), Value::from(kind), json!(property.targets)]);
    }
    print(output, &listing, &json::value(model))
}
