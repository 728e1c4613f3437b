//! What the command line says of the guest as a whole: name, UUID, processors, memory, machine.

use super::cmdline::{Arguments, Keys};

const MIB: u64 = 1 << 20;
/// What QEMU gives a PC when nothing else is asked for.
const PC_MEMORY_BYTES: u64 = 128 * MIB;

/// The guest as its command line describes it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Guest {
    pub(crate) name: Option<String>,
    /// In lower case with dashes.
    pub(crate) uuid: Option<String>,
    pub(crate) cpus: Option<Cpus>,
    pub(crate) memory_bytes: Option<u64>,
    /// The machine type with its version, if one is asked for.
    pub(crate) machine: Option<String>,
    /// The accelerators asked for, the first that works being used; never empty.
    pub(crate) accelerators: Vec<String>,
}

/// The processors that the guest starts with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Cpus {
    pub(crate) count: u64,
    pub(crate) cores_per_socket: u64,
}

impl Guest {
    /// `program` is the file name of the QEMU binary, on which some defaults depend.
    pub(crate) fn parse(program: &str, arguments: &Arguments) -> Self {
        let machine = arguments.merged(&["machine", "M"], "type");
        let machine_type = machine.get("type").map(str::to_owned);
        Self {
            name: arguments.merged(&["name"], "guest").get("guest").filter(|name| !name.is_empty()).map(str::to_owned),
            uuid: uuid(arguments),
            cpus: cpus(&arguments.merged(&["smp"], "cpus"), machine_type.as_deref()),
            memory_bytes: memory_bytes(program, arguments, &machine),
            accelerators: accelerators(program, arguments, &machine),
            machine: machine_type,
        }
    }
}

/// Whether this process only answers questions about QEMU: a machine of type `none` is how management software asks
/// for capabilities, and a list is asked for by `help`.
pub(crate) fn is_enquiry(arguments: &Arguments) -> bool {
    let is_enquiring = |(option, value): (&str, &str)| {
        matches!(option, "h" | "help" | "version") || matches!(value, "help" | "?") || value.ends_with(",help")
    };
    arguments.merged(&["machine", "M"], "type").get("type") == Some("none") || arguments.iter().any(is_enquiring)
}

/// From `-uuid`, or else from the SMBIOS table, where Proxmox VE puts it.
fn uuid(arguments: &Arguments) -> Option<String> {
    let of_smbios = || {
        let system = arguments.each("smbios", "").filter(|table| table.get("type") == Some("1"));
        system.filter_map(|table| table.get("uuid").map(str::to_owned)).last()
    };
    let uuid = arguments.last("uuid").map(str::to_owned).or_else(of_smbios)?.to_ascii_lowercase();
    let is_digit = |(at, byte): (usize, u8)| match at {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let is_uuid = uuid.len() == 36 && uuid.bytes().enumerate().all(is_digit);
    // The nil UUID is QEMU's word for "none".
    (is_uuid && uuid.bytes().any(|byte| byte != b'0' && byte != b'-')).then_some(uuid)
}

/// Fills in what `-smp` leaves out by QEMU's own rules (`machine_parse_smp_config`): machine types up to version 6.1
/// make more sockets of what is left, later ones more cores.
fn cpus(keys: &Keys, machine: Option<&str>) -> Option<Cpus> {
    let number = |key: &str| keys.get(key).and_then(|value| value.parse::<u64>().ok()).filter(|number| *number > 0);
    let count = number("cpus");
    let cpus_max = number("maxcpus").or(count);
    // Levels that only some machines have lie between socket and core, or above the socket.
    let level = |key: &str| number(key).unwrap_or(1);
    let above = level("drawers").checked_mul(level("books"))?;
    let inside = level("dies").checked_mul(level("clusters"))?.checked_mul(level("modules"))?;

    let (mut sockets, mut cores, mut threads) = (number("sockets"), number("cores"), number("threads"));
    if let Some(cpus_max) = cpus_max {
        let share = |others: [u64; 2]| {
            let others = others.into_iter().chain([above, inside]).try_fold(1, u64::checked_mul)?;
            Some((cpus_max / others).max(1))
        };
        if prefers_sockets(machine) && sockets.is_none() {
            sockets = share([*cores.get_or_insert(1), *threads.get_or_insert(1)]);
        } else if cores.is_none() {
            cores = share([*sockets.get_or_insert(1), *threads.get_or_insert(1)]);
        } else if sockets.is_none() {
            sockets = share([cores.unwrap_or(1), *threads.get_or_insert(1)]);
        }
        if threads.is_none() {
            threads = share([sockets.unwrap_or(1), cores.unwrap_or(1)]);
        }
    }
    let (sockets, cores, threads) = (sockets.unwrap_or(1), cores.unwrap_or(1), threads.unwrap_or(1));
    let total = [sockets, cores, threads, above].into_iter().try_fold(inside, u64::checked_mul)?;
    Some(Cpus { count: count.or(cpus_max).unwrap_or(total), cores_per_socket: cores.checked_mul(inside)? })
}

/// `pc-q35-6.1` and older; a type without a version is the newest.
fn prefers_sockets(machine: Option<&str>) -> bool {
    let version = machine.and_then(|machine| machine.rsplit_once('-')).map(|(_, version)| version);
    let Some((major, minor)) = version.and_then(|version| version.split_once('.')) else { return false };
    let minor: String = minor.chars().take_while(char::is_ascii_digit).collect();
    matches!((major.parse::<u32>(), minor.parse::<u32>()), (Ok(major), Ok(minor)) if (major, minor) < (6, 2))
}

/// From `-m`, or else from the memory object that `-machine memory-backend` names.
fn memory_bytes(program: &str, arguments: &Arguments, machine: &Keys) -> Option<u64> {
    let size = arguments.merged(&["m"], "size").get("size").map(|size| parse_size(size, MIB));
    if let Some(size) = size {
        return size.filter(|bytes| *bytes > 0);
    }
    if let Some(backend) = machine.get("memory-backend") {
        let object = arguments.each("object", "qom-type").find(|object| object.get("id") == Some(backend))?;
        return parse_size(object.get("size")?, 1);
    }
    is_pc(program, machine).then_some(PC_MEMORY_BYTES)
}

fn is_pc(program: &str, machine: &Keys) -> bool {
    let is_x86 = program.contains("x86_64") || program.contains("i386") || program.ends_with("kvm");
    let is_arm = machine.get("type").is_some_and(|kind| kind.starts_with("virt") || kind.starts_with("sbsa"));
    is_x86 && !is_arm
}

/// `512`, `512M`, `1.5G`; a number without a suffix counts in `unit`.
fn parse_size(text: &str, unit: u64) -> Option<u64> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (_, '0'..='9') => (text, unit),
        (at, suffix) => {
            let power = "bkmgtpe".find(suffix.to_ascii_lowercase())?;
            (&text[..at], 1 << (10 * power))
        }
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let fraction = is_number(fraction).then(|| format!("0.{fraction}").parse::<f64>().ok())??;
    let whole = is_number(whole).then(|| whole.parse::<u64>().ok())??;
    whole.checked_mul(unit)?.checked_add((fraction * unit as f64) as u64)
}

