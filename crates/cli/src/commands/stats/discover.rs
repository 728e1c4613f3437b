//! `lockstep stats counters`, `sets`, `metrics`, `providers` and `addresses`: what there is to sample, and of what.

use std::collections::BTreeMap;

use anyhow::Result;
use lockstep_contract::counters::counter;
use lockstep_contract::services::NoInput;
use lockstep_contract::services::stats::addresses::{self, ListInput as AddressesInput};
use lockstep_contract::services::stats::agents::ListProviders;
use lockstep_contract::services::stats::counters::{
    CidInput, FilterSpec, GetDefaultMetadata, List, ListInput, ListMetrics, ListSets, SampleType,
};
use serde_json::{Value, json};

use super::known::Known;
use super::names::Names;
use super::resources::{Resource, conditions, shown_all};
use super::units::{Measure, unit};
use crate::commands::Context;
use crate::output::{Format, Listing, print};
use crate::{json, times};

/// Which counters.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep stats counters\n  \
    lockstep stats counters throughput --type VM\n  \
    lockstep stats counters 'cpu.capacity.*'\n  \
    lockstep stats counters --metric mem.capacity.usage\n  \
    lockstep stats counters --output csv > counters.csv\n\n\
    A type of rate is the mean since the sample before; absolute is the value at the moment; fraction is a part of a whole.")]
pub struct CountersArgs {
    /// Only those whose id or description contains this text; with a *, those whose id is like it
    pattern: Option<String>,
    /// Only those of this type of resource: HOST or VM; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = Known::Types, hide_possible_values = true)]
    types: Vec<String>,
    /// Only those of this metric
    #[arg(long, value_name = "METRIC", value_parser = Known::Metrics, hide_possible_values = true)]
    metric: Option<String>,
}

impl CountersArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (types, _) = conditions(&[], &self.types);
        let filter = FilterSpec { cid: None, types, metric: self.metric };
        let found = context.client.call(List, ListInput { filter: Some(filter) }).await?;
        let mut listing = Listing::new(["cid", "units", "type", "description"]).whole(&["description"]);
        let mut all = Vec::new();
        for info in &found {
            let known = counter(&info.cid).map(|c| (unit(c.scale, c.units), c.sample, c.doc.to_owned()));
            let (units, sample, doc) = match known {
                Some(known) => known,
                None => {
                    let editions = context.client.call(GetDefaultMetadata, CidInput { cid: info.cid.clone() }).await?;
                    editions.first().map_or((String::new(), SampleType::Raw, String::new()), |edition| {
                        let doc = edition.user_info.as_ref().map(|info| info.description.default_message.clone());
                        (Measure::of(edition).unit, edition.sample_type, doc.unwrap_or_default())
                    })
                }
            };
            if !self.pattern.as_ref().is_none_or(|pattern| is_like(pattern, &info.cid, &doc)) {
                continue;
            }
            listing.push([json!(info.cid), json!(units), json!(sample.name().to_ascii_lowercase()), json!(doc)]);
            let mut one = json::value(info);
            one["units"] = json!(units);
            one["type"] = json!(sample.name());
            one["description"] = json!(doc);
            all.push(one);
        }
        print(context.output, &listing, &Value::Array(all))?;
        if listing.rows.is_empty() {
            eprintln!("no counter is like that; `lockstep stats counters` lists all");
        }
        Ok(())
    }
}

/// Whether a counter is like a pattern, whatever the case of letters.
fn is_like(pattern: &str, cid: &str, doc: &str) -> bool {
    let (pattern, cid) = (pattern.to_lowercase(), cid.to_lowercase());
    if !pattern.contains('*') {
        return cid.contains(&pattern) || doc.to_lowercase().contains(&pattern);
    }
    // The first part stands at the start, the last at the end, those between anywhere in their order.
    let parts: Vec<&str> = pattern.split('*').collect();
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return false };
    let Some(mut rest) = cid.strip_prefix(first).and_then(|rest| rest.strip_suffix(last)) else { return false };
    parts[1..parts.len() - 1].iter().all(|part| match rest.find(part) {
        Some(at) => {
            rest = &rest[at + part.len()..];
            true
        }
        None => false,
    })
}

/// Lists the sets of counters.
pub(crate) async fn sets(context: &Context) -> Result<()> {
    let sets = context.client.call(ListSets, NoInput {}).await?;
    let mut listing = Listing::new(["id", "size", "counters"]);
    for set in &sets {
        let cids: Vec<&str> = set.counters.iter().map(|counter| &*counter.cid).collect();
        listing.push([json!(set.id), json!(cids.len()), json!(cids)]);
    }
    print(context.output, &listing, &json::value(&sets))
}

