//! The command line of QEMU: options with their values, and values made of keys.
//!
//! This is the syntax alone; `guest`, `blocks`, `netdevs` and `monitor` know what the options mean.

use serde_json::Value;

/// The options that take no value; all others take one. (`qemu-options.hx` marks them in the same way; some are of
/// releases long gone.)
const WITHOUT_VALUE: &str = "\
    alt-grab ctrl-grab curses daemonize enable-fips enable-kvm enable-sync-profile full-screen h help jitdump \
    mem-prealloc no-acpi no-fd-bootchk no-frame no-hpet no-kvm no-kvm-irqchip no-kvm-pit no-quit no-reboot no-shutdown \
    no-user-config nodefaults nodefconfig nographic old-param only-migratable perfmap portrait preconfig rtc-td-hack s S \
    sdl semihosting singlestep snapshot usb version win2k-hack xen-attach xen-domid-restrict";

/// The arguments of one QEMU process, in their order.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Arguments(Vec<(String, String)>);

impl Arguments {
    /// Splits arguments, the program not among them. One or two dashes mean the same. An argument that belongs to no
    /// option is a disk image, exactly as if `-hda` stood before it.
    pub(crate) fn parse(arguments: &[String]) -> Self {
        let mut list = Vec::new();
        let mut rest = arguments.iter().peekable();
        while let Some(argument) = rest.next() {
            let Some(option) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
                list.push(("hda".to_owned(), argument.clone()));
                continue;
            };
            let takes_value = !WITHOUT_VALUE.split(' ').any(|name| name == option);
            let value = rest.next_if(|_| takes_value).cloned().unwrap_or_default();
            list.push((option.to_owned(), value));
        }
        Self(list)
    }

    pub(crate) fn has(&self, option: &str) -> bool {
        self.0.iter().any(|(found, _)| found == option)
    }

    /// The value of an option that counts where it is given last.
    pub(crate) fn last(&self, option: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == option).map(|(_, value)| value.as_str())
    }

    /// All options with their values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(option, value)| (option.as_str(), value.as_str()))
    }

    /// The keys of each time an option is given.
    pub(crate) fn each<'a>(&'a self, option: &'a str, implied: &'a str) -> impl Iterator<Item = Keys> + 'a {
        self.iter().filter(move |(found, _)| *found == option).map(move |(_, value)| Keys::parse(value, implied))
    }

    /// The keys of all times an option is given, the later ones going over the earlier ones, as QEMU merges `-m`,
    /// `-smp`, `-machine` and `-name`.
    pub(crate) fn merged(&self, options: &[&str], implied: &str) -> Keys {
        let mut merged = Keys::default();
        for (_, value) in self.iter().filter(|(found, _)| options.contains(found)) {
            merged.0.extend(Keys::parse(value, implied).0);
        }
        merged
    }
}

/// The keys of an option's value. Structures of JSON are flattened into keys with dots, which is QEMU's own way to
/// write them without JSON.
#[derive(Debug, Default, Clone, PartialEq)]
pub(crate) struct Keys(Vec<(String, String)>);

impl Keys {
    /// Parses `first,key=value,flag` or a JSON object. The first part may go without its key, which is then `implied`;
    /// a later part without one is a flag and `on`. A doubled comma stands for a comma.
    pub(crate) fn parse(text: &str, implied: &str) -> Self {
        if text.trim_start().starts_with('{') {
            return Self::parse_json(text).unwrap_or_default();
        }
        let mut keys = Vec::new();
        for (at, part) in split_at_single_commas(text).into_iter().enumerate() {
            let (key, value) = match part.split_once('=') {
                Some((key, value)) => (key, value),
                None if at == 0 && !implied.is_empty() => (implied, part.as_str()),
                None => (part.as_str(), "on"),
            };
            if !key.is_empty() {
                keys.push((key.to_owned(), value.to_owned()));
            }
        }
        Self(keys)
    }

