//! Names that shells complete: those of the catalogue. What is typed may be another one: a site may know more.

use std::sync::LazyLock;

use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::error::Error;
use lockstep_contract::counters::{COUNTERS, CounterSet, ResourceKind};

/// Any text, with names to complete.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known {
    /// Counters.
    Counters,
    /// Sets of counters.
    Sets,
    /// Metrics.
    Metrics,
    /// Types of resources.
    Types,
}

impl Known {
    fn names(self) -> Vec<&'static str> {
        static SETS: LazyLock<Vec<String>> =
            LazyLock::new(|| CounterSet::all().into_iter().map(CounterSet::id).collect());
        let mut names: Vec<&str> = match self {
            Self::Counters => COUNTERS.iter().map(|counter| counter.cid).collect(),
            Self::Sets => SETS.iter().map(String::as_str).collect(),
            Self::Metrics => COUNTERS.iter().map(|counter| counter.metric).collect(),
            Self::Types => ResourceKind::ALL.map(ResourceKind::name).to_vec(),
        };
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl TypedValueParser for Known {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<String, Error> {
        StringValueParser::new().parse_ref(command, argument, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.names().into_iter().map(PossibleValue::new)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_complete_and_others_are_taken() {
        let argument = |known: Known| clap::Arg::new("a").value_parser(known);
        let command = clap::Command::new("x").arg(argument(Known::Counters));
        let typed = command.clone().try_get_matches_from(["x", "of.another.version.HOST"]).unwrap();
        assert_eq!(typed.get_one::<String>("a").map(String::as_str), Some("of.another.version.HOST"));
        for (known, name, count) in [
            (Known::Counters, "cpu.capacity.usage.VM", COUNTERS.len()),
            (Known::Sets, "mem.HOST", CounterSet::all().len()),
            (Known::Types, "VM", 2),
        ] {
            let names = known.names();
            assert!(names.contains(&name) && names.len() == count, "{names:?}");
        }
        assert!(Known::Metrics.names().contains(&"cpu.capacity.usage"));
        let help = command.mut_arg("a", |a| a.hide_possible_values(true)).render_long_help().to_string();
        assert!(!help.contains("cpu.capacity"), "{help}");
    }
}