/// Lists the metrics, with the types of resources that each has counters of.
pub(crate) async fn metrics(context: &Context) -> Result<()> {
    let metrics = context.client.call(ListMetrics, NoInput {}).await?;
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if matches!(context.output, Format::Table | Format::Csv) {
        for info in context.client.call(List, ListInput { filter: None }).await? {
            let kind = info.cid.strip_prefix(&info.metric).and_then(|kind| kind.strip_prefix('.'));
            types.entry(info.metric.clone()).or_default().extend(kind.map(str::to_owned));
        }
    }
    let mut listing = Listing::new(["metric", "types"]);
    for summary in &metrics {
        listing.push([json!(summary.metric), json!(types.get(&summary.metric))]);
    }
    print(context.output, &listing, &json::value(&metrics))
}

/// Lists the providers.
pub(crate) async fn providers(context: &Context) -> Result<()> {
    let providers = context.client.call(ListProviders, NoInput {}).await?;
    let host = |id: &str| Resource::one("HOST", id).in_spec();
    let hosts: Vec<_> = providers.iter().map(|provider| host(&provider.host)).collect();
    let mut names = Names::default();
    if matches!(context.output, Format::Table | Format::Csv) {
        names.look_up(&context.client, &hosts).await?;
    }
    let mut listing = Listing::new(["id", "host", "name", "counters", "last_seen", "present", "metadata"]);
    let now_s = times::now_s();
    for (provider, host) in providers.iter().zip(&hosts) {
        let seen = match context.output {
            Format::Csv => times::utc(provider.last_seen),
            // Of two clocks the site's may be a little ahead.
            _ => times::relative(provider.last_seen.min(now_s), now_s),
        };
        listing.push([
            json!(provider.id),
            json!(provider.host),
            json!(names.get(host)),
            json!(provider.counters),
            json!(seen),
            json!(if provider.is_present { "yes" } else { "no" }),
            json!(provider.metadata),
        ]);
    }
    print(context.output, &listing, &json::value(&providers))?;
    if providers.is_empty() {
        eprintln!("no provider has registered: nothing can be sampled; `lockstep agent` is one");
    }
    Ok(())
}

/// Which addresses.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep stats addresses\n  \
    lockstep stats addresses --type VM\n  \
    lockstep stats addresses --resource HOST=host-1")]
pub struct AddressesArgs {
    /// Only those with a resource of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE", value_parser = Known::Types, hide_possible_values = true)]
    types: Vec<String>,
    /// Only those with this resource: several of one type widen, those of other types narrow
    #[arg(long = "resource", value_name = "TYPE=ID")]
    resources: Vec<Resource>,
}

impl AddressesArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<()> {
        let (types, resources) = conditions(&self.resources, &self.types);
        let mut all = Vec::new();
        let mut page = None;
        loop {
            let filter = addresses::FilterSpec { types: types.clone(), resources: resources.clone(), page };
            let found = context.client.call(addresses::List, AddressesInput { filter: Some(filter) }).await?;
            all.extend(found.rsrc_addrs);
            page = found.next;
            if page.is_none() {
                break;
            }
        }
        let mut names = Names::default();
        if matches!(context.output, Format::Table | Format::Csv) {
            let own = all.iter().filter_map(|address| address.resource_ids.first());
            names.look_up(&context.client, own).await?;
        }
        let mut listing = Listing::new(["id", "resources", "name"]).whole(&["resources"]);
        for address in &all {
            let name = address.resource_ids.first().and_then(|id| names.get(id));
            listing.push([json!(address.id), json!(shown_all(&address.resource_ids)), json!(name)]);
        }
        print(context.output, &listing, &json::value(&all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_text_or_have_stars() {
        let cid = "cpu.capacity.usage.HOST";
        for (pattern, expected) in [
            ("", true),
            ("CAPACITY", true),
            ("work", true),
            ("mem", false),
            ("*", true),
            ("cpu.*", true),
            ("*.host", true),
            ("cpu.*.usage.*", true),
            ("cpu.*.*.*.HOST", false),
            ("capacity*", false),
            ("*usage", false),
            ("cpu.capacity.usage.host*cpu.capacity.usage.host", false),
            ("work*", false),
        ] {
            assert_eq!(is_like(pattern, cid, "what did Work"), expected, "{pattern}");
        }
    }
}
