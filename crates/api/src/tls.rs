//! The server's certificate.
//!
//! At the first start the server makes an authority, has it sign one certificate, and throws the authority's key away: nobody can sign
//! anything else with it. `tls-cert.pem` holds both certificates and is what clients are given to trust; checkers that want an authority
//! (OpenSSL, Python) find one, those that refuse an authority as a server's own certificate (webpki) find none.

use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::{self, PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};

/// The certificates in the data directory: the server's own and the authority that signed it.
pub const CERTIFICATE_FILE: &str = "tls-cert.pem";

/// The server's private key in the data directory, readable by its owner only.
pub const KEY_FILE: &str = "tls-key.pem";

/// How many years a certificate made here is valid. Links between sites hold on to its thumbprint, so it is long.
const VALID_YEARS: i64 = 10;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not the PEM that it should be.
    #[error("{} holds no usable PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate cannot be made, mostly for a name that is none.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("cannot use the certificate with its key")]
    Use(#[from] rustls::Error),
}

/// The configuration with the certificate in `data_dir`, which is made for `names` when there is none, and its thumbprint.
///
/// `names` are host names and IP addresses that clients may use, besides this machine's name, `localhost`, `127.0.0.1` and `::1`.
///
/// # Errors
/// [`TlsError`].
pub fn load_or_create(data_dir: &Path, names: &[String]) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let (certificate, key) = (data_dir.join(CERTIFICATE_FILE), data_dir.join(KEY_FILE));
    if !certificate.exists() {
        let made = make(names)?;
        // The certificate last: when it is there, so is its key.
        write(&key, &made.key, 0o600)?;
        write(&certificate, &made.certificates, 0o644)?;
        tracing::info!(path = %certificate.display(), "made a certificate");
    }
    load(&certificate, &key)
}

/// The configuration with the certificates and the key in these files, in PEM, and the first certificate's thumbprint: its SHA-256
/// in hex with colons.
///
/// # Errors
/// [`TlsError`].
pub fn load(certificate: &Path, key: &Path) -> Result<(Arc<ServerConfig>, String), TlsError> {
    let pem = |path: &Path, source: pem::Error| match source {
        pem::Error::Io(source) => TlsError::File { path: path.to_owned(), source },
        source => TlsError::Pem { path: path.to_owned(), source },
    };
    let chain: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
    let chain = chain.map_err(|e| pem(certificate, e))?;
    let own = chain.first().ok_or_else(|| pem(certificate, pem::Error::NoItemsFound))?;
    let thumbprint = thumbprint(own);
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem(key, e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), thumbprint))
}

fn thumbprint(certificate: &CertificateDer<'_>) -> String {
    let digest = Sha256::digest(certificate);
    digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":")
}

/// A key and its certificates, as PEM.
struct Made {
    key: String,
    certificates: String,
}

fn make(names: &[String]) -> Result<Made, TlsError> {
    let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    for name in names.iter().chain(&host_name()) {
        // An address that means all addresses is none that a client could use.
        let is_any = name.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified());
        if !is_any && !name.is_empty() && !all.contains(name) {
            all.push(name.clone());
        }
    }
    let common_name = names.iter().find(|name| name.parse::<IpAddr>().is_err()).map_or("localhost", |name| name);

    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    // The key's own name in it: two sites' authorities must not be taken for one another.
    let key_id: String =
        Sha256::digest(authority_key.public_key_raw()).iter().take(4).map(|b| format!("{b:02x}")).collect();
    authority.distinguished_name = named(&format!("Lockstep authority {key_id}"));
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    authority.use_authority_key_identifier_extension = true;
    limit_validity(&mut authority);
    let authority_certificate = authority.self_signed(&authority_key)?;

    let key = KeyPair::generate()?;
    let mut own = CertificateParams::new(all)?;
    own.distinguished_name = named(common_name);
    own.is_ca = IsCa::ExplicitNoCa;
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    own.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    own.use_authority_key_identifier_extension = true;
    limit_validity(&mut own);
    let certificate = own.signed_by(&key, &Issuer::new(authority, authority_key))?;
    Ok(Made { key: key.serialize_pem(), certificates: certificate.pem() + &authority_certificate.pem() })
}

/// This machine's name, when a certificate can hold it.
fn host_name() -> Option<String> {
    let name = rustix::system::uname().nodename().to_str().ok()?.to_owned();
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    (!name.is_empty() && name.bytes().all(fits)).then_some(name)
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

/// Valid from yesterday, for clocks that are behind.
fn limit_validity(params: &mut CertificateParams) {
    let day = std::time::Duration::from_secs(86_400);
    let now = std::time::SystemTime::now();
    params.not_before = (now - day).into();
    params.not_after = (now + day * u32::try_from(VALID_YEARS * 365).unwrap_or(3650)).into();
}

/// Writes a file whole or not at all.
fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let partial = path.with_extension("partial");
    let written = (|| {
        if let Err(error) = fs::remove_file(&partial)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    })();
    written.map_err(|source| TlsError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_certificate_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let names = ["site1.example".to_owned(), "192.0.2.7".to_owned(), "0.0.0.0".to_owned()];
        let first = load_or_create(dir.path(), &names).unwrap().1;
        let second = load_or_create(dir.path(), &[]).unwrap().1;
        assert_eq!((&first, first.len()), (&second, 32 * 3 - 1));
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("c"), dir.path().join("k"));
        assert!(load(&certificate, &key).unwrap_err().to_string().contains("cannot access"));
        fs::write(&certificate, "nothing").unwrap();
        assert!(load(&certificate, &key).unwrap_err().to_string().contains("no usable PEM"));
        assert!(load_or_create(dir.path(), &["ä".to_owned()]).is_err());
    }
}
