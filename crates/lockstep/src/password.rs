//! The administrator's password at the first start.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// The first account of every site.
pub const ADMINISTRATOR: &str = "administrator@lockstep.local";

/// Where a generated password is kept in the data directory, mode 600.
const FILE: &str = "admin-password";

/// The password from `file`: its first line.
///
/// # Errors
/// When the file cannot be read or is empty.
pub fn read(file: &Path) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => bail!("{} is empty: its first line is the password", file.display()),
    }
}

/// The password that was generated for this data directory, made when there is none. Answers whether it is new.
///
/// # Errors
/// When the file cannot be read or written, or there are no random numbers.
pub fn generated(data_dir: &Path) -> Result<(String, bool)> {
    let path = data_dir.join(FILE);
    if path.exists() {
        return Ok((read(&path)?, false));
    }
    let mut bytes = [0u8; 18];
    getrandom::fill(&mut bytes).context("no random numbers for a password")?;
    // 32 letters that are hard to confuse: 5 bits each, so 18 bytes give 90 bits and more.
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let password: String = bytes.iter().map(|b| char::from(LETTERS[usize::from(b & 31)])).collect();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    writeln!(file, "{password}")
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok((password, true))
}
