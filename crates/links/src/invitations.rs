//! Invitations: lines that let another site make one link without an account here.
//!
//! `URL#THUMBPRINT.SECRET.NAME`: where this site is, the certificate that it shows (empty without TLS), 32 random bytes in hex, what it
//! calls itself. Of the secret a hash is kept, in memory: an invitation ends when it is used, after an hour, and with the server.

use std::time::{Duration, Instant};

use lockstep_client::Thumbprint;
use lockstep_contract::{Error, ErrorKind, Secret};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// How long an invitation is good.
pub(crate) const VALID_FOR: Duration = Duration::from_secs(3600);

/// Invitations at a time.
const OPEN_MAX: usize = 100;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 4096;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Invitation {
    pub(crate) url: String,
    pub(crate) certificate: Option<Thumbprint>,
    pub(crate) secret: Secret,
    pub(crate) site: String,
}

impl Invitation {
    /// The line to hand over.
    pub(crate) fn line(&self) -> String {
        let certificate = self.certificate.map(|c| c.to_string().replace(':', "")).unwrap_or_default();
        format!("{}#{certificate}.{}.{}", self.url, self.secret.0, self.site)
    }

    /// Reads a line.
    pub(crate) fn read(line: &str) -> Option<Self> {
        let (url, rest) = line.trim().split_once('#').filter(|_| line.len() <= LINE_BYTES_MAX)?;
        let (certificate, rest) = rest.split_once('.')?;
        let (secret, site) = rest.split_once('.')?;
        let certificate = match certificate {
            "" => None,
            text => Some(text.parse().ok()?),
        };
        let is_secret = secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit());
        (is_secret && !site.is_empty()).then(|| Self {
            url: url.to_owned(),
            certificate,
            secret: Secret(secret.to_owned()),
            site: site.to_owned(),
        })
    }
}

/// The invitations that are open.
#[derive(Default)]
pub(crate) struct Invitations {
    /// Hashes of secrets, and until when they are good. Held for a look-up.
    open: Mutex<Vec<([u8; 32], Instant)>>,
}

fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

impl Invitations {
    /// A new secret.
    pub(crate) fn issue(&self) -> Result<Secret, Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::error!(%error, "no random numbers for an invitation");
            Error::internal()
        })?;
        let secret: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut open = self.open.lock();
        let now = Instant::now();
        open.retain(|(_, until)| *until > now);
        if open.len() >= OPEN_MAX {
            let message = format!("{OPEN_MAX} invitations are open: wait until one is used or an hour old");
            return Err(Error::new(ErrorKind::ResourceBusy, "lockstep.links.invitations", message, Vec::new()));
        }
        open.push((hash(&secret), now + VALID_FOR));
        Ok(Secret(secret))
    }

    /// Takes an invitation, if it is one: nobody else can use it then.
    pub(crate) fn take(&self, secret: &Secret) -> Option<Taken<'_>> {
        let wanted = hash(&secret.0);
        let mut open = self.open.lock();
        let at = open.iter().position(|(known, _)| known.ct_eq(&wanted).into())?;
        let (_, until) = open.swap_remove(at);
        (until > Instant::now()).then_some(Taken { invitations: self, hash: wanted, until, is_used: false })
    }
}

/// An invitation in use. It can be used again unless it led to a link.
pub(crate) struct Taken<'a> {
    invitations: &'a Invitations,
    hash: [u8; 32],
    until: Instant,
    is_used: bool,
}

impl Taken<'_> {
    /// It led to a link.
    pub(crate) fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.is_used {
            self.invitations.open.lock().push((self.hash, self.until));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_back_and_others_are_none() {
        let mut invitation = Invitation {
            url: "https://[::1]:8443".into(),
            certificate: Some(Thumbprint([0xab; 32])),
            secret: Secret("0f".repeat(32)),
            site: "fra.02.test".into(),
        };
        assert_eq!(Invitation::read(&format!(" {}\n", invitation.line())), Some(invitation.clone()));
        invitation.certificate = None;
        let line = invitation.line();
        assert_eq!(Invitation::read(&line), Some(invitation));
        for bad in ["", "#", "https://a", "https://a#..", "https://a#x.0.b", &line.replace("0f", "0g"), &line[..60]] {
            assert_eq!(Invitation::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_invitation_is_good_for_one_link() {
        let invitations = Invitations::default();
        let secret = invitations.issue().unwrap();
        assert!(invitations.take(&Secret("0".repeat(64))).is_none());
        let taken = invitations.take(&secret).unwrap();
        assert!(invitations.take(&secret).is_none(), "it is in use");
        drop(taken);
        invitations.take(&secret).unwrap().used();
        assert!(invitations.take(&secret).is_none());
        let issued = (0..OPEN_MAX).filter(|_| invitations.issue().is_ok()).count();
        assert_eq!((issued, invitations.issue().unwrap_err().kind), (OPEN_MAX, ErrorKind::ResourceBusy));
    }
}
