//! The other side: where it is, who we are to it, and what its answers mean.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lockstep_contract::Secret;
use parking_lot::RwLock;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::{Config, SetupError};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest part of a foreign answer that is told, in characters.
const EXCERPT_CHARS_MAX: usize = 300;

/// Bytes of an answer that is no success, read for the excerpt.
const EXCERPT_BYTES_MAX: usize = 4096;

/// Longest pause that a receiver may ask for: a date that was computed wrongly must not end forwarding.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Who we are to the store outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// A user name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// A token.
    Bearer(Secret),
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file holds none.
    #[error("the first line of {path} is neither user:password nor a bearer token")]
    Content {
        /// The file.
        path: String,
    },
}

impl Auth {
    /// Reads the first line of a file: with a colon in it `user:password`, which may have more colons, else a bearer token, which
    /// has none.
    ///
    /// # Errors
    /// [`AuthError`].
    ///
    /// Source: RFC 7617, 2; RFC 6750, 2.1.
    pub fn read(path: &Path) -> Result<Self, AuthError> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| AuthError::File { path: shown(), source })?;
        let line = text.lines().next().unwrap_or_default();
        match line.split_once(':') {
            Some((user, password)) if !line.contains(char::is_control) => {
                Ok(Self::Basic { user: user.to_owned(), password: Secret(password.to_owned()) })
            }
            None if !line.trim().is_empty() && line.trim().bytes().all(|byte| byte.is_ascii_graphic()) => {
                Ok(Self::Bearer(Secret(line.trim().to_owned())))
            }
            Some(_) | None => Err(AuthError::Content { path: shown() }),
        }
    }
}

/// What hinders, in a word: the `reason` of `lockstep_stats_remote_write_failing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens, or the name leads nowhere.
    Unreachable,
    /// The certificate of the other side is not to be trusted, or TLS fails otherwise.
    Untrusted,
    /// There was no answer in time.
    TimedOut,
    /// The connection broke, or what came is no HTTP.
    Broken,
    /// The credentials are wrong or missing.
    Login,
    /// The URL leads to something else.
    Misdirected,
    /// It asks for patience.
    Throttled,
    /// It failed.
    Failed,
    /// It understood, and does not take it.
    Refused,
    /// What was to be sent cannot be read here.
    Buffer,
}

