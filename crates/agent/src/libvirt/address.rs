//! Where a libvirt daemon is.

use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The sockets that daemons have for readers: the one for all drivers, and QEMU's own.
const SOCKETS: [&str; 2] = ["run/libvirt/libvirt-sock-ro", "run/libvirt/virtqemud-sock-ro"];

/// A daemon on this machine, in libvirt's own notation: `qemu:///system`, or `test+unix:///default?socket=/path/of/libvirt-sock-ro`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    driver: String,
    sockets: Vec<PathBuf>,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It has no driver, or a host.
    #[error("expected a libvirt URI of this machine, as qemu:///system")]
    NotLocal,
    /// A parameter that is not known.
    #[error("unknown parameter {0:?} of a libvirt URI: there is socket=PATH")]
    Parameter(String),
}

impl Address {
    /// QEMU's driver, where the machine whose root is `root` has its daemon.
    pub(crate) fn of_machine(root: &Path) -> Self {
        let sockets = SOCKETS.iter().map(|socket| root.join(socket)).collect();
        Self { driver: "qemu:///system".to_owned(), sockets }
    }

    /// The driver, as the daemon is to be told of it.
    pub(super) fn driver(&self) -> &str {
        &self.driver
    }

    /// The socket for all that stands beside the one for readers, if it exists.
    pub(super) fn control_socket(&self) -> Option<PathBuf> {
        let reading = self.socket()?;
        let name = reading.file_name()?.to_str()?;
        Some(reading.with_file_name(name.strip_suffix("-ro").unwrap_or(name))).filter(|socket| socket.exists())
    }

    /// The first socket that exists.
    pub(super) fn socket(&self) -> Option<PathBuf> {
        self.sockets.iter().find(|socket| socket.exists()).cloned()
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (uri, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (scheme, path) = uri.split_once(":///").ok_or(AddressError::NotLocal)?;
        let driver = scheme.strip_suffix("+unix").unwrap_or(scheme);
        if driver.is_empty() || !driver.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(AddressError::NotLocal);
        }
        let mut address = Self { driver: format!("{driver}:///{path}"), ..Self::of_machine(Path::new("/")) };
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=') {
                Some(("socket", path)) if !path.is_empty() => address.sockets = vec![path.into()],
                _ => return Err(AddressError::Parameter(parameter.to_owned())),
            }
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_and_others_refused() {
        let address: Address = "test+unix:///default?socket=/a/b".parse().unwrap();
        assert_eq!(address, Address { driver: "test:///default".into(), sockets: vec!["/a/b".into()] });
        let address: Address = "qemu:///system".parse().unwrap();
        assert_eq!(address, Address::of_machine(Path::new("/")));
        assert_eq!("qemu://host/system".parse::<Address>(), Err(AddressError::NotLocal));
        assert_eq!("qemu+ssh:///system".parse::<Address>(), Err(AddressError::NotLocal));
        assert_eq!("qemu:///system?no=1".parse::<Address>(), Err(AddressError::Parameter("no=1".into())));
    }
}
