//! Units as people write them, and numbers with the digits that mean something.

use std::collections::BTreeMap;

use anyhow::Result;
use lockstep_client::Client;
use lockstep_contract::ErrorKind;
use lockstep_contract::counters::counter;
use lockstep_contract::services::stats::counters::{CidInput, GetDefaultMetadata, Metadata, Scale, Units};

/// Digits behind the point for counters that the catalogue does not have.
const DECIMALS_DEFAULT: u8 = 2;

/// How a counter's values are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measure {
    /// Behind the number; empty for plain numbers.
    pub(crate) unit: String,
    decimals: u8,
}

impl Measure {
    /// The measure of a counter of the catalogue.
    pub(crate) fn known(cid: &str) -> Option<Self> {
        counter(cid).map(|c| Self { unit: unit(c.scale, c.units), decimals: c.decimals })
    }

    /// The measure that an edition of metadata says.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { unit: unit(metadata.scale.unwrap_or(Scale::One), metadata.units), decimals: DECIMALS_DEFAULT }
    }

    /// Of a counter that nobody knows any more.
    pub(crate) fn unknown() -> Self {
        Self { unit: String::new(), decimals: DECIMALS_DEFAULT }
    }

    /// The number without its unit.
    pub(crate) fn number(&self, value: f64) -> String {
        number(value, self.decimals)
    }
}

/// The measures of counters: from the catalogue, and for those that the site has beyond it from the site.
///
/// # Errors
/// What hinders a call.
pub(crate) async fn measures<'c>(
    client: &Client,
    cids: impl IntoIterator<Item = &'c str>,
) -> Result<BTreeMap<String, Measure>> {
    let mut measures = BTreeMap::new();
    for cid in cids {
        if measures.contains_key(cid) {
            continue;
        }
        let measure = match Measure::known(cid) {
            Some(measure) => measure,
            None => match client.call(GetDefaultMetadata, CidInput { cid: cid.to_owned() }).await {
                Ok(editions) => editions.first().map_or_else(Measure::unknown, Measure::of),
                Err(error) if error.kind() == Some(ErrorKind::NotFound) => Measure::unknown(),
                Err(error) => return Err(error.into()),
            },
        };
        measures.insert(cid.to_owned(), measure);
    }
    Ok(measures)
}

/// A number with so many digits behind the point, and without a minus before nothing.
pub(crate) fn number(value: f64, decimals: u8) -> String {
    let text = format!("{value:.*}", usize::from(decimals));
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        _ => text,
    }
}

/// The unit with its scale: `MHz`, `KiB/s`, `%`; empty for plain numbers.
pub(crate) fn unit(scale: Scale, units: Units) -> String {
    let symbol = match units {
        Units::Number => "",
        Units::Percent => "%",
        Units::Second => "s",
        Units::Hertz => "Hz",
        Units::Meter => "m",
        Units::MetersPerSecond => "m/s",
        Units::MetersPerSecondSquared => "m/s²",
        Units::Byte => "B",
        Units::Bit => "bit",
        Units::BytesPerSecond => "B/s",
        Units::BitsPerSecond => "bit/s",
        Units::Kilogram => "kg",
        Units::Gram => "g",
        Units::Celsius => "°C",
        Units::Kelvin => "K",
        Units::Joule => "J",
        Units::Watt => "W",
        Units::Volt => "V",
        Units::Ampere => "A",
        Units::VoltAmpere => "VA",
        Units::Candela => "cd",
        Units::Mole => "mol",
    };
    format!("{}{symbol}", prefix(scale))
}

fn prefix(scale: Scale) -> &'static str {
    match scale {
        Scale::Yotta => "Y",
        Scale::Zetta => "Z",
        Scale::Exa => "E",
        Scale::Peta => "P",
        Scale::Tera => "T",
        Scale::Giga => "G",
        Scale::Mega => "M",
        Scale::Kilo => "k",
        Scale::Hecto => "h",
        Scale::Deca => "da",
        Scale::One => "",
        Scale::Deci => "d",
        Scale::Centi => "c",
        Scale::Milli => "m",
        Scale::Micro => "µ",
        Scale::Nano => "n",
        Scale::Piko => "p",
        Scale::Femto => "f",
        Scale::Atto => "a",
        Scale::Zepto => "z",
        Scale::Yocto => "y",
        Scale::Yobi => "Yi",
        Scale::Zebi => "Zi",
        Scale::Exbi => "Ei",
        Scale::Pebi => "Pi",
        Scale::Tebi => "Ti",
        Scale::Gibi => "Gi",
        Scale::Mebi => "Mi",
        Scale::Kibi => "Ki",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_written_as_people_do() {
        for (cid, expected) in [
            ("cpu.capacity.usage.HOST", "MHz"),
            ("cpu.utilization.usage.VM", "%"),
            ("mem.capacity.usage.HOST", "MiB"),
            ("disk.throughput.usage.VM", "KiB/s"),
            ("disk.throughput.contention.HOST", "ms"),
            ("cpu.corecount.provisioned.HOST", ""),
            ("thermal.cpu.temperature.HOST", "°C"),
        ] {
            assert_eq!(Measure::known(cid).map(|m| m.unit).as_deref(), Some(expected), "{cid}");
        }
        assert_eq!(Measure::known("nobody.knows.HOST"), None);
    }

    #[test]
    fn numbers_have_the_digits_that_mean_something() {
        let show = |cid: &str, value| Measure::known(cid).map(|m| m.number(value));
        assert_eq!(show("cpu.utilization.usage.HOST", 12.345).as_deref(), Some("12.35"));
        assert_eq!(show("cpu.capacity.usage.HOST", 1233.7).as_deref(), Some("1234"));
        assert_eq!(number(-0.001, 2), "0.00");
        assert_eq!(number(-0.01, 2), "-0.01");
        assert_eq!(Measure::unknown().number(1.0), "1.00");
    }
}
