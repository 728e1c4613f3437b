//! A client of one site.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use lockstep_contract::services::stats::cache;
use lockstep_contract::services::{NoInput, session};
use lockstep_contract::{Data, Declared, Encoding, Opaque, Operation, Place, Secret, Wire};
use tokio::sync::Mutex;

use crate::connector::{self, Connector};
use crate::error::{self, ClientError};
use crate::request::Request;
use crate::tls::{Thumbprint, Trust, Verifier};

/// Longest answer to a call unless said otherwise, in bytes; beyond it the answer counts as foreign. Streams have no such limit.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The header that carries the id of an operation.
const OPERATION_ID_HEADER: &str = "x-request-id";

/// The header that carries the session's token.
const SESSION_HEADER: &str = "vmware-api-session-id";

/// Who calls.
#[derive(Debug, Clone)]
pub enum Login {
    /// Nobody: for what needs no login.
    Anonymous,
    /// An account: sessions are made when they are needed.
    Password {
        /// The user's name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A session that exists.
    Token(Secret),
}

/// Which site, as whom, and what it may show.
#[derive(Debug, Clone)]
pub struct Config {
    /// The site, e.g. `https://127.0.0.1:8443`.
    pub url: String,
    /// Who calls.
    pub login: Login,
    /// Which certificate the site may show.
    pub trust: Trust,
}

/// A client of one site. Clones share the connections and the session.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    answer_bytes_max: usize,
    /// What ties the log lines of a call together, here and there.
    operation_id: Option<Arc<str>>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest::Client,
    /// Without a slash at the end.
    url: String,
    login: Login,
    verifier: Arc<Verifier>,
    /// The session that was made. Held while logging in, so that calls which miss it at the same time make one.
    session: Mutex<Option<Secret>>,
}

/// A result with what the answer's headers say of it.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// The result.
    pub output: T,
    /// The moment it is from, as a token of the change feed: `Lockstep-Sequence`.
    pub sequence: Option<String>,
    /// The same as a position: `Lockstep-Position`.
    pub position: Option<u64>,
    /// What it cost: `Lockstep-Cost`.
    pub cost: Option<String>,
    /// The epoch up to which it tells all: `Lockstep-End-Epoch`.
    pub end_epoch: Option<i64>,
}

impl Client {
    /// A client; nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Url`], [`ClientError::Roots`], [`ClientError::Setup`].
    pub fn new(config: Config) -> Result<Self, ClientError> {
        let url = site_url(&config.url)?;
        let Connector { http, verifier } = Connector::new(&url, config.trust)?;
        let url = url.as_str().trim_end_matches('/').to_owned();
        let inner = Inner { http, url, login: config.login, verifier, session: Mutex::default() };
        Ok(Self { inner: Arc::new(inner), answer_bytes_max: ANSWER_BYTES_MAX, operation_id: None })
    }

    /// The same client, which takes answers of so many bytes at the most: for sites that are not trusted to keep to any measure.
    #[must_use]
    pub fn answers_up_to(mut self, bytes: usize) -> Self {
        self.answer_bytes_max = bytes;
        self
    }

