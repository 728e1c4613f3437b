//! `lockstep tag`: tags, their categories, and what they are attached to.
//!
//! A tag is given by its id, by its name where no other tag has it, or by `CATEGORY/NAME`; how that is looked up is [`catalogue`]'s.

mod catalogue;
mod categories;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use lockstep_contract::services::TypedId;
use lockstep_contract::services::tagging::tag::{Create, CreateInput, CreateSpec, Delete, IdInput};
use lockstep_contract::services::tagging::tag_association::{
    AttachTagToMultipleObjects, BatchResult, DetachTagFromMultipleObjects, ListAttachedObjects, ListAttachedTags,
    ObjectInput, ObjectsInput, TagInput,
};
use serde_json::json;

use super::Context;
use crate::json;
use crate::output::{Format, Listing, print, print_line};

/// List, create, delete, attach and detach tags.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "First steps:\n  \
    lockstep tag categories create tier --single --type VirtualMachine\n  \
    lockstep tag create gold --category tier\n  \
    lockstep tag attach gold VirtualMachine=vm-1 VirtualMachine=vm-2\n  \
    lockstep query \"VirtualMachine where tags.name = 'gold' select name\"")]
pub enum TagCommand {
    /// List the tags.
    #[command(after_help = "Examples:\n  \
        lockstep tag list\n  \
        lockstep tag list --category tier\n  \
        lockstep tag list --of VirtualMachine=vm-1")]
    List {
        /// Only those of this category, by its name or id
        #[arg(long, value_name = "CATEGORY")]
        category: Option<String>,
        /// Only those that are attached to this object
        #[arg(long, value_name = "TYPE=ID")]
        of: Option<Object>,
    },
    /// Create a tag. Prints its id.
    #[command(after_help = "Example:\n  lockstep tag create gold --category tier --description 'answers in an hour'")]
    Create {
        /// Its name, unique in its category
        name: String,
        /// The category, by its name or id
        #[arg(long, value_name = "CATEGORY")]
        category: String,
        /// For people
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        description: String,
    },
    /// Delete tags, and take them off whatever they are attached to.
    #[command(after_help = "Examples:\n  lockstep tag delete gold\n  lockstep tag delete tier/gold owner/me")]
    Delete {
        /// The tags: NAME, CATEGORY/NAME or id
        #[arg(required = true, value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Attach a tag to objects.
    ///
    /// Where it does not fit, since its category is not for the type or allows one tag only, the reason is told, and the command
    /// fails; the other objects have it all the same. Attaching what is attached already is no error.
    #[command(after_help = "Examples:\n  \
        lockstep tag attach gold VirtualMachine=vm-1\n  \
        lockstep tag attach tier/gold VirtualMachine=vm-1 HostSystem=host-3")]
    Attach {
        /// The tag: NAME, CATEGORY/NAME or id
        tag: String,
        /// The objects
        #[arg(required = true, value_name = "TYPE=ID")]
        objects: Vec<Object>,
    },
    /// Detach a tag from objects. Detaching what is not attached is no error.
    #[command(after_help = "Example:\n  lockstep tag detach gold VirtualMachine=vm-1")]
    Detach {
        /// The tag: NAME, CATEGORY/NAME or id
        tag: String,
        /// The objects
        #[arg(required = true, value_name = "TYPE=ID")]
        objects: Vec<Object>,
    },
    /// List what a tag is attached to.
    #[command(after_help = "Example:\n  lockstep tag objects gold")]
    Objects {
        /// The tag: NAME, CATEGORY/NAME or id
        tag: String,
    },
    /// List, create and delete categories of tags.
    #[command(subcommand)]
    Categories(categories::CategoriesCommand),
}

/// An object as it is typed: `TYPE=ID`.
#[derive(Debug, Clone, PartialEq)]
pub struct Object(TypedId);

impl FromStr for Object {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((resource_type, id)) if !resource_type.is_empty() && !id.is_empty() => {
                Ok(Self(TypedId { resource_type: resource_type.to_owned(), id: id.to_owned() }))
            }
            _ => Err(format!("{text:?} is no TYPE=ID, such as VirtualMachine=vm-12")),
        }
    }
}