impl Trouble {
    /// Every one.
    pub const ALL: [Self; 10] = [
        Self::Unreachable,
        Self::Untrusted,
        Self::TimedOut,
        Self::Broken,
        Self::Login,
        Self::Misdirected,
        Self::Throttled,
        Self::Failed,
        Self::Refused,
        Self::Buffer,
    ];

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Untrusted => "untrusted",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
            Self::Login => "login",
            Self::Misdirected => "misdirected",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Buffer => "buffer",
        }
    }

    /// What a status that is no success says.
    pub(super) fn of(status: StatusCode) -> Self {
        match status.as_u16() {
            401 | 403 | 407 => Self::Login,
            300..400 | 404 | 405 | 410 | 421 | 426 => Self::Misdirected,
            408 | 425 | 429 => Self::Throttled,
            400..500 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// A request that came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct PeerError {
    /// What hinders.
    pub trouble: Trouble,
    /// The status of HTTP, when there was an answer.
    pub status: Option<u16>,
    /// In words.
    pub text: String,
    /// What came with a status, as far as it was read.
    pub(crate) body: Vec<u8>,
    /// How long the other side asks us to wait.
    pub(crate) retry_after: Option<Duration>,
}

/// A URL of the store outside, and the way to it.
pub(crate) struct Peer {
    http: reqwest::Client,
    url: Url,
    /// Without what only a program reads.
    shown: String,
    auth_file: Option<PathBuf>,
    /// Replaced when the other side refuses it; held for a clone.
    auth: RwLock<Option<Auth>>,
}

impl Peer {
    /// `path` is put behind the URL's own.
    pub(crate) fn new(text: &str, path: &str, config: &Config) -> Result<Self, SetupError> {
        let mut url = check_url(text)?;
        url.set_path(&format!("{}{path}", url.path().trim_end_matches('/')));
        let auth = config.auth_file.as_deref().map(Auth::read).transpose()?;
        let is_near = is_loopback(&url);
        if auth.is_some() && url.scheme() == "http" && !is_near {
            tracing::warn!(%url, "the credentials for the store outside go over the network without TLS");
        }
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&url, config.ca_file.as_deref())?)
            .user_agent(concat!("lockstep/", env!("CARGO_PKG_VERSION")))
            // A POST that is redirected may become a GET: the URL has to be the right one.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(config.pace.timeout))
            .timeout(config.pace.timeout)
            .tcp_nodelay(true);
        if is_near {
            // A proxy would look for it on its own machine.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(SetupError::Client)?;
        let shown = format!("{}{}", url.origin().ascii_serialization(), url.path());
        Ok(Self { http, url, shown, auth_file: config.auth_file.clone(), auth: RwLock::new(auth) })
    }

    /// Where it is, for people.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends what `build` makes of a POST to the URL, and answers with a success.
    ///
    /// # Errors
    /// [`PeerError`] for everything else, what hinders in reading the answer excepted.
    pub(crate) async fn post(
        &self,
        build: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, PeerError> {
        let request = build(self.http.post(self.url.clone()));
        let auth = self.auth.read().clone();
        let request = match &auth {
            None => request,
            Some(Auth::Basic { user, password }) => request.basic_auth(user, Some(&password.0)),
            Some(Auth::Bearer(token)) => request.bearer_auth(&token.0),
        };
        let response = request.send().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let trouble = Trouble::of(status);
        if trouble == Trouble::Login {
            self.read_auth().await;
        }
        let retry_after = retry_after(response.headers(), SystemTime::now());
        let body = beginning(response).await;
        let text = format!("{} answers {status}{}", self.shown, excerpt(&body));
        Err(PeerError { trouble, status: Some(status.as_u16()), text, body, retry_after })
    }

    /// Why there was no answer, or none to its end.
    pub(crate) fn transport(&self, error: &reqwest::Error) -> PeerError {
        let mut innermost: &(dyn std::error::Error + 'static) = error;
        let (mut is_refused, mut is_tls) = (false, false);
        while let Some(source) = innermost.source() {
            innermost = source;
            is_refused |= innermost
                .downcast_ref::<std::io::Error>()
                .is_some_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused);
            is_tls |= holds_tls(innermost);
        }
        let trouble = match (error.is_timeout(), is_tls, error.is_connect()) {
            (true, _, _) => Trouble::TimedOut,
            (false, true, _) => Trouble::Untrusted,
            (false, false, true) => Trouble::Unreachable,
            (false, false, false) => Trouble::Broken,
        };
        let text = match trouble {
            Trouble::TimedOut => format!("{} does not answer in time", self.shown),
            Trouble::Untrusted => format!("no trust in {}: {innermost}", self.shown),
            Trouble::Unreachable if is_refused => format!("nothing answers at {}: connection refused", self.shown),
            Trouble::Unreachable => format!("cannot connect to {}: {innermost}", self.shown),
            _ => format!("the connection to {} broke: {innermost}", self.shown),
        };
        PeerError { trouble, status: None, text, body: Vec::new(), retry_after: None }
    }

    /// Reads the credentials again: they may have been changed since.
    async fn read_auth(&self) {
        let Some(path) = self.auth_file.clone() else { return };
        match tokio::task::spawn_blocking(move || Auth::read(&path)).await {
            Ok(Ok(auth)) => *self.auth.write() = Some(auth),
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the credentials for the store outside cannot be read"
                );
            }
            // The runtime is going down.
            Err(_) => {}
        }
    }
}

