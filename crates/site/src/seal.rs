//! Sealing: what must be kept and must not be read from the journal's files alone.
//!
//! The key stands in a file of its own, `seal-key`, 32 bytes that only the server's user may read, made at the first need. What is
//! sealed is `nonce ‖ ChaCha20-Poly1305 ciphertext`, in hex, bound to what it is for: what was sealed for one link or collector does not open for another.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use lockstep_contract::Secret;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;

/// The file of the key in the data directory.
pub const KEY_FILE: &str = "seal-key";

const KEY_BYTES: usize = 32;

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file cannot be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key's file is not 32 bytes long.
    #[error("{} is not a key of {KEY_BYTES} bytes", path.display())]
    Key {
        /// The file.
        path: PathBuf,
    },
    /// The operating system gives no random numbers.
    #[error("no random numbers")]
    Random,
    /// What was sealed is damaged, or was sealed with another key or for something else.
    #[error("it was sealed with another key, or is damaged")]
    Unsealable,
}

/// Seals and opens with the key of one data directory.
pub struct Sealer {
    key: LessSafeKey,
    root: hmac::Key,
}

impl Sealer {
    /// With the key in `data_dir`, which is made when there is none.
    ///
    /// # Errors
    /// [`SealError`]: the key cannot be read or made.
    pub fn open(data_dir: &Path) -> Result<Self, SealError> {
        let path = data_dir.join(KEY_FILE);
        let file_error = |source| SealError::File { path: path.clone(), source };
        if !path.exists() {
            make(&path)?;
        }
        let mut bytes = Vec::new();
        let mut file = fs::File::open(&path).map_err(file_error)?;
        (&mut file).take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(file_error)?;
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).map_err(|_| SealError::Key { path: path.clone() })?;
        let root = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        Ok(Self { key: LessSafeKey::new(key), root })
    }

    /// A key for `purpose`, the same each time: HMAC-SHA256 of it under the file's key.
    pub fn derive<const N: usize>(&self, purpose: &str) -> [u8; N] {
        const { assert!(N <= ring::digest::SHA256_OUTPUT_LEN, "a key is part of an HMAC") };
        let mut derived = [0; N];
        derived.copy_from_slice(&hmac::sign(&self.root, purpose.as_bytes()).as_ref()[..N]);
        derived
    }

    /// Seals a secret for `purpose`.
    ///
    /// # Errors
    /// [`SealError::Random`].
    pub fn seal(&self, purpose: &str, secret: &Secret) -> Result<String, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::Random)?;
        let mut data = secret.0.clone().into_bytes();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(purpose.as_bytes()), &mut data)
            .map_err(|_| SealError::Unsealable)?;
        Ok(nonce.iter().chain(&data).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Opens what was sealed for `purpose`.
    ///
    /// # Errors
    /// [`SealError::Unsealable`].
    pub fn open_sealed(&self, purpose: &str, sealed: &str) -> Result<Secret, SealError> {
        let bytes = hex(sealed).ok_or(SealError::Unsealable)?;
        let (nonce, data) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Unsealable)?;
        let mut data = data.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = self.key.open_in_place(nonce, Aad::from(purpose.as_bytes()), &mut data);
        let plain = plain.map_err(|_| SealError::Unsealable)?;
        String::from_utf8(plain.to_vec()).map(Secret).map_err(|_| SealError::Unsealable)
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Makes the key's file: there whole or not at all, and never replaced.
fn make(path: &Path) -> Result<(), SealError> {
    let mut key = [0; KEY_BYTES];
    getrandom::fill(&mut key).map_err(|_| SealError::Random)?;
    let partial = path.with_extension("partial");
    let written = (|| {
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(&key)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        match path.parent() {
            Some(parent) => fs::File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    })();
    written.map_err(|source| SealError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_for_the_same_purpose_only() {
        let dir = tempfile::tempdir().unwrap();
        let secret = Secret("link-1.0123".to_owned());
        let sealed = Sealer::open(dir.path()).unwrap().seal("link-1", &secret).unwrap();
        assert!(!sealed.contains("0123") && sealed.len() > 2 * (NONCE_LEN + secret.0.len()));
        let again = Sealer::open(dir.path()).unwrap();
        assert_eq!(again.open_sealed("link-1", &sealed).unwrap(), secret);
        assert_ne!(again.seal("link-1", &secret).unwrap(), sealed, "no nonce comes twice");
        let derived: [u8; 16] = again.derive("one");
        assert_eq!(Sealer::open(dir.path()).unwrap().derive("one"), derived);
        assert_ne!(again.derive("another"), derived);
        let mode = fs::metadata(dir.path().join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let other = tempfile::tempdir().unwrap();
        let other = Sealer::open(other.path()).unwrap();
        let mut flipped = sealed.clone();
        flipped.replace_range(30..31, if &sealed[30..31] == "0" { "1" } else { "0" });
        for (sealer, purpose, sealed) in [
            (&other, "link-1", &*sealed),
            (&again, "link-2", &*sealed),
            (&again, "link-1", &*flipped),
            (&again, "link-1", ""),
            (&again, "link-1", "abc"),
            (&again, "link-1", "zz"),
        ] {
            assert!(matches!(sealer.open_sealed(purpose, sealed), Err(SealError::Unsealable)), "{sealed}");
        }
    }

    #[test]
    fn a_key_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for length in [0, 31, 33] {
            fs::write(dir.path().join(KEY_FILE), vec![7; length]).unwrap();
            assert!(matches!(Sealer::open(dir.path()), Err(SealError::Key { .. })), "{length}");
        }
    }
}
