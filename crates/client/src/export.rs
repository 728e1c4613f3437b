//! Export: the inventory as a stream of NDJSON.

use bytes::Bytes;
use lockstep_contract::services::TypedId;

use crate::client::{Client, text_header};
use crate::error::{self, ClientError};
use crate::request::Query;

/// What to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Only these types; empty: all.
    pub types: Vec<String>,
    /// Go on behind this resource, when an export broke off.
    pub after: Option<TypedId>,
}

/// An export under way.
///
/// Its lines are from different moments. The state is complete when the changes after [`Export::sequence`] have been applied to it.
#[derive(Debug)]
pub struct Export {
    client: Client,
    response: reqwest::Response,
    /// What has come and not been taken.
    pending: Bytes,
    /// The beginning of a line whose end is in the next piece.
    partial: Vec<u8>,
}

impl Client {
    /// Starts an export.
    ///
    /// # Errors
    /// What hinders a call; `invalid_argument` for an unknown type.
    pub async fn export(&self, options: &ExportOptions) -> Result<Export, ClientError> {
        let mut query = Query::default();
        query.push("action", "export");
        for name in &options.types {
            query.push("type", name);
        }
        if let Some(after) = &options.after {
            query.push("after_type", &after.resource_type);
            query.push("after_id", &after.id);
        }
        let url = self.at(&format!("/api/lockstep/resources{}", query.text));
        let response = Box::pin(self.send(|| self.http().get(&url))).await?;
        Ok(Export { client: self.clone(), response, pending: Bytes::new(), partial: Vec::new() })
    }
}

impl Export {
    /// The moment before the first line, as a token of the change feed.
    pub fn sequence(&self) -> Option<String> {
        text_header(self.response.headers(), "lockstep-sequence")
    }

    /// The next bytes, cut anywhere; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError::Broken`].
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.response.chunk().await.map_err(|e| error::transport(self.client.url(), &e))
    }

    /// The next line without its end; `None` at the end. Not to be mixed with [`Export::next_chunk`].
    ///
    /// # Errors
    /// [`ClientError::Broken`], also when the stream ends within a line.
    pub async fn next_line(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.pending) {
                let rest = self.pending.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.pending, rest);
                line.truncate(end);
                if self.partial.is_empty() {
                    return Ok(Some(line));
                }
                self.partial.extend_from_slice(&line);
                return Ok(Some(Bytes::from(std::mem::take(&mut self.partial))));
            }
            self.partial.extend_from_slice(&self.pending);
            self.pending = match self.next_chunk().await? {
                Some(chunk) => chunk,
                None if self.partial.is_empty() => return Ok(None),
                None => {
                    let reason = "the export ends within a line".to_owned();
                    return Err(ClientError::Broken { url: self.client.url().to_owned(), reason });
                }
            };
        }
    }
}
