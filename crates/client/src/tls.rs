//! Which certificate a site may show.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest as _, Sha256};

use crate::error::ClientError;

/// The SHA-256 of a certificate; as text in hex with colons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Thumbprint(pub [u8; 32]);

impl Thumbprint {
    /// The thumbprint of a certificate in DER.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl FromStr for Thumbprint {
    type Err = String;

    /// Reads 64 hex digits, with or without colons, in any case.
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|b| *b != b':').collect();
        let mut out = [0; 32];
        let value = |digit: u8| char::from(digit).to_digit(16).and_then(|v| u8::try_from(v).ok());
        let is_whole = digits.len() == 64
            && digits.chunks_exact(2).zip(&mut out).all(|(pair, byte)| match (value(pair[0]), value(pair[1])) {
                (Some(high), Some(low)) => {
                    *byte = high << 4 | low;
                    true
                }
                _ => false,
            });
        is_whole.then_some(Self(out)).ok_or_else(|| format!("{text:?} is no SHA-256 thumbprint of 64 hex digits"))
    }
}

/// Which certificate a site may show.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// One that the system's roots vouch for.
    #[default]
    System,
    /// One that these vouch for, or that is one of them.
    Roots(Vec<CertificateDer<'static>>),
    /// The one with this thumbprint, whatever it says.
    Thumbprint(Thumbprint),
    /// Any: who sits in between can read and change everything.
    Anything,
}

impl Trust {
    /// Trust in the certificates of a PEM text.
    ///
    /// # Errors
    /// [`ClientError::Roots`] when it holds none or is malformed.
    pub fn from_pem(pem: &[u8]) -> Result<Self, ClientError> {
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|e| ClientError::Roots(format!("not PEM: {e}")))?;
        if roots.is_empty() {
            return Err(ClientError::Roots("no certificate in the PEM text".to_owned()));
        }
        Ok(Self::Roots(roots))
    }
}

/// A certificate that was refused.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    pub(crate) thumbprint: Thumbprint,
    pub(crate) reason: String,
}

/// Decides by [`Trust`], and keeps what it refused last: the error that comes out of the HTTP client does not show it.
#[derive(Debug)]
pub(crate) struct Verifier {
    trust: Trust,
    provider: Arc<CryptoProvider>,
    /// Who decides by roots; none where a rule of ours decides alone.
    by_roots: Result<Option<Arc<dyn ServerCertVerifier>>, String>,
    /// Held for an assignment.
    rejected: Mutex<Option<Rejected>>,
    /// What was accepted last. Held for an assignment.
    accepted: Mutex<Option<Thumbprint>>,
}

impl Verifier {
    pub(crate) fn new(trust: Trust, provider: Arc<CryptoProvider>) -> Result<Self, ClientError> {
        let by_roots: Result<Option<Arc<dyn ServerCertVerifier>>, String> = match &trust {
            Trust::Thumbprint(_) | Trust::Anything => Ok(None),
            // A machine without any root trusts nobody; that is told when a certificate is shown, not before.
            Trust::System => rustls_platform_verifier::Verifier::new(provider.clone())
                .map(|v| Some(Arc::new(v) as Arc<dyn ServerCertVerifier>))
                .map_err(|e| e.to_string()),
            Trust::Roots(roots) => {
                let mut store = RootCertStore::empty();
                for root in roots {
                    store.add(root.clone()).map_err(|e| ClientError::Roots(e.to_string()))?;
                }
                let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build();
                Ok(Some(verifier.map_err(|e| ClientError::Roots(e.to_string()))?))
            }
        };
        Ok(Self { trust, provider, by_roots, rejected: Mutex::default(), accepted: Mutex::default() })
    }

