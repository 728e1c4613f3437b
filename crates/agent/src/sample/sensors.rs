//! Energy, power limits and temperature of the processors, where the hardware has sensors and the kernel shows them.

use crate::tree::Tree;

const POWERCAP: &str = "sys/class/powercap";
const HWMON: &str = "sys/class/hwmon";
const THERMAL: &str = "sys/class/thermal";

/// What a package draws at most where the kernel names no limit. It only bounds how long two readings may be apart.
const PACKAGE_WATTS_MAX: f64 = 1000.0;

/// Drivers of sensors inside processors.
const CPU_SENSORS: [&str; 7] =
    ["coretemp", "k10temp", "k8temp", "zenpower", "via_cputemp", "cpu_thermal", "scpi_sensors"];

/// The energy counter of a processor's package.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Package {
    pub(crate) directory: String,
    pub(crate) microjoules: u64,
    /// Where the counter begins anew.
    range_microjoules: u64,
    limit_watts: f64,
}

impl Package {
    /// What was drawn since an earlier reading, in watts. The counter wraps within minutes under load, which is made good;
    /// none where it may have wrapped more than once.
    pub(crate) fn watts_since(&self, before: &Self, seconds: f64) -> Option<f64> {
        let range = self.range_microjoules as f64;
        if self.directory != before.directory || seconds * self.limit_watts * 1e6 >= range {
            return None;
        }
        let grown = match self.microjoules.checked_sub(before.microjoules) {
            Some(grown) => grown as f64,
            None => range - before.microjoules as f64 + self.microjoules as f64,
        };
        (grown >= 0.0).then_some(grown / 1e6 / seconds)
    }
}

/// The sensors that were found.
#[derive(Debug, Default)]
pub(crate) struct Sensors {
    /// Directories of packages, with the file of the limit over time.
    packages: Vec<(String, Option<String>)>,
    /// Files in thousandths of a degree.
    temperatures: Vec<String>,
}

impl Sensors {
    pub(crate) fn find(tree: &Tree) -> Self {
        let mut sensors = Self::default();
        for zone in tree.names(POWERCAP) {
            let directory = format!("{POWERCAP}/{zone}");
            // `intel-rapl-mmio:0` counts the same energy again.
            let is_package = tree.text(format!("{directory}/name")).is_some_and(|name| name.starts_with("package"));
            if is_package && zone.starts_with("intel-rapl:") {
                let is_long = |number: &u32| {
                    tree.text(format!("{directory}/constraint_{number}_name")).is_some_and(|name| name == "long_term")
                };
                let limit =
                    (0..4).find(is_long).map(|number| format!("{directory}/constraint_{number}_power_limit_uw"));
                sensors.packages.push((directory, limit));
            }
        }
        for monitor in tree.names(HWMON) {
            let directory = format!("{HWMON}/{monitor}");
            if tree.text(format!("{directory}/name")).is_some_and(|name| CPU_SENSORS.contains(&name.as_str())) {
                let is_input = |name: &String| name.starts_with("temp") && name.ends_with("_input");
                let inputs = tree.names(&directory).into_iter().filter(is_input);
                sensors.temperatures.extend(inputs.map(|name| format!("{directory}/{name}")));
            }
        }
        if sensors.temperatures.is_empty() {
            for zone in tree.names(THERMAL) {
                let kind = tree.text(format!("{THERMAL}/{zone}/type")).unwrap_or_default().to_ascii_lowercase();
                if kind.starts_with("x86_pkg_temp") || kind.starts_with("cpu") || kind.starts_with("soc") {
                    sensors.temperatures.push(format!("{THERMAL}/{zone}/temp"));
                }
            }
        }
        sensors
    }