impl TagCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let client = &context.client;
        match self {
            Self::List { category, of } => return list(context, category, of).await,
            Self::Create { name, category, description } => {
                let category_id = catalogue::category(client, &category).await?;
                let create_spec = CreateSpec { name, description, category_id, tag_id: None };
                let id = client.call(Create, CreateInput { create_spec }).await?;
                print_id(context, &id)?;
            }
            Self::Delete { tags } => {
                for tag in tags {
                    let tag_id = catalogue::tag(client, &tag).await?;
                    client.call(Delete, IdInput { tag_id }).await?;
                    eprintln!("deleted {tag}");
                }
            }
            Self::Attach { tag, objects } => {
                let input = on_objects(context, &tag, objects).await?;
                return tell(&client.call(AttachTagToMultipleObjects, input).await?);
            }
            Self::Detach { tag, objects } => {
                let input = on_objects(context, &tag, objects).await?;
                return tell(&client.call(DetachTagFromMultipleObjects, input).await?);
            }
            Self::Objects { tag } => {
                let tag_id = catalogue::tag(client, &tag).await?;
                let objects = client.call(ListAttachedObjects, TagInput { tag_id }).await?;
                let mut listing = Listing::new(["type", "id"]);
                objects.iter().for_each(|object| listing.push([json!(object.resource_type), json!(object.id)]));
                print(context.output, &listing, &json::value(&objects))?;
            }
            Self::Categories(command) => command.run(context).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints the id of something new: alone for people and scripts, as JSON or YAML where that was asked for.
fn print_id(context: &Context, id: &str) -> Result<()> {
    let mut listing = Listing::new(["id"]);
    listing.push([json!(id)]);
    match context.output {
        Format::Table => print_line(id),
        output => print(output, &listing, &json!(id)),
    }
}

async fn list(context: &Context, category: Option<String>, of: Option<Object>) -> Result<ExitCode> {
    let client = &context.client;
    let category = match category {
        Some(category) => Some(catalogue::category(client, &category).await?),
        None => None,
    };
    let mut tags = catalogue::tags(client, category.as_deref()).await?;
    if let Some(Object(object_id)) = of {
        let attached = client.call(ListAttachedTags, ObjectInput { object_id }).await?;
        let mut by_id: BTreeMap<String, catalogue::Tag> = tags.into_iter().map(|tag| (tag.id.clone(), tag)).collect();
        // In the order in which they were attached.
        tags = attached.iter().filter_map(|id| by_id.remove(id)).collect();
    }
    let mut listing = Listing::new(["category", "name", "id", "description"]).whole(&["id"]);
    let mut all = Vec::new();
    for tag in &tags {
        listing.push([json!(tag.category), json!(tag.name), json!(tag.id), json!(tag.description)]);
        all.push(json!({"id": tag.id, "name": tag.name, "description": tag.description,
            "category_id": tag.category_id, "category": tag.category}));
    }
    print(context.output, &listing, &json!(all))?;
    Ok(ExitCode::SUCCESS)
}

async fn on_objects(context: &Context, tag: &str, objects: Vec<Object>) -> Result<ObjectsInput> {
    let tag_id = catalogue::tag(&context.client, tag).await?;
    Ok(ObjectsInput { tag_id, object_ids: objects.into_iter().map(|Object(id)| id).collect() })
}

/// Tells why objects were refused, if any were.
fn tell(result: &BatchResult) -> Result<ExitCode> {
    for message in &result.error_messages {
        eprintln!("lockstep: {}", crate::output::visible(&message.default_message));
    }
    Ok(if result.success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_a_type_and_an_id() {
        let read = |text: &str| text.parse::<Object>().map(|Object(id)| (id.resource_type, id.id)).ok();
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(read("VirtualMachine=vm-1"), pair("VirtualMachine", "vm-1"));
        assert_eq!(read("com.acme.Person=a=b"), pair("com.acme.Person", "a=b"));
        assert_eq!((read("vm-1"), read("=vm-1"), read("VirtualMachine=")), (None, None, None));
    }
}