/// Whether an error is one of TLS. An I/O error holds another, over several layers, without naming it as its source.
fn holds_tls(error: &(dyn std::error::Error + 'static)) -> bool {
    match error.downcast_ref::<std::io::Error>() {
        Some(outer) => outer.get_ref().is_some_and(|inner| holds_tls(inner)),
        None => error.is::<rustls::Error>(),
    }
}

fn check_url(text: &str) -> Result<Url, SetupError> {
    let wrong = |reason| SetupError::Url { url: text.to_owned(), reason };
    let url = Url::parse(text.trim()).map_err(|_| wrong("expected http://HOST[:PORT]/PATH or https://…"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(wrong("expected http://HOST[:PORT]/PATH or https://…"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Not quoted: it may be the right password.
        let reason = "credentials belong into a file of their own, not into a URL";
        return Err(SetupError::Url { url: url.origin().ascii_serialization(), reason });
    }
    if url.fragment().is_some() {
        return Err(wrong("it has a fragment"));
    }
    Ok(url)
}

fn tls(url: &Url, ca_file: Option<&Path>) -> Result<rustls::ClientConfig, SetupError> {
    let wrong = |path: Option<&Path>, reason: String| {
        let path = path.map_or_else(|| "the system's store".to_owned(), |path| path.display().to_string());
        SetupError::Certificates { path, reason }
    };
    let roots: Vec<CertificateDer<'static>> = match ca_file {
        None => Vec::new(),
        Some(path) => {
            let pem = std::fs::read(path).map_err(|error| wrong(Some(path), error.to_string()))?;
            let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
            let roots = read.map_err(|error| wrong(Some(path), error.to_string()))?;
            if roots.is_empty() {
                return Err(wrong(Some(path), "there is none".to_owned()));
            }
            roots
        }
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(None, error.to_string()))?;
    let mut tls = if url.scheme() == "https" {
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(roots, provider)
            .map_err(|error| wrong(ca_file, error.to_string()))?;
        builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
    } else {
        // Never asked; a machine without any root can speak plain HTTP all the same.
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(tls)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `Retry-After`: seconds or a date.
///
/// Source: RFC 9110, 10.2.3.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

/// How a body begins.
async fn beginning(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < EXCERPT_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            // The status says enough.
            Ok(None) | Err(_) => break,
        }
    }
    body.truncate(EXCERPT_BYTES_MAX);
    body
}

/// How a body begins, in one line behind a colon; nothing when it is empty.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(EXCERPT_CHARS_MAX).collect();
    if line.is_empty() { line } else { format!(": {line}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_say_where_and_nothing_of_who() {
        for good in ["http://127.0.0.1:8428/api/v1/write", " https://tsdb.test/write?tenant=a\n", "http://[::1]"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "tsdb.test", "ftp://tsdb.test", "http://", "http://a/#b"] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        let error = check_url("http://me:hidden@tsdb.test/x").unwrap_err().to_string();
        assert!(error.contains("file") && !error.contains("hidden"), "{error}");
        let path = |text, more| {
            let config = Config::default();
            Peer::new(text, more, &config).unwrap().url.to_string()
        };
        assert_eq!(path("http://a:1", "/api/v1/query"), "http://a:1/api/v1/query");
        assert_eq!(path("http://a:1/p/?t=1", "/api/v1/query"), "http://a:1/p/api/v1/query?t=1");
        assert_eq!(path("http://a:1/api/v1/write", ""), "http://a:1/api/v1/write");
    }

    #[test]
    fn credentials_are_a_pair_or_a_token() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth");
        let read = |content: &str| {
            std::fs::write(&file, content).unwrap();
            Auth::read(&file)
        };
        let basic =
            |user: &str, password: &str| Auth::Basic { user: user.to_owned(), password: Secret(password.to_owned()) };
        assert_eq!(read("me:pass word:1\nmore").unwrap(), basic("me", "pass word:1"));
        assert_eq!(read("me:").unwrap(), basic("me", ""));
        assert_eq!(read("dG9rZW4=\n").unwrap(), Auth::Bearer(Secret("dG9rZW4=".to_owned())));
        for wrong in ["", "\nme:pass", "two words", "me:a\u{7}"] {
            assert!(matches!(read(wrong), Err(AuthError::Content { .. })), "{wrong:?}");
        }
        assert!(matches!(Auth::read(&dir.path().join("none")), Err(AuthError::File { .. })));
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let check = |value: &'static str, expected: Option<u64>| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{value}");
        };
        check("7", Some(7));
        check("Sun, 06 Nov 1994 08:49:47 GMT", Some(10));
        check("Sun, 06 Nov 1994 08:49:07 GMT", Some(0));
        check("999999999", Some(3600));
        check("soon", None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn a_body_is_told_in_one_short_line() {
        assert_eq!(excerpt(b"out of\n  order"), ": out of order");
        assert_eq!(excerpt(b""), "");
        assert_eq!(excerpt(&[b'x'; 1000]).len(), EXCERPT_CHARS_MAX + 2);
    }
}
