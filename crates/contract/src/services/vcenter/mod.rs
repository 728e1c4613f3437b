//! The inventory as vCenter's clients list it: `com.vmware.vcenter`.
//!
//! What these structures demand and the inventory does not know is told the same way everywhere: an enumeration as `UNKNOWN`, a constant that
//! clients of vCenter take as one of a later version; an identifier as an empty text; anything else as the default that the interface gives it
//! when it is created, or as zero.
//!
//! Source: the metadata of VMware's Python SDK, module `com.vmware.vcenter_client`; paths as vCenter serves them since 7.0 U2.

pub mod cluster;
pub mod datacenter;
pub mod datastore;
pub mod folder;
pub mod guest_power;
pub mod host;
pub mod network;
pub mod power;
pub mod resource_pool;
pub mod vm;
pub mod vm_hardware;
