//! Who asks: sessions and passwords as HTTP carries them.
//!
//! A browser sends cookies and remembered passwords by itself, also to a request that a foreign page made it send. Such a request
//! gets no login from them unless it only reads: a page that wants to write must set the session's header, which it cannot across
//! sites.
//!
//! Source: `api/vapi-wire.md`, 3.4.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, COOKIE, HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Method, Uri};
use lockstep_contract::{Error, ErrorKind, Login, Operation, Secret};
use lockstep_site::Site;
use lockstep_site::caller::Caller;
use lockstep_site::table::Basic;

/// The header of a session's token, and the cookie of the same name.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("vmware-api-session-id");

/// What a request shows to say who asks.
#[derive(Default)]
pub(crate) struct Credentials {
    /// Tokens of sessions and access tokens, in the order in which they are tried.
    pub tokens: Vec<String>,
    /// A user name and a password.
    pub basic: Option<Basic>,
    /// Whether a login was left aside because a foreign page may have made the browser send it.
    pub is_foreign: bool,
}

impl Credentials {
    /// What the headers of a request show. `takes_cookie` says whether the cookie counts.
    pub fn from_headers(method: &Method, uri: &Uri, headers: &HeaderMap, takes_cookie: bool) -> Self {
        let cookie = takes_cookie.then(|| cookie(headers, SESSION.as_str())).flatten();
        let header = headers.get(SESSION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut credentials = Self { tokens: Vec::new(), basic: basic(headers), is_foreign: false };
        let has_ambient = cookie.is_some() || credentials.basic.is_some();
        if has_ambient && !method.is_safe() && is_cross_site(uri, headers) {
            credentials.basic = None;
            credentials.is_foreign = header.is_none();
            credentials.tokens.extend(header);
        } else {
            credentials.tokens.extend(cookie.into_iter().chain(header));
        }
        credentials.tokens.extend(bearer(headers));
        credentials
    }

    /// Whose credentials they are.
    ///
    /// # Errors
    /// As [`Site::log_in`]; `unauthorized` for a login that a foreign page may have sent. Without credentials, or with a session
    /// that is gone, the caller is anonymous, and the operation says whether that will do.
    pub async fn caller(self, operation: Option<&Operation>, site: &Site, peer: IpAddr) -> Result<Caller, Error> {
        if self.is_foreign {
            let message = "a page of another site may have sent this login: send the session's token in the header";
            let id = "lockstep.session.foreign";
            return Err(Error::new(ErrorKind::Unauthorized, id, message, Vec::new()));
        }
        // A session is begun with a password, whatever else comes with the request.
        let begins = operation.is_some_and(|operation| operation.login == Some(Login::Begins));
        let find = |token: &String| site.sessions.find(token).or_else(|| site.find_token(token));
        if !begins && let Some(user) = self.tokens.iter().find_map(find) {
            return Ok(Caller::User(user));
        }
        match self.basic {
            Some(basic) => site.log_in(&basic, peer).await.map(Caller::User),
            None => Ok(Caller::Anonymous),
        }
    }
}

/// The value of a cookie, if it has one. HTTP/2 may split cookies into several headers.
pub(crate) fn cookie(headers: &HeaderMap, wanted: &str) -> Option<String> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(';'));
    let mut tokens = cookies.filter_map(|cookie| {
        let (name, value) = cookie.trim().split_once('=')?;
        (name == wanted).then(|| value.trim_matches('"'))
    });
    tokens.find(|token| !token.is_empty()).map(str::to_owned)
}

/// What follows the scheme in `Authorization`.
fn authorization<'h>(headers: &'h HeaderMap, wanted: &str) -> Option<&'h str> {
    let (scheme, rest) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

/// The token of `Authorization: Bearer`. No browser sends one by itself.
fn bearer(headers: &HeaderMap) -> Option<String> {
    authorization(headers, "bearer").map(str::to_owned)
}

/// User name and password of `Authorization: Basic`: UTF-8, and only the first colon separates.
fn basic(headers: &HeaderMap) -> Option<Basic> {
    let encoded = authorization(headers, "basic")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some(Basic { user: user.to_owned(), password: Secret(password.to_owned()) })
}

