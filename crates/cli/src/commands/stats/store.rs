//! `lockstep stats store`: what the series store holds.

use anyhow::Result;
use indicatif::{HumanBytes, HumanCount};
use lockstep_contract::services::NoInput;
use lockstep_contract::services::stats::series::{GetStore, StoreInfo};
use serde_json::{Value, json};

use crate::commands::Context;
use crate::json;
use crate::output::{Format, Listing, print};

/// Shows what the store holds.
pub(crate) async fn show(context: &Context) -> Result<()> {
    let store = context.client.call(GetStore, NoInput {}).await?;
    let value = json::value(&store);
    let listing = match context.output {
        Format::Table => listing(&store),
        _ => Listing::of_leaves(&value),
    };
    print(context.output, &listing, &value)
}

fn listing(store: &StoreInfo) -> Listing {
    let count = |n: i64| json!(HumanCount(n.unsigned_abs()).to_string());
    let bytes = |n: i64| json!(HumanBytes(n.unsigned_abs()).to_string());
    let mut listing = Listing::new(["what", "how_much", "about"]).at_right(&["how_much"]).whole(&["about"]);
    let mut push = |what: &str, how_much: Value, about: String| listing.push([json!(what), how_much, json!(about)]);
    push("series", count(store.series), String::new());
    push("points", count(store.points), "as they were sampled".to_owned());
    push("sealed points", bytes(store.raw_bytes), per_point(store.raw_bytes, store.points));
    push("coarser resolutions", bytes(store.tier_bytes), "means of five minutes and of an hour".to_owned());
    push("write-ahead log", bytes(store.log_bytes), "points that are not sealed yet".to_owned());
    let disk_bytes = store.raw_bytes.saturating_add(store.tier_bytes).saturating_add(store.log_bytes);
    push("on disk together", bytes(disk_bytes), per_point(disk_bytes, store.points));
    push("memory", bytes(store.memory_bytes), String::new());
    push("stored", count(store.stored), "since the server was started".to_owned());
    push("refused", count(store.refused), "since then: too old, or of the future".to_owned());
    if let Some(waiting) = store.waiting {
        push("waiting", count(waiting), "to be sent to the store outside".to_owned());
    }
    listing
}

fn per_point(bytes: i64, points: i64) -> String {
    if points <= 0 {
        return String::new();
    }
    format!("{:.2} bytes a point", bytes as f64 / points as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::table_lines;

    #[test]
    fn sizes_are_for_people() {
        let store = StoreInfo {
            series: 120,
            points: 1_000_000,
            raw_bytes: 1_500_000,
            tier_bytes: 2048,
            log_bytes: 0,
            memory_bytes: 3 << 20,
            stored: 1_000_100,
            refused: 3,
            waiting: None,
        };
        let lines = table_lines(&listing(&store), None);
        assert_eq!(lines[0], "what                  how_much  about");
        assert_eq!(lines[2], "points               1,000,000  as they were sampled");
        assert_eq!(lines[3], "sealed points         1.43 MiB  1.50 bytes a point");
        assert_eq!(lines.len(), 10);
        assert_eq!(per_point(10, 0), "");
    }
}
