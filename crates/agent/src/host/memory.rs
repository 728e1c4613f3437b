//! The memory of the machine.

use crate::tree::Tree;

/// All usable memory in bytes: the total that `free -b` prints. What the kernel keeps for itself is not in it.
pub(crate) fn total_bytes(tree: &Tree) -> Option<u64> {
    let meminfo = tree.text("proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::fixture::Fixture;

    #[test]
    fn the_total_is_in_bytes() {
        fn check(meminfo: &str, expected: Option<u64>) {
            assert_eq!(total_bytes(&Fixture::new(&[("proc/meminfo", meminfo)]).tree()), expected, "{meminfo}");
        }
        check("MemTotal:       24684084 kB\nMemFree:  1 kB\n", Some(25_276_502_016));
        check("MemFree:  1 kB\n", None);
        check("MemTotal: 18446744073709551615 kB\n", None);
        check("MemTotal: many\n", None);
    }
}
