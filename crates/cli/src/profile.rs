//! The profile: what `lockstep login` remembers for the commands that follow.
//!
//! A TOML file that only its owner may read. It holds a session's token and never a password.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::private_file::PrivateFile;

/// A site, a session there, and why its certificate is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    /// The site.
    pub(crate) url: String,
    /// Who logged in.
    pub(crate) username: String,
    /// The session.
    pub(crate) token: String,
    /// Certificates to trust: the whole path of a PEM file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// The certificate to trust, by its SHA-256.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) thumbprint: Option<String>,
    /// Whether the certificate is not checked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) insecure: bool,
}

/// Where the profile is: `$XDG_CONFIG_HOME/lockstep/profile.toml`, by default below `~/.config`. None without a home.
pub(crate) fn path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(config.join("lockstep").join("profile.toml"))
}

impl Profile {
    /// The profile that was saved, if one was.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is no profile.
    pub(crate) fn load(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let profile = toml::from_str(&text);
        profile.map(Some).with_context(|| format!("{} is no profile; `lockstep login` makes a new one", path.display()))
    }

    /// Saves the profile, in place of another at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let write = || -> Result<()> {
            PrivateFile::create(path)?.finish(&toml::to_string(self)?)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Forgets the profile.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub(crate) fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_reads_back_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/profile.toml");
        assert_eq!(Profile::load(&path).unwrap(), None);
        let mut profile = Profile {
            url: "https://site.test".into(),
            username: "a\"b".into(),
            token: "t".into(),
            ca_cert: None,
            thumbprint: None,
            insecure: false,
        };
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap().as_ref(), Some(&profile));
        profile.ca_cert = Some("/x/cert.pem".into());
        profile.insecure = true;
        profile.save(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap().as_ref(), Some(&profile));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
        Profile::remove(&path).unwrap();
        Profile::remove(&path).unwrap();
        assert_eq!(Profile::load(&path).unwrap(), None);
    }

    #[test]
    fn a_file_that_is_no_profile_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.toml");
        fs::write(&path, "url = 7").unwrap();
        assert!(format!("{:#}", Profile::load(&path).unwrap_err()).contains("no profile"));
    }
}