    /// The counters of all packages; none if one of them cannot be read.
    pub(crate) fn packages(&self, tree: &Tree) -> Option<Vec<Package>> {
        let read = |(directory, limit): &(String, Option<String>)| {
            Some(Package {
                microjoules: tree.number(format!("{directory}/energy_uj"))?,
                range_microjoules: tree.number(format!("{directory}/max_energy_range_uj"))?,
                limit_watts: limit.as_ref().and_then(|path| watts(tree, path)).unwrap_or(PACKAGE_WATTS_MAX),
                directory: directory.clone(),
            })
        };
        (!self.packages.is_empty()).then(|| self.packages.iter().map(read).collect())?
    }

    /// The limits over time of all packages together; none if one of them has none.
    pub(crate) fn power_limit_watts(&self, tree: &Tree) -> Option<f64> {
        (!self.packages.is_empty())
            .then(|| self.packages.iter().map(|(_, limit)| watts(tree, limit.as_ref()?)).sum::<Option<f64>>())?
    }

    /// The hottest sensor.
    pub(crate) fn temperature_celsius(&self, tree: &Tree) -> Option<f64> {
        let read = |path: &String| tree.number::<i64>(path).map(|millidegrees| millidegrees as f64 / 1000.0);
        self.temperatures.iter().filter_map(read).reduce(f64::max)
    }
}

fn watts(tree: &Tree, path: &str) -> Option<f64> {
    tree.number::<u64>(path).map(|microwatts| microwatts as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    fn machine() -> Fixture {
        Fixture::new(&[
            ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
            ("sys/class/powercap/intel-rapl:0/energy_uj", "1000000\n"),
            ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_name", "long_term\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "125000000\n"),
            ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
            ("sys/class/powercap/intel-rapl-mmio:0/name", "package-0\n"),
            ("sys/class/powercap/intel-rapl/enabled", "1\n"),
            ("sys/class/hwmon/hwmon0/name", "nvme\n"),
            ("sys/class/hwmon/hwmon0/temp1_input", "99000\n"),
            ("sys/class/hwmon/hwmon1/name", "coretemp\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "45000\n"),
            ("sys/class/hwmon/hwmon1/temp2_input", "51500\n"),
            ("sys/class/hwmon/hwmon1/temp2_crit", "100000\n"),
        ])
    }

    #[test]
    fn packages_limits_and_temperatures_are_found() {
        let fixture = machine();
        let (tree, sensors) = (fixture.tree(), Sensors::find(&fixture.tree()));
        assert_eq!(sensors.packages(&tree).unwrap().len(), 1);
        assert_eq!(sensors.power_limit_watts(&tree), Some(125.0));
        assert_eq!(sensors.temperature_celsius(&tree), Some(51.5));

        let nothing = Fixture::new(&[]).tree();
        let sensors = Sensors::find(&nothing);
        assert_eq!((sensors.packages(&nothing), sensors.power_limit_watts(&nothing)), (None, None));
        assert_eq!(sensors.temperature_celsius(&nothing), None);
    }

    #[test]
    fn without_a_driver_the_thermal_zone_of_the_processor_counts() {
        let fixture = Fixture::new(&[
            ("sys/class/thermal/thermal_zone0/type", "acpitz\n"),
            ("sys/class/thermal/thermal_zone0/temp", "90000\n"),
            ("sys/class/thermal/thermal_zone1/type", "x86_pkg_temp\n"),
            ("sys/class/thermal/thermal_zone1/temp", "40000\n"),
        ]);
        assert_eq!(Sensors::find(&fixture.tree()).temperature_celsius(&fixture.tree()), Some(40.0));
    }

    #[test]
    fn energy_becomes_power_over_one_wrap_but_not_over_more() {
        fn check(before: u64, now: u64, seconds: f64, expected: Option<f64>) {
            let package = |microjoules| Package {
                directory: "a".to_owned(),
                microjoules,
                range_microjoules: 1_000_000_000,
                limit_watts: 100.0,
            };
            assert_eq!(package(now).watts_since(&package(before), seconds), expected);
        }
        check(0, 500_000_000, 5.0, Some(100.0));
        check(900_000_000, 100_000_000, 4.0, Some(50.0));
        check(0, 500_000_000, 10.0, None);
    }
}
