//! Where the measured server is, and how to log in to it.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use rustls::ClientConfig;

use crate::http::client::Client;
use crate::http::tls;

/// The header that carries a session.
pub const SESSION_HEADER: &str = "vmware-api-session-id";

/// The account that a new server makes.
const ADMINISTRATOR: &str = "administrator@lockstep.local";

/// The measured server.
#[derive(Args, Clone)]
pub struct ServerArgs {
    /// Address of the server, e.g. `http://127.0.0.1:8080` (`serve --plain-http`) or `https://127.0.0.1:8443`.
    #[arg(long, env = "LOCKSTEP_URL")]
    url: String,
    #[arg(long, env = "LOCKSTEP_USERNAME", default_value = ADMINISTRATOR)]
    user: String,
    #[arg(long, env = "LOCKSTEP_PASSWORD", hide_env_values = true)]
    password: String,
    /// Certificates to trust; without it any certificate is accepted.
    #[arg(long, env = "LOCKSTEP_CA_CERT", value_name = "FILE")]
    ca_cert: Option<PathBuf>,
}

/// A server that one can connect to.
#[derive(Clone)]
pub struct Server {
    /// `host:port`.
    pub address: String,
    tls: Option<Arc<ClientConfig>>,
    user: String,
    password: String,
}

impl Server {
    pub fn new(args: &ServerArgs) -> anyhow::Result<Self> {
        let (is_tls, address) = split_url(&args.url)?;
        let tls = if is_tls { Some(tls::config(args.ca_cert.as_deref())?) } else { None };
        Ok(Server { address, tls, user: args.user.clone(), password: args.password.clone() })
    }

    /// A server on this machine that speaks plain HTTP, as the tool itself starts them. `password` is the administrator's.
    pub fn plain(address: &str, password: &str) -> Self {
        Server { address: address.to_owned(), tls: None, user: ADMINISTRATOR.to_owned(), password: password.to_owned() }
    }

    /// A server on this machine with a certificate of its own, as the tool itself starts them.
    pub fn with_tls(address: &str, password: &str) -> anyhow::Result<Self> {
        Ok(Server { tls: Some(tls::config(None)?), ..Self::plain(address, password) })
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A new connection without a session.
    pub fn connect(&self) -> anyhow::Result<Client> {
        Client::connect(&self.address, self.tls.as_ref())
    }

    /// Logs in and returns the session.
    pub fn login(&self) -> anyhow::Result<String> {
        let mut client = self.connect()?;
        let credentials = STANDARD.encode(format!("{}:{}", self.user, self.password));
        client.set_header("authorization", &format!("Basic {credentials}"));
        let answer = client.request("POST", "/api/session", b"")?;
        let text = String::from_utf8_lossy(&answer.body);
        ensure!(answer.status == 201, "login as {}: status {}: {text}", self.user, answer.status);
        serde_json::from_str(&text).with_context(|| format!("login answered {text}"))
    }

    /// A new connection with a session of its own.
    pub fn connect_logged_in(&self) -> anyhow::Result<Client> {
        let session = self.login()?;
        let mut client = self.connect()?;
        client.set_header(SESSION_HEADER, &session);
        Ok(client)
    }
}

/// Whether the URL asks for TLS, and its `host:port`.
fn split_url(url: &str) -> anyhow::Result<(bool, String)> {
    let (scheme, rest) = url.split_once("://").ok_or_else(|| anyhow!("{url} is not a URL"))?;
    let (is_tls, port) = match scheme {
        "http" => (false, 80),
        "https" => (true, 443),
        _ => return Err(anyhow!("{scheme} in {url} is neither http nor https")),
    };
    let rest = rest.trim_end_matches('/');
    ensure!(!rest.is_empty() && !rest.contains(['/', '@', '?']), "{url}: only a host and a port are supported");
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok((is_tls, if has_port { rest.to_owned() } else { format!("{rest}:{port}") }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_a_host_and_a_port() {
        let check = |url: &str, expected: (bool, &str)| {
            assert_eq!(split_url(url).unwrap(), (expected.0, expected.1.to_owned()), "{url}");
        };
        check("http://127.0.0.1:8080", (false, "127.0.0.1:8080"));
        check("https://localhost:8443/", (true, "localhost:8443"));
        check("https://lockstep.example", (true, "lockstep.example:443"));
        check("http://[::1]:8080", (false, "[::1]:8080"));
        for url in ["127.0.0.1:80", "ftp://x", "http://", "http://a/b", "http://u@h"] {
            assert!(split_url(url).is_err(), "{url}");
        }
    }
}