    /// The certificate that was refused since the last time this was asked.
    pub(crate) fn take_rejected(&self) -> Option<Rejected> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The certificate that was accepted last.
    pub(crate) fn accepted(&self) -> Option<Thumbprint> {
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        time: UnixTime,
    ) -> Result<(), (rustls::Error, String)> {
        match &self.trust {
            Trust::Anything => return Ok(()),
            Trust::Thumbprint(pinned) if *pinned == Thumbprint::of(certificate) => return Ok(()),
            Trust::Thumbprint(_) => {
                let error = CertificateError::ApplicationVerificationFailure.into();
                return Err((error, "it is not the one that was pinned".to_owned()));
            }
            // A certificate that is its own anchor says that it may sign others, and such a one no path can end with.
            Trust::Roots(roots) if roots.iter().any(|root| root == certificate) => {
                let parsed = ParsedCertificate::try_from(certificate).map_err(|e| (e.clone(), e.to_string()))?;
                return rustls::client::verify_server_name(&parsed, name).map_err(|e| (e.clone(), reason(&e)));
            }
            Trust::Roots(_) | Trust::System => {}
        }
        let unknown = || rustls::Error::from(CertificateError::UnknownIssuer);
        match &self.by_roots {
            Ok(Some(verifier)) => verifier
                .verify_server_cert(certificate, intermediates, name, ocsp_response, time)
                .map(|_| ())
                .map_err(|e| (e.clone(), reason(&e))),
            Ok(None) => Err((unknown(), "nobody vouches for it".to_owned())),
            Err(why) => Err((unknown(), why.clone())),
        }
    }
}

/// The error in the words of who has to decide what to do about it.
fn reason(error: &rustls::Error) -> String {
    match error {
        // Of a self-signed one the checks say first, and in words of their own, that it may sign others.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::Other(_)) => {
            "nobody who is trusted vouches for it".to_owned()
        }
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "it has expired".to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "it is for another name or address".to_owned(),
        other => other.to_string(),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp_response: &[u8],
        time: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.decide(certificate, intermediates, name, ocsp_response, time) {
            Ok(()) => {
                let accepted = Thumbprint::of(certificate);
                *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
                Ok(ServerCertVerified::assertion())
            }
            Err((error, reason)) => {
                let rejected = Rejected { thumbprint: Thumbprint::of(certificate), reason };
                *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = Some(rejected);
                Err(error)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_reads_back() {
        let thumbprint = Thumbprint::of(b"certificate");
        let text = thumbprint.to_string();
        assert_eq!(text.len(), 95);
        for spelling in [text.clone(), text.to_lowercase(), text.replace(':', "")] {
            assert_eq!(spelling.parse(), Ok(thumbprint));
        }
        for bad in ["", "AB", &text[1..], &text.replace('A', "G").replace('0', "X")] {
            assert!(bad.parse::<Thumbprint>().is_err(), "{bad}");
        }
    }

    fn certificate(name: &str) -> CertificateDer<'static> {
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn check(trust: Trust, certificate: &CertificateDer<'_>, name: &str) -> Result<(), String> {
        let verifier = Verifier::new(trust, Arc::new(rustls::crypto::ring::default_provider())).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let result = verifier.verify_server_cert(certificate, &[], &name, &[], UnixTime::now());
        match (result, verifier.take_rejected()) {
            (Ok(_), None) => Ok(()),
            (Err(_), Some(rejected)) => {
                assert_eq!(rejected.thumbprint, Thumbprint::of(certificate));
                Err(rejected.reason)
            }
            (result, rejected) => panic!("{result:?} with {rejected:?}"),
        }
    }

    #[test]
    fn a_certificate_is_its_own_anchor_for_its_own_name() {
        let (ours, other) = (certificate("site.test"), certificate("site.test"));
        let roots = || Trust::Roots(vec![ours.clone()]);
        assert_eq!(check(roots(), &ours, "site.test"), Ok(()));
        assert!(check(roots(), &ours, "else.test").unwrap_err().contains("another name"));
        assert!(check(roots(), &other, "site.test").is_err());
        assert!(check(Trust::System, &ours, "site.test").is_err());
        assert_eq!(check(Trust::Anything, &ours, "else.test"), Ok(()));
        assert_eq!(check(Trust::Thumbprint(Thumbprint::of(&ours)), &ours, "else.test"), Ok(()));
        assert!(check(Trust::Thumbprint(Thumbprint::of(&ours)), &other, "site.test").unwrap_err().contains("pinned"));
    }

    #[test]
    fn a_pem_text_without_certificates_is_refused() {
        assert!(Trust::from_pem(b"").is_err());
        assert!(Trust::from_pem(b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").is_err());
    }
}
