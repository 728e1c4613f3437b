//! Connections to a peer whose certificate is decided upon by [`Trust`]: what every client here is built on, whatever it speaks.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{self, ClientError};
use crate::tls::{Thumbprint, Trust, Verifier};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long a peer that has vanished without a word is noticed. An answer may take any time: long polls wait.
const VANISHED_AFTER: Duration = Duration::from_secs(30);

/// An HTTP client for one peer, which tells what it refused to trust.
#[derive(Debug, Clone)]
pub struct Connector {
    pub(crate) http: reqwest::Client,
    pub(crate) verifier: Arc<Verifier>,
}

impl Connector {
    /// A client for the peer at `url`; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Roots`], [`ClientError::Setup`].
    pub fn new(url: &reqwest::Url, trust: Trust) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(trust, provider.clone())?);
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| ClientError::Roots(e.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(VANISHED_AFTER / 3)
            .tcp_keepalive_interval(VANISHED_AFTER / 6)
            .tcp_nodelay(true);
        if is_loopback(url) {
            // A proxy would look for the site on its own machine.
            builder = builder.no_proxy();
        }
        #[cfg(target_os = "linux")]
        {
            builder = builder.tcp_user_timeout(VANISHED_AFTER);
        }
        let http = builder.build().map_err(ClientError::Setup)?;
        Ok(Self { http, verifier })
    }

    /// What requests are made with. Redirections are not followed.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// The certificate that the peer showed last and that was trusted; `None` before the first request, and without TLS.
    pub fn certificate(&self) -> Option<Thumbprint> {
        self.verifier.accepted()
    }

    /// Why a request to `url` found no answer: [`ClientError::Untrusted`], or what failed in the transport.
    pub fn failure(&self, url: &str, error: &reqwest::Error) -> ClientError {
        failure(&self.verifier, url, error)
    }
}

pub(crate) fn failure(verifier: &Verifier, url: &str, error: &reqwest::Error) -> ClientError {
    match verifier.take_rejected() {
        Some(rejected) => {
            ClientError::Untrusted { url: url.to_owned(), reason: rejected.reason, thumbprint: rejected.thumbprint }
        }
        None => error::transport(url, error),
    }
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_told_apart() {
        for (url, expected) in [
            ("http://127.0.0.1:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:1", true),
            ("http://localhost", true),
            ("http://10.0.0.1", false),
            ("http://localhost.test", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }
}
