//! Which sources a counter is read from.

use std::ops::{BitOr, BitOrAssign};

/// A set of sources. Some stand for a part of one that not every kernel has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Needs(u64);

macro_rules! needs {
    ($( $(#[doc = $doc:literal])* $name:ident ),* $(,)?) => {
        needs!(@each 0, $( $(#[doc = $doc])* $name, )*);
    };
    (@each $bit:expr, $(#[doc = $doc:literal])* $name:ident, $($rest:tt)*) => {
        $(#[doc = $doc])*
        pub(crate) const $name: Self = Self(1 << ($bit));
        needs!(@each $bit + 1, $($rest)*);
    };
    (@each $bit:expr,) => {};
}

impl Needs {
    pub(crate) const NONE: Self = Self(0);

    needs! {
        /// The clock rate that the processors are built for.
        CLOCK,
        /// `/proc/stat`.
        STAT,
        /// `/proc/loadavg`.
        LOAD,
        /// `/proc/schedstat`.
        RUN_DELAY,
        /// `/proc/pressure/cpu`.
        PRESSURE_CPU,
        /// `/proc/pressure/memory`.
        PRESSURE_MEMORY,
        /// `/proc/pressure/io`.
        PRESSURE_IO,
        /// `/proc/meminfo`.
        MEMORY,
        /// `/proc/meminfo` that estimates what is available.
        AVAILABLE,
        /// `/proc/vmstat`.
        PAGING,
        /// `/proc/diskstats`.
        DISKS,
        /// `/proc/diskstats` that counts flushes.
        FLUSHES,
        /// The mounted file systems.
        FILE_SYSTEMS,
        /// `/proc/net/dev`.
        INTERFACES,
        /// Link speeds.
        LINKS,
        /// `/proc/net/snmp`.
        TCP,
        /// Energy counters of the processors' packages.
        ENERGY,
        /// Power limits of the packages.
        POWER_LIMIT,
        /// Temperature of the processors.
        TEMPERATURE,
        /// `/proc/uptime`.
        UPTIME,
        /// `/proc/sys/fs/file-nr`.
        FILES,
        /// How many VMs there are.
        VMS,
        /// What the VMs hold together.
        VM_TOTALS,
        /// Of a VM: what its command line says.
        GUEST,
        /// `/proc/PID/stat`.
        PROCESS,
        /// Time in guests in `/proc/PID/stat`.
        GUEST_TIME,
        /// `/proc/PID/status`.
        HOLDINGS,
        /// `/proc/PID/io`.
        PROCESS_IO,
        /// `/proc/PID/task/*/schedstat`.
        THREADS,
        /// The monitor's counts of the disks.
        BLOCKS,
        /// The size of the balloon, which the monitor tells.
        BALLOON,
        /// Limits of control groups.
        GROUP,
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub(crate) const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Needs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.and(other)
    }
}

impl BitOrAssign for Needs {
    fn bitor_assign(&mut self, other: Self) {
        *self = self.and(other);
    }
}
