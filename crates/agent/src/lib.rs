//! What runs beside the machines: it reads the Linux host it is on, and samples it.
//!
//! Three services that share the reading of `/proc`, `/sys` and QEMU, and the ids that they give:
//!
//! | service | entrance | yields |
//! | --- | --- | --- |
//! | collecting | [`HostReader`], [`reconcile`] | what the inventory should hold of the host and its VMs |
//! | keeping | [`keeper::keep`] | the host in a site's inventory, and its machines switched when the site orders it |
//! | sampling | [`provider::Provider`] | points of the counters that acquisition specifications ask for |
//!
//! # Collecting
//! [`HostReader::read`] looks at the machine once and returns a list of [`Observed`] resources:
//!
//! | resource type | one for | id from |
//! | --- | --- | --- |
//! | `HostSystem` | the machine | machine-id, else the DMI UUID, else the host name; hashed |
//! | `Datastore` | a mounted file system of a block device | the host and the mount point |
//! | `Network` | a bridge, and a physical interface that is in no bridge or bond | the host and the interface name |
//! | `VirtualMachine` | a QEMU process, a domain of libvirt, or both | its `-uuid`, else the host and its `-name`, else its command line |
//!
//! An id is the same after a restart of the collector, of the VM, and of the machine; it never holds a pid, and the
//! machine-id, which is meant to stay private to its machine, is only ever used hashed. The list is the whole truth
//! about this host: what was in it before and is missing has gone, but for a virtual machine, which is off then ([`reconcile`]).
//! All but the host itself point to it by `host`, so a
//! writer finds what it wrote earlier by that relation.
//!
//! It promises:
//! - **The values are those of the usual tools**: sockets, cores, threads and model as `lscpu` prints them, memory as
//!   `free`, disks as `lsblk -b`. They are read from the same files, `/proc` and `/sys`; no program is started.
//! - **The same machine gives the same list.** A writer compares it with the inventory, so every needless difference
//!   would be a change event at each poll. Volatile measures (load, memory in use) are left out: they are what sampling is
//!   for. A datastore's free space moves only when it has changed by more than a hundredth of the capacity,
//!   clock rates are those the machine is built for, lists are sorted, and what a busy QEMU monitor cannot tell again
//!   keeps its last known value.
//! - **A missing piece is a missing property**, never an error: in containers, without privileges and on odd
//!   machines, files are absent or unreadable. A process that ends while it is read is skipped. [`ReadError`] is for a
//!   root that has no Linux `/proc` at all.
//! - **It does not disturb what it looks at.** Files are read with a bound on their size. A monitor socket that has
//!   a client is left alone, since QMP serves one client at a time; one that is free is held for a question, at most
//!   200 ms, and one [`HostReader::read`] spends at most two seconds on all of them.
//! - **No secrets.** Disk addresses on the network are stripped of user, password and options.
//!
//! [`reconcile::plan`] compares a reading with what is stored and gives the writes that differ: the collector owns some
//! properties of its resources, and leaves alone what people and other collectors set.
//!
//! # Switching
//! [`HostReader::switch`] tells the monitor of a QEMU machine to halt it, let it go on, reset or end it. It finds the process and its socket by
//! itself, so that nothing that is written into an inventory leads it to another.
//!
//! # Sampling
//! A provider keeps a copy of a server's acquisition specifications, reads the counters of the catalogue
//! (`lockstep_contract::counters`) that they ask for when they are due, and delivers the points: kept on disk while the server is
//! away, each stored by the server once. The promises stand where they are kept: [`provider`] (threads, tasks, files),
//! [`sample`] (values, what is read), [`sample::Schedule`] (times), [`spool`] (what survives).
//!
//! # How it is laid out
//! `tree` reads files below the root. `host` is the machine (`cpu`, `memory`, `disks`, `datastores`, `nics`, `addresses`,
//! `networks`), `qemu` the virtual machines: `process` finds them, `cmdline` splits their arguments, `guest`, `blocks` and
//! `netdevs` understand them, `image` reads the size of a disk, `monitor` asks QMP, `vm` puts the resource together; `libvirt` knows
//! those that do not run. `sample` builds on
//! them; `provider` drives it, between `upstream`, the server, and `spool`.
//!
//! Reading and sampling are synchronous: one `read` of a machine takes some milliseconds, so call it from a blocking thread.
//! Two threads may read at the same time. A provider brings its own threads and runs its network tasks on the caller's runtime.

mod host;
mod identity;
pub mod keeper;
mod libvirt;
mod observed;
pub mod provider;
mod qemu;
mod reader;
pub mod reconcile;
pub mod sample;
pub mod spool;
mod tree;
pub mod upstream;

pub use libvirt::{Address as LibvirtAddress, AddressError as LibvirtAddressError};
/// What to do with a machine.
pub use lockstep_contract::services::collectors::hosts::Action as SwitchAction;
pub use observed::Observed;
pub use qemu::switch::SwitchError;
pub use reader::{HostReader, ReadError};
