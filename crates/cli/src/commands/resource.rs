//! `lockstep resource`: resources one at a time.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lockstep_contract::Opaque;
use lockstep_contract::services::resources::{
    Create, CreateInput, Delete, DeleteInput, Get, GetInput, List, ListInput, Patch, PatchInput, Replace, ReplaceInput,
    Written,
};
use serde_json::{Map, Value, json};

use super::{Context, read_input};
use crate::failure::Usage;
use crate::json;
use crate::output::{Format, Listing, print};

/// Read and write resources one at a time.
#[derive(Debug, clap::Subcommand)]
pub enum ResourceCommand {
    /// Show a resource.
    #[command(after_help = "Example:\n  lockstep resource get VirtualMachine vm-42")]
    Get {
        #[command(flatten)]
        which: Which,
    },
    /// List the ids of a type's resources.
    #[command(
        after_help = "Examples:\n  lockstep resource list HostSystem\n  lockstep resource list VirtualMachine --after vm-42 --limit 100"
    )]
    List {
        /// The type
        #[arg(value_name = "TYPE")]
        resource_type: String,
        /// Begin behind this id
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        /// How many at most [default: all]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: Option<u32>,
    },
    /// Create a resource.
    #[command(after_help = "Examples:\n  \
        lockstep resource create Tag t-1 -p name=gold -p 'category={\"type\":\"TagCategory\",\"id\":\"c-1\"}'\n  \
        lockstep resource create VirtualMachine vm-1 --file vm.json -p stats/cpu_usage_MHz=800")]
    Create {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        properties: Properties,
    },
    /// Give a resource these properties and no others; create it when it does not exist.
    #[command(after_help = "Example:\n  lockstep resource replace Tag t-1 -p name=silver --expect 1234")]
    Replace {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        properties: Properties,
        /// Only if it was last changed at this position; 0: only if it does not exist
        #[arg(long, value_name = "POSITION")]
        expect: Option<i64>,
    },
    /// Change some properties of a resource; null unsets one.
    #[command(
        after_help = "Example:\n  lockstep resource patch VirtualMachine vm-42 -p power_state=POWERED_OFF -p ip_address=null"
    )]
    Patch {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        properties: Properties,
        /// Only if it was last changed at this position
        #[arg(long, value_name = "POSITION")]
        expect: Option<i64>,
    },
    /// Delete a resource.
    #[command(
        after_help = "Examples:\n  lockstep resource delete Tag t-1\n  lockstep resource delete Datacenter dc-1 --cascade"
    )]
    Delete {
        #[command(flatten)]
        which: Which,
        /// Only if it was last changed at this position
        #[arg(long, value_name = "POSITION")]
        expect: Option<i64>,
        /// Delete what is below it too
        #[arg(long)]
        cascade: bool,
    },
}

/// Which resource.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The type
    #[arg(value_name = "TYPE")]
    resource_type: String,
    /// The id
    id: String,
}

/// Its properties, from a file and from the command line; the latter win.
#[derive(Debug, clap::Args)]
pub struct Properties {
    /// A property: PATH is name or struct/field, VALUE is JSON, or text when it is no JSON (name='"42"' is the text 42)
    #[arg(short = 'p', long = "property", value_name = "PATH=VALUE")]
    pairs: Vec<String>,
    /// File with a JSON object of properties; - for standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Whether paths are spelled out as nested objects, or stand for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Nested,
    Paths,
}

impl Properties {
    fn read(&self, shape: Shape) -> Result<Opaque> {
        let mut properties = match &self.file {
            None => Map::new(),
            Some(file) => {
                let text = read_input(file)?;
                let value = serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", file.display()))?;
                match value {
                    Value::Object(properties) => properties,
                    _ => anyhow::bail!("{} is not a JSON object of properties", file.display()),
                }
            }
        };
        if self.file.is_none() && self.pairs.is_empty() {
            return Err(Usage("no properties: give -p PATH=VALUE or --file FILE".to_owned()).into());
        }
        for pair in &self.pairs {
            let (path, value) = split(pair)?;
            match shape {
                Shape::Paths => {
                    properties.insert(path.to_owned(), value);
                }
                Shape::Nested => insert(&mut properties, path, value)?,
            }
        }
        json::to_data(&Value::Object(properties)).map(Opaque)
    }
}

/// `path=value`, the value read as JSON where it is JSON.
fn split(pair: &str) -> Result<(&str, Value)> {
    let (path, text) = pair
        .split_once('=')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| Usage(format!("{pair:?} is not PATH=VALUE")))?;
    Ok((path, serde_json::from_str(text).unwrap_or_else(|_| text.into())))
}