    /// The same client, whose calls carry this id into the log of the site.
    #[must_use]
    pub fn with_operation_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.operation_id = Some(id.into());
        self
    }

    /// The certificate that the site showed last and that was trusted; `None` before the first call, and without TLS.
    pub fn certificate(&self) -> Option<Thumbprint> {
        self.inner.verifier.accepted()
    }

    /// The site's URL, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Calls an operation.
    ///
    /// # Errors
    /// [`ClientError::Refusal`] is the operation's own; the rest did not get as far.
    pub async fn call<O: Declared>(&self, operation: O, input: O::Input) -> Result<O::Output, ClientError> {
        self.ask(operation, input).await.map(|answer| answer.output)
    }

    /// Calls an operation, and reads the headers of its answer too.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn ask<O: Declared>(&self, _: O, input: O::Input) -> Result<Answer<O::Output>, ClientError> {
        let operation = const { &O::OPERATION };
        let response = self.respond(Request::new(operation, &input)?).await?;
        let headers = response.headers().clone();
        let body = self.body(response).await?;
        let output = self.decode(operation, &body)?;
        Ok(Answer {
            output,
            sequence: text_header(&headers, "lockstep-sequence"),
            position: text_header(&headers, "lockstep-position").and_then(|text| text.parse().ok()),
            cost: text_header(&headers, "lockstep-cost"),
            end_epoch: text_header(&headers, cache::END_EPOCH_HEADER).and_then(|text| text.parse().ok()),
        })
    }

    /// Calls an operation with parameters that have been read as a tree, and answers one: to pass on what somebody else has asked for.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn relay(&self, operation: &Operation, input: Data) -> Result<Data, ClientError> {
        let response = self.respond(Request::new(operation, &Opaque(input))?).await?;
        let body = self.body(response).await?;
        self.decode::<Opaque>(operation, &body).map(|Opaque(data)| data)
    }

    async fn respond(&self, request: Request) -> Result<reqwest::Response, ClientError> {
        Box::pin(self.send(|| {
            let mut builder = self.inner.http.request(request.method.clone(), self.at(&request.path_and_query));
            if let Some(id) = &self.operation_id {
                builder = builder.header(OPERATION_ID_HEADER, &**id);
            }
            match &request.body {
                None => builder,
                Some(body) => builder.header(http::header::CONTENT_TYPE, request.content_type).body(body.clone()),
            }
        }))
        .await
    }

    /// Logs in, unless that has been done, and answers the session's token. For [`Login::Token`] that is the token.
    ///
    /// # Errors
    /// [`ClientError::LoginRefused`], [`ClientError::LoginMissing`], and what hinders a call.
    pub async fn login(&self) -> Result<Secret, ClientError> {
        self.token().await?.ok_or_else(|| ClientError::LoginMissing { url: self.url().to_owned() })
    }

    /// Ends the session that this client made. One that was given goes on.
    ///
    /// # Errors
    /// What hinders a call; that the session is gone already is no error.
    pub async fn close(&self) -> Result<(), ClientError> {
        let Some(token) = self.inner.session.lock().await.take() else { return Ok(()) };
        self.end_session(&token).await
    }

    /// Ends a session, whoever made it.
    ///
    /// # Errors
    /// What hinders a call; that the session is gone already is no error.
    pub async fn end_session(&self, token: &Secret) -> Result<(), ClientError> {
        let request = Request::new(&session::Delete::OPERATION, &NoInput {})?;
        let builder = self.inner.http.request(request.method, self.at(&request.path_and_query));
        match self.outcome(builder.header(SESSION_HEADER, &token.0)).await {
            Err(error) if error.kind() == Some(lockstep_contract::ErrorKind::Unauthenticated) => Ok(()),
            outcome => outcome.map(|_| ()),
        }
    }

    /// The whole URL of a path under the site.
    pub(crate) fn at(&self, path_and_query: &str) -> String {
        format!("{}{path_and_query}", self.url())
    }

    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.inner.http
    }

    /// Sends what `build` makes, with the session; once more with a new one when the site does not know it.
    ///
    /// # Errors
    /// Also for an answer that is an error.
    pub(crate) async fn send(
        &self,
        build: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, ClientError> {
        let token = self.token().await?;
        match self.outcome(with_token(build(), token.as_ref())).await {
            Err(ClientError::Refusal { status: 401, .. }) => {}
            outcome => return outcome,
        }
        let token = self.renew(token).await?;
        match self.outcome(with_token(build(), Some(&token))).await {
            Err(ClientError::Refusal { status: 401, .. }) => {
                Err(ClientError::SessionEnded { url: self.url().to_owned() })
            }
            outcome => outcome,
        }
    }

    /// The session to call with; one is made when there is none yet.
    pub(crate) async fn token(&self) -> Result<Option<Secret>, ClientError> {
        match &self.inner.login {
            Login::Anonymous => Ok(None),
            Login::Token(token) => Ok(Some(token.clone())),
            Login::Password { .. } => self.renew(None).await.map(Some),
        }
    }

    /// The session to call with after the site has refused `refused`.
    pub(crate) async fn renew(&self, refused: Option<Secret>) -> Result<Secret, ClientError> {
        match &self.inner.login {
            Login::Anonymous => Err(ClientError::LoginMissing { url: self.url().to_owned() }),
            Login::Token(_) => Err(ClientError::SessionEnded { url: self.url().to_owned() }),
            Login::Password { username, password } => {
                let mut session = self.inner.session.lock().await;
                match &*session {
                    // Somebody else may have replaced it while this call was under way.
                    Some(token) if Some(token) != refused.as_ref() => Ok(token.clone()),
                    _ => {
                        *session = None;
                        let token = Box::pin(self.new_session(username, password)).await?;
                        *session = Some(token.clone());
                        Ok(token)
                    }
                }
            }
        }
    }

    async fn new_session(&self, username: &str, password: &Secret) -> Result<Secret, ClientError> {
        let request = Request::new(&session::Create::OPERATION, &NoInput {})?;
        let builder = self.inner.http.request(request.method, self.at(&request.path_and_query));
        match self.outcome(builder.basic_auth(username, Some(&password.0))).await {
            Err(ClientError::Refusal { status: 401, .. }) => {
                Err(ClientError::LoginRefused { url: self.url().to_owned(), username: username.to_owned() })
            }
            Err(error) => Err(error),
            Ok(response) => {
                let body = self.body(response).await?;
                self.decode(&session::Create::OPERATION, &body)
            }
        }
    }

    /// Sends a request, and sorts what comes of it: an answer, or why there is none.
    pub(crate) async fn outcome(&self, builder: reqwest::RequestBuilder) -> Result<reqwest::Response, ClientError> {
        let response = builder.send().await.map_err(|e| self.transport(&e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.body(response).await?;
        Err(self.refusal(status, &body))
    }

    /// The body of an answer, up to the limit.
    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, ClientError> {
        let status = response.status().as_u16();
        let too_long = |seen: &[u8]| ClientError::Foreign {
            url: self.url().to_owned(),
            status,
            excerpt: format!("more than {} bytes: {}", self.answer_bytes_max, error::excerpt(seen)),
        };
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| error::transport(self.url(), &e))? {
            if body.len() + chunk.len() > self.answer_bytes_max {
                return Err(too_long(&body));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    /// Why a request found no answer.
    pub(crate) fn transport(&self, error: &reqwest::Error) -> ClientError {
        connector::failure(&self.inner.verifier, self.url(), error)
    }

    /// What an answer that is no success says.
    pub(crate) fn refusal(&self, status: StatusCode, body: &Bytes) -> ClientError {
        match error::read_error(body) {
            Some(error) => ClientError::Refusal { status: status.as_u16(), error },
            None => {
                let excerpt = error::excerpt(body);
                ClientError::Foreign { url: self.url().to_owned(), status: status.as_u16(), excerpt }
            }
        }
    }

    fn decode<T: Wire>(&self, operation: &Operation, body: &Bytes) -> Result<T, ClientError> {
        let data = if body.is_empty() { Ok(Data::Null) } else { Data::from_json(body) };
        let data = data.map_err(|_| ClientError::Foreign {
            url: self.url().to_owned(),
            status: 200,
            excerpt: error::excerpt(body),
        })?;
        T::decode(data, &Place::root(Encoding::Plain))
            .map_err(|fault| ClientError::Misfit { operation: operation.full_name(), fault })
    }
}

pub(crate) fn with_token(builder: reqwest::RequestBuilder, token: Option<&Secret>) -> reqwest::RequestBuilder {
    match token {
        Some(token) => builder.header(SESSION_HEADER, &token.0),
        None => builder,
    }
}

pub(crate) fn text_header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The URL of a site: a scheme, a host, perhaps a port, and nothing behind.
fn site_url(text: &str) -> Result<reqwest::Url, ClientError> {
    let wrong = || ClientError::Url { url: text.to_owned() };
    let url = reqwest::Url::parse(text.trim()).map_err(|_| wrong())?;
    let is_site = matches!(url.scheme(), "https" | "http")
        && url.host().is_some()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_site { Ok(url) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_a_scheme_a_host_and_a_port() {
        for (good, expected) in [
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("https://site.test/", "https://site.test"),
            ("http://[::1]:80", "http://[::1]"),
            (" https://site.test:443\n", "https://site.test"),
        ] {
            let config = Config { url: good.to_owned(), login: Login::Anonymous, trust: Trust::Anything };
            assert_eq!(Client::new(config).unwrap().url(), expected);
        }
        for bad in [
            "",
            "site.test",
            "site.test:8443",
            "ftp://site.test",
            "https://",
            "https://a/b",
            "https://a?b",
            "https://u:p@a",
        ] {
            assert!(matches!(site_url(bad), Err(ClientError::Url { .. })), "{bad}");
        }
    }

    #[tokio::test]
    async fn who_does_not_listen_refuses() {
        // A port that was free a moment ago.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let client = Client::new(Config { url, login: Login::Anonymous, trust: Trust::System }).unwrap();
        let error = client.call(session::Get, NoInput {}).await.unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error:?}");
        assert!(error.is_transient() && error.is_unsent());
    }
}