    /// Parses a JSON object; none if it is not one.
    pub(crate) fn parse_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let mut keys = Vec::new();
        flatten(String::new(), value.is_object().then_some(value)?, &mut keys);
        Some(Self(keys))
    }

    /// The value of a key; of several, the last one counts.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(found, _)| found == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn is_on(&self, key: &str) -> bool {
        matches!(self.get(key), Some("on" | "yes" | "true" | "y"))
    }

    /// The keys below a prefix, without it: of `file.driver` and `file.filename` below `file`, `driver` and `filename`.
    pub(crate) fn below(&self, prefix: &str) -> Self {
        let strip = |key: &str| Some(key.strip_prefix(prefix)?.strip_prefix('.')?.to_owned());
        Self(self.0.iter().filter_map(|(key, value)| Some((strip(key)?, value.clone()))).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

fn split_at_single_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let is_separator = character == ',' && characters.next_if_eq(&',').is_none();
        match parts.last_mut() {
            Some(part) if !is_separator => part.push(character),
            Some(_) | None => parts.push(String::new()),
        }
    }
    parts
}

/// Recursion is bounded by the parser, which refuses JSON nested more than 128 deep.
fn flatten(key: String, value: Value, keys: &mut Vec<(String, String)>) {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match value {
        Value::Null => {}
        Value::Bool(value) => keys.push((key, if value { "on" } else { "off" }.to_owned())),
        Value::Number(value) => keys.push((key, value.to_string())),
        Value::String(value) => keys.push((key, value)),
        Value::Array(items) => {
            for (at, item) in items.into_iter().enumerate() {
                flatten(below(&at.to_string()), item, keys);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                flatten(below(&name), field, keys);
            }
        }
    }
}

/// Splits a command line as a person would write it, for tests: at spaces.
#[cfg(test)]
pub(crate) fn arguments(line: &str) -> Arguments {
    let list: Vec<String> = line.split_ascii_whitespace().map(str::to_owned).collect();
    Arguments::parse(&list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_their_values() {
        fn check(line: &str, expected: &[(&str, &str)]) {
            assert_eq!(arguments(line).iter().collect::<Vec<_>>(), expected, "{line}");
        }
        check("", &[]);
        check("-m 512 -S", &[("m", "512"), ("S", "")]);
        check("--enable-kvm --name a", &[("enable-kvm", ""), ("name", "a")]);
        check("disk.img", &[("hda", "disk.img")]);
        check("-nographic disk.img -m 1G", &[("nographic", ""), ("hda", "disk.img"), ("m", "1G")]);
        check("-serial -S", &[("serial", "-S")]);
        check("-serial", &[("serial", "")]);
        check("-", &[("", "")]);
    }

    #[test]
    fn keys_of_values() {
        fn check(text: &str, implied: &str, expected: &[(&str, &str)]) {
            assert_eq!(Keys::parse(text, implied).iter().collect::<Vec<_>>(), expected, "{text}");
        }
        check("", "size", &[("size", "")]);
        check("512", "size", &[("size", "512")]);
        check("a,debug-threads=on", "guest", &[("guest", "a"), ("debug-threads", "on")]);
        check("guest=a,,b,process=c", "guest", &[("guest", "a,b"), ("process", "c")]);
        check("guest=a,,,process=c", "guest", &[("guest", "a,"), ("process", "c")]);
        check("unix:/q,server,nowait", "path", &[("path", "unix:/q"), ("server", "on"), ("nowait", "on")]);
        check("file=a=b", "", &[("file", "a=b")]);
        check("snapshot", "", &[("snapshot", "on")]);
        check(",,", "type", &[("type", ",")]);
        check("a,", "type", &[("type", "a")]);
        check(
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"a,b"},"cache":{"direct":true},"n":3,"x":null,"l":["p"]}"#,
            "driver",
            &[
                ("driver", "qcow2"),
                ("file.driver", "file"),
                ("file.filename", "a,b"),
                ("cache.direct", "on"),
                ("n", "3"),
                ("l.0", "p"),
            ],
        );
        check("{torn", "driver", &[]);
        check(&"{\"a\":".repeat(10_000), "driver", &[]);
    }

    #[test]
    fn the_last_of_a_key_counts() {
        let merged = arguments("-m 1G -m size=2G,slots=2 -m maxmem=8G").merged(&["m"], "size");
        assert_eq!(
            (merged.get("size"), merged.get("slots"), merged.get("maxmem")),
            (Some("2G"), Some("2"), Some("8G"))
        );
    }

    #[test]
    fn keys_below_a_prefix() {
        let keys = Keys::parse("file.driver=file,file.filename=a,filename=b", "driver");
        assert_eq!(keys.below("file"), Keys::parse("driver=file,filename=a", ""));
        assert!(keys.below("backing").is_empty());
    }
}