fn insert(properties: &mut Map<String, Value>, path: &str, value: Value) -> Result<()> {
    let Some((name, rest)) = path.split_once('/') else {
        properties.insert(path.to_owned(), value);
        return Ok(());
    };
    match properties.entry(name).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(fields) => insert(fields, rest, value),
        _ => Err(Usage(format!("{name} is given both a value and fields")).into()),
    }
}

impl ResourceCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let client = &context.client;
        let written = match self {
            Self::Get { which: Which { resource_type, id } } => {
                let resource = client.call(Get, GetInput { resource_type, id }).await?;
                let listing = Listing::of_leaves(&json::of_data(&resource.properties.0));
                print(context.output, &listing, &json::value(&resource))?;
                eprintln!("created at position {}, modified at position {}", resource.created, resource.modified);
                return Ok(ExitCode::SUCCESS);
            }
            Self::List { resource_type, after, limit } => {
                list(context, resource_type, after, limit).await?;
                return Ok(ExitCode::SUCCESS);
            }
            Self::Create { which: Which { resource_type, id }, properties } => {
                let properties = properties.read(Shape::Nested)?;
                client.call(Create, CreateInput { resource_type, id, properties }).await?
            }
            Self::Replace { which: Which { resource_type, id }, properties, expect: expected_position } => {
                let properties = properties.read(Shape::Nested)?;
                client.call(Replace, ReplaceInput { resource_type, id, properties, expected_position }).await?
            }
            Self::Patch { which: Which { resource_type, id }, properties, expect: expected_position } => {
                let properties = properties.read(Shape::Paths)?;
                client.call(Patch, PatchInput { resource_type, id, properties, expected_position }).await?
            }
            Self::Delete { which: Which { resource_type, id }, expect: expected_position, cascade } => {
                let cascade = cascade.then_some(true);
                client.call(Delete, DeleteInput { resource_type, id, expected_position, cascade }).await?
            }
        };
        tell(context.output, &written)?;
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(context: &Context, resource_type: String, mut after: Option<String>, limit: Option<u32>) -> Result<()> {
    let mut listing = Listing::new(["id"]);
    let mut all = Vec::new();
    loop {
        let left = limit.map(|limit| i64::from(limit) - i64::try_from(all.len()).unwrap_or(i64::MAX));
        let input = ListInput { resource_type: resource_type.clone(), after: after.take(), limit: left };
        let page = context.client.call(List, input).await?;
        let more = page.more;
        all.extend(page.resources);
        let is_enough = limit.is_some_and(|limit| all.len() as u64 >= u64::from(limit));
        match all.last() {
            Some(last) if more && !is_enough => after = Some(last.id.clone()),
            _ => {
                all.iter().for_each(|id| listing.push([json!(id.id)]));
                print(context.output, &listing, &json::value(&all))?;
                if more {
                    eprintln!("there are more: go on with --after {}", all.last().map_or("", |last| &*last.id));
                }
                return Ok(());
            }
        }
    }
}

fn tell(output: Format, written: &Written) -> Result<()> {
    if output != Format::Table {
        let value = json::value(written);
        return print(output, &Listing::of_leaves(&value), &value);
    }
    match written.changed {
        true => eprintln!("done at position {}", written.position),
        false => eprintln!("nothing to change since position {}", written.position),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pairs: &[&str], shape: Shape, expected: &Value) {
        let properties = Properties { pairs: pairs.iter().map(|p| (*p).to_owned()).collect(), file: None };
        assert_eq!(json::of_data(&properties.read(shape).unwrap().0), *expected);
    }

    #[test]
    fn pairs_are_json_or_text() {
        let pairs = ["name=a=b", "n=8", "d=2.0", "b=true", "t=\"42\"", "x=null", "l=[1,2]", "e=", "g/h=1", "g/i=x y"];
        let flat = json!({"name": "a=b", "n": 8, "d": 2.0, "b": true, "t": "42", "x": null, "l": [1, 2], "e": ""});
        let mut nested = flat.clone();
        nested["g"] = json!({"h": 1, "i": "x y"});
        check(&pairs, Shape::Nested, &nested);
        let mut paths = flat;
        paths["g/h"] = json!(1);
        paths["g/i"] = json!("x y");
        check(&pairs, Shape::Paths, &paths);
    }

    #[test]
    fn what_is_no_pair_is_a_usage_error() {
        for pairs in [&["name"][..], &["=x"], &["a=1", "a/b=2"], &[]] {
            let properties = Properties { pairs: pairs.iter().map(|p| (*p).to_owned()).collect(), file: None };
            assert!(properties.read(Shape::Nested).unwrap_err().is::<Usage>(), "{pairs:?}");
        }
    }
}
