//! Which format a request is in, and which its answer shall have.
//!
//! Source: `api/vapi-wire.md`, 3.6; `api/cis-data-and-cdc.md`, A8.

use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `application/json`.
    Json,
    /// `application/xml`.
    Xml,
    /// The same under its older name `text/xml`, for clients that asked for that.
    TextXml,
    /// `application/octet-stream`: requests only, of operations with a parameter of bytes that is the body.
    Bytes,
}

impl Format {
    /// The value of the header Content-Type.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Xml => "application/xml",
            Self::TextXml => "text/xml; charset=utf-8",
            Self::Bytes => "application/octet-stream",
        }
    }

    pub fn is_xml(self) -> bool {
        matches!(self, Self::Xml | Self::TextXml)
    }

    fn of(media_type: &str) -> Option<Self> {
        let is = |name: &str| media_type.eq_ignore_ascii_case(name);
        let lower = media_type.to_ascii_lowercase();
        match () {
            () if is("application/json") || (lower.starts_with("application/") && lower.ends_with("+json")) => {
                Some(Self::Json)
            }
            () if is("application/xml") => Some(Self::Xml),
            () if is("text/xml") => Some(Self::TextXml),
            () if is("application/octet-stream") => Some(Self::Bytes),
            () => None,
        }
    }
}

/// The media type of a header's value, without parameters.
fn media_type(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

/// The media type of the request's body, without parameters; empty when the header is missing or no text.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).map(media_type).unwrap_or_default()
}

/// The format of the request's body; JSON when it does not say.
pub(crate) fn of_request(headers: &HeaderMap) -> Option<Format> {
    match headers.contains_key(CONTENT_TYPE) {
        true => Format::of(content_type(headers)),
        false => Some(Format::Json),
    }
}

/// The format of the answer to a request in `own` format: what Accept prefers, and the request's own when it does not care.
pub(crate) fn of_answer(headers: &HeaderMap, own: Format) -> Format {
    // How much each is wanted, in thousandths, and by how special a range: a name counts more than `application/*`, that more than `*/*`.
    let mut wanted = [(Format::Json, 0, 0), (Format::Xml, 0, 0), (Format::TextXml, 0, 0)];
    let mut any = false;
    for range in headers.get_all(ACCEPT).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')) {
        let name = media_type(range);
        if name.is_empty() {
            continue;
        }
        any = true;
        for (format, quality, special) in &mut wanted {
            let family = if *format == Format::TextXml { "text/*" } else { "application/*" };
            let this = match name {
                "*/*" => 1,
                name if name.eq_ignore_ascii_case(family) => 2,
                name if Format::of(name) == Some(*format) => 3,
                _ => continue,
            };
            if this >= *special {
                (*quality, *special) = (quality_of(range), this);
            }
        }
    }
    let quality = |format: Format| wanted.iter().find(|w| w.0 == format).map_or(0, |w| w.1);
    let best = wanted.iter().map(|w| w.1).max().unwrap_or_default();
    if !any || best == 0 || quality(own) == best {
        return own;
    }
    // JSON when in doubt.
    wanted.iter().find(|w| w.1 == best).map_or(Format::Json, |w| w.0)
}

/// The parameter `q` of a media range in thousandths: 1000 when it is missing, 0 when it is no number.
fn quality_of(range: &str) -> u32 {
    let q = range.split(';').skip(1).find_map(|p| {
        let (name, value) = p.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim())
    });
    // The cast saturates, and takes what is not a number for 0.
    q.map_or(1000, |q| (q.parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0) * 1000.0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_format_that_accept_prefers() {
        let check = |accept: &[&str], own: Format, expected: Format| {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(of_answer(&headers, own), expected, "{accept:?} from {own:?}");
        };
        use Format::{Json, TextXml, Xml};
        check(&[], Json, Json);
        check(&[], Xml, Xml);
        check(&["*/*"], TextXml, TextXml);
        check(&["application/xml"], Json, Xml);
        check(&["text/xml"], Json, TextXml);
        check(&["application/json"], Xml, Json);
        check(&["application/json, application/xml"], Xml, Xml);
        check(&["application/json;q=0.5", "application/xml;q=0.9"], Json, Xml);
        check(&["application/xml;q=0.5, */*;q=0.8"], Xml, Json);
        check(&["application/*, text/xml;q=0.1"], Xml, Xml);
        check(&["text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"], Json, Xml);
        check(&["image/png"], Json, Json);
        check(&["application/xml;q=0, */*"], Xml, Json);
        check(&["application/xml;q=nan, application/json;q=x"], Xml, Xml);
        check(&["APPLICATION/XML; Q=1"], Json, Xml);
    }

    #[test]
    fn the_request_says_its_format() {
        let check = |value: Option<&str>, expected: Option<Format>| {
            let mut headers = HeaderMap::new();
            if let Some(value) = value {
                headers.insert(CONTENT_TYPE, value.parse().unwrap());
            }
            assert_eq!(of_request(&headers), expected, "{value:?}");
        };
        check(None, Some(Format::Json));
        check(Some("application/json; charset=utf-8"), Some(Format::Json));
        check(Some("application/vnd.acme+json"), Some(Format::Json));
        check(Some("text/xml"), Some(Format::TextXml));
        check(Some("application/x-www-form-urlencoded"), None);
        check(Some("+json"), None);
        check(Some(""), None);
    }
}
