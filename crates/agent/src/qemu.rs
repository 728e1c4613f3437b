//! The virtual machines: QEMU processes, understood from their command lines.

pub(crate) mod blocks;
pub(crate) mod cmdline;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod monitor;
pub(crate) mod netdevs;
pub(crate) mod process;
pub(crate) mod switch;
pub(crate) mod vm;