/// Whether a browser says that a page of another origin made it send the request. Other clients say nothing.
pub(crate) fn is_cross_site(uri: &Uri, headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get("sec-fetch-site") {
        // `same-site` is another host or port of one domain, which is not this server.
        return !matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(ORIGIN) else { return false };
    // HTTP/2 has the host in the URL.
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).or_else(|| uri.authority().map(|a| a.as_str()));
    let origin = origin.to_str().unwrap_or_default();
    let origin_host = origin.split_once("://").map(|(_, host)| host);
    !matches!((origin_host, host), (Some(a), Some(b)) if a.eq_ignore_ascii_case(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, headers: &[(&str, &str)], takes_cookie: bool) -> Credentials {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        Credentials::from_headers(&method, &Uri::from_static("/rest/x"), &map, takes_cookie)
    }

    #[test]
    fn tokens_come_from_the_cookie_and_then_the_header() {
        let tokens = |headers: &[(&str, &str)]| read(Method::POST, headers, true).tokens;
        let cookie = ("cookie", "a=b; vmware-api-session-id=c1 ; d=e");
        assert_eq!(tokens(&[("vmware-api-session-id", "h1")]), ["h1"]);
        assert_eq!(tokens(&[("vmware-api-session-id", "h1"), cookie]), ["c1", "h1"]);
        assert_eq!(tokens(&[("cookie", "a=b"), ("cookie", "vmware-api-session-id=\"c2\"")]), ["c2"]);
        assert_eq!(tokens(&[("cookie", "vmware-api-session-id=; x=vmware-api-session-id")]), [""; 0]);
        assert!(read(Method::POST, &[cookie], false).tokens.is_empty());
    }

    #[test]
    fn a_bearer_token_counts_from_anywhere() {
        let bearer = ("authorization", "Bearer agent.abc");
        assert_eq!(read(Method::POST, &[bearer], true).tokens, ["agent.abc"]);
        assert_eq!(read(Method::POST, &[bearer, ("origin", "https://evil")], true).tokens, ["agent.abc"]);
    }

    #[test]
    fn basic_is_utf8_and_splits_at_the_first_colon() {
        let login =
            |value: &str| read(Method::GET, &[("authorization", value)], true).basic.map(|b| (b.user, b.password.0));
        let encode = |text: &str| format!("basic {}", STANDARD.encode(text));
        assert_eq!(login(&encode("a@b:c:d")), Some(("a@b".to_owned(), "c:d".to_owned())));
        assert_eq!(login(&encode("jörg:pässwort")), Some(("jörg".to_owned(), "pässwort".to_owned())));
        assert_eq!(login(&encode("a:")), Some(("a".to_owned(), String::new())));
        assert_eq!(login(&encode("nocolon")), None);
        assert_eq!(login("Basic !!!"), None);
        assert_eq!(login("Basic"), None);
        assert_eq!(login("Bearer YTpi"), None);
    }

    #[test]
    fn a_foreign_page_gets_no_login_for_a_write() {
        let cookie = ("cookie", "vmware-api-session-id=c");
        let check = |method: Method, more: &[(&str, &str)], tokens: &[&str], is_foreign: bool| {
            let headers: Vec<_> = [cookie, ("host", "site:8443")].into_iter().chain(more.iter().copied()).collect();
            let credentials = read(method.clone(), &headers, true);
            assert_eq!(
                (&*credentials.tokens, credentials.is_foreign),
                (&*tokens.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), is_foreign),
                "{method} {more:?}"
            );
        };
        check(Method::POST, &[], &["c"], false);
        check(Method::POST, &[("sec-fetch-site", "same-origin")], &["c"], false);
        check(Method::POST, &[("origin", "https://SITE:8443")], &["c"], false);
        check(Method::GET, &[("sec-fetch-site", "cross-site")], &["c"], false);
        check(Method::POST, &[("sec-fetch-site", "cross-site")], &[], true);
        check(Method::DELETE, &[("sec-fetch-site", "same-site")], &[], true);
        check(Method::POST, &[("origin", "https://evil")], &[], true);
        check(Method::POST, &[("origin", "https://site")], &[], true);
        check(Method::POST, &[("origin", "null")], &[], true);
        check(Method::POST, &[("origin", "https://evil"), ("vmware-api-session-id", "h")], &["h"], false);
        let basic = ("authorization", "Basic YTpi");
        assert!(read(Method::POST, &[basic, ("origin", "https://evil")], true).is_foreign);
    }
}