fn accelerators(program: &str, arguments: &Arguments, machine: &Keys) -> Vec<String> {
    let mut list: Vec<String> =
        arguments.each("accel", "accel").filter_map(|keys| keys.get("accel").map(str::to_owned)).collect();
    if let Some(accelerators) = machine.get("accel").filter(|_| list.is_empty()) {
        list.extend(accelerators.split(':').map(str::to_owned));
    }
    list.retain(|accelerator| !accelerator.is_empty());
    if !list.is_empty() {
        return list;
    }
    if arguments.has("enable-kvm") {
        return vec!["kvm".to_owned()];
    }
    // A binary whose name ends so tries KVM first.
    let default: &[&str] = if program.ends_with("kvm") { &["kvm", "tcg"] } else { &["tcg"] };
    default.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::cmdline::arguments;
    use super::*;

    fn guest(line: &str) -> Guest {
        Guest::parse("qemu-system-x86_64", &arguments(line))
    }

    #[test]
    fn names() {
        fn check(line: &str, expected: Option<&str>) {
            assert_eq!(guest(line).name.as_deref(), expected, "{line}");
        }
        check("", None);
        check("-name web1", Some("web1"));
        check("-name guest=web1,debug-threads=on", Some("web1"));
        check("-name web1,process=qemu:web1,debug-threads=on", Some("web1"));
        check("-name debug-threads=on,guest=web1", Some("web1"));
        check("-name guest=a,,b", Some("a,b"));
        check("-name debug-threads=on", None);
        check("-name process=x -name web1", Some("web1"));
    }

    #[test]
    fn uuids() {
        const UUID: &str = "6f1c2f44-7a4b-4e0e-9a35-0d9c3a1f2b11";
        fn check(line: &str, expected: Option<&str>) {
            assert_eq!(guest(line).uuid.as_deref(), expected, "{line}");
        }
        check("", None);
        check(&format!("-uuid {UUID}"), Some(UUID));
        check(&format!("-uuid {}", UUID.to_uppercase()), Some(UUID));
        check("-uuid 00000000-0000-0000-0000-000000000000", None);
        check("-uuid 6f1c2f44", None);
        check("-uuid 6f1c2f44x7a4b-4e0e-9a35-0d9c3a1f2b11", None);
        check(&format!("-smbios type=1,uuid={UUID} -smbios type=0"), Some(UUID));
        check(&format!("-smbios type=3,uuid={UUID}"), None);
    }

    #[test]
    fn processors() {
        fn check(line: &str, count: u64, cores_per_socket: u64) {
            assert_eq!(guest(line).cpus, Some(Cpus { count, cores_per_socket }), "{line}");
        }
        check("", 1, 1);
        check("-smp 4", 4, 4);
        check("-smp cpus=4", 4, 4);
        check("-smp 4,sockets=2", 4, 2);
        check("-smp 4,cores=2", 4, 2);
        check("-smp 8,sockets=1,cores=4,threads=2", 8, 4);
        check("-smp sockets=2,cores=3,threads=2", 12, 3);
        check("-smp 2,maxcpus=8", 2, 8);
        check("-smp 2,sockets=4,maxcpus=8", 2, 2);
        check("-smp maxcpus=8", 8, 8);
        check("-smp 16,sockets=2,dies=2,cores=4", 16, 8);
        check("-smp 8,threads=2", 8, 4);
        check("-smp 8,sockets=1,cores=4", 8, 4);
        check("-machine pc-q35-6.1 -smp 4", 4, 1);
        check("-machine pc-q35-6.2 -smp 4", 4, 4);
        check("-machine pc-i440fx-5.2,accel=kvm -smp 4,cores=2", 4, 2);
        check("-machine type=q35+pve0 -smp 4,sockets=1,cores=4,maxcpus=4", 4, 4);
        check("-machine pc-q35-9.2+pve1 -smp 4", 4, 4);
        check("-smp 4 -smp sockets=2", 4, 2);
        check("-smp 0", 1, 1);
        check("-smp many", 1, 1);
        check("-smp 3,sockets=8", 3, 1);
    }

    #[test]
    fn absurd_processors_are_unknown() {
        let line = "-smp sockets=18446744073709551615,cores=18446744073709551615";
        assert_eq!(guest(line).cpus, None);
    }

    #[test]
    fn memory() {
        fn check(line: &str, expected_mib: Option<u64>) {
            assert_eq!(guest(line).memory_bytes.map(|bytes| bytes / MIB), expected_mib, "{line}");
        }
        check("", Some(128));
        check("-m 512", Some(512));
        check("-m 512M", Some(512));
        check("-m 2G", Some(2048));
        check("-m 2g", Some(2048));
        check("-m 1.5G", Some(1536));
        check("-m 1T", Some(1 << 20));
        check("-m 1048576k", Some(1024));
        check("-m 1073741824b", Some(1024));
        check("-m size=2G,slots=4,maxmem=8G", Some(2048));
        check("-m size=1048576k", Some(1024));
        check("-m 4096,slots=2", Some(4096));
        check("-m size=1024 -m slots=2,maxmem=4G", Some(1024));
        check("-m 0", None);
        check("-m G", None);
        check("-m 1..5G", None);
        check("-m -1", None);
        check("-m 99999999999E", None);
        check("-m é", None);
        check("-machine q35,memory-backend=r -object memory-backend-memfd,id=r,size=1G", Some(1024));
        check("-machine q35,memory-backend=r", None);
        check("-machine virt", None);
    }

    #[test]
    fn machines_and_accelerators() {
        fn check(program: &str, line: &str, machine: Option<&str>, accelerators: &[&str]) {
            let guest = Guest::parse(program, &arguments(line));
            assert_eq!(guest.machine.as_deref(), machine, "{line}");
            assert_eq!(guest.accelerators, accelerators, "{line}");
        }
        check("qemu-system-x86_64", "", None, &["tcg"]);
        check("qemu-system-x86_64", "-enable-kvm", None, &["kvm"]);
        check("qemu-system-x86_64", "-accel tcg,thread=multi", None, &["tcg"]);
        check("qemu-system-x86_64", "-accel kvm -accel tcg", None, &["kvm", "tcg"]);
        check("qemu-system-x86_64", "-M q35,accel=kvm:tcg", Some("q35"), &["kvm", "tcg"]);
        check("qemu-system-x86_64", "-machine accel=kvm,type=pc", Some("pc"), &["kvm"]);
        check("qemu-system-x86_64", "-machine pc-q35-8.2,usb=off,dump-guest-core=off", Some("pc-q35-8.2"), &["tcg"]);
        check("qemu-kvm", "-machine q35", Some("q35"), &["kvm", "tcg"]);
        check("kvm", "", None, &["kvm", "tcg"]);
    }

    #[test]
    fn processes_that_only_answer_questions_are_no_guests() {
        fn check(line: &str, expected: bool) {
            assert_eq!(is_enquiry(&arguments(line)), expected, "{line}");
        }
        check("-machine none,accel=kvm:tcg -qmp unix:/run/q,server=on,wait=off -S -nodefaults", true);
        check("-version", true);
        check("-device help", true);
        check("-device virtio-blk-pci,help", true);
        check("-cpu ?", true);
        check("-name help-desk -m 512", false);
        check("-machine q35", false);
    }
}
