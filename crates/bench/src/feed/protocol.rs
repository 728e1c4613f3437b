//! The change feed as its readers see it: requests that wait, answers with changes.

use std::rc::Rc;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::http::message::{Message, RequestHead};
use crate::http::session::SESSION_HEADER;
use crate::http::{Client, Server};

const CHANGES_PATH: &str = "/rest/com/vmware/cdc/change-log?~action=get-changes";
const CURRENT_PATH: &str = "/rest/com/vmware/cdc/change-log?~action=get-current-sequence";

/// The token of the feed's end.
pub fn current_sequence(client: &mut Client) -> anyhow::Result<String> {
    #[derive(Deserialize)]
    struct Answer {
        value: String,
    }
    let answer = client.request("POST", CURRENT_PATH, b"{}")?;
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "get_current_sequence: status {}: {text}", answer.status);
    let answer: Answer = serde_json::from_str(&text).with_context(|| format!("get_current_sequence: {text}"))?;
    Ok(answer.value)
}

/// The whole bytes of requests for the changes after a token.
pub struct ChangesRequest {
    host: String,
    headers: String,
    /// The last one made: all readers that got the same answer send the same next request.
    last: Option<(String, Rc<[u8]>)>,
}

impl ChangesRequest {
    pub fn new(server: &Server, session: &str) -> Self {
        ChangesRequest { host: server.address.clone(), headers: format!("{SESSION_HEADER}: {session}\r\n"), last: None }
    }

    pub fn after(&mut self, token: &str) -> anyhow::Result<Rc<[u8]>> {
        if let Some((last, bytes)) = &self.last
            && last == token
        {
            return Ok(bytes.clone());
        }
        let body = serde_json::to_vec(&serde_json::json!({"sequence_token": token}))?;
        let mut bytes = Vec::new();
        RequestHead {
            method: "POST",
            path: CHANGES_PATH,
            host: &self.host,
            headers: &self.headers,
            content_type: "application/json",
            content_length: body.len() as u64,
        }
        .write(&mut bytes);
        bytes.extend_from_slice(&body);
        let bytes: Rc<[u8]> = bytes.into();
        self.last = Some((token.to_owned(), bytes.clone()));
        Ok(bytes)
    }
}

/// What one answer says.
#[derive(Debug, PartialEq)]
pub struct Changes {
    /// The token of the next request.
    pub sequence: String,
    /// Ids of the VMs that changed, one for each event, in order.
    pub vms: Vec<String>,
}

/// Reads answers; an answer with the bytes of the one before is read once.
#[derive(Default)]
pub struct ChangesReader {
    last: Option<(Vec<u8>, Rc<Changes>)>,
}

impl ChangesReader {
    pub fn read(&mut self, message: &Message<'_>) -> anyhow::Result<Rc<Changes>> {
        if let Some((bytes, changes)) = &self.last
            && bytes.as_slice() == &*message.body
        {
            return Ok(changes.clone());
        }
        let text = || String::from_utf8_lossy(&message.body).chars().take(500).collect::<String>();
        ensure!(message.status == 200, "get_changes: status {}: {}", message.status, text());
        let answer: Answer =
            serde_json::from_slice(&message.body).with_context(|| format!("get_changes: {}", text()))?;
        let vms = answer.value.changes.into_iter().map(|c| c.resource).filter(|r| r.r#type == "VirtualMachine");
        let changes = Rc::new(Changes { sequence: answer.value.sequence, vms: vms.map(|r| r.id).collect() });
        self.last = Some((message.body.to_vec(), changes.clone()));
        Ok(changes)
    }
}

#[derive(Deserialize)]
struct Answer {
    value: ChangeList,
}

#[derive(Deserialize)]
struct ChangeList {
    sequence: String,
    #[serde(default)]
    changes: Vec<ChangeEvent>,
}

#[derive(Deserialize)]
struct ChangeEvent {
    resource: Resource,
}

#[derive(Deserialize)]
struct Resource {
    r#type: String,
    id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_and_without_changes_are_read() {
        let check = |body: &str, sequence: &str, vms: &[&str]| {
            let text = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            let message = Message::parse(text.as_bytes()).unwrap().unwrap();
            let mut reader = ChangesReader::default();
            for _ in 0..2 {
                let changes = reader.read(&message).unwrap();
                assert_eq!(
                    (changes.sequence.as_str(), &changes.vms[..]),
                    (sequence, &vms.iter().map(|v| (*v).to_owned()).collect::<Vec<_>>()[..])
                );
            }
        };
        check(r#"{"value":{"sequence":"a.1"}}"#, "a.1", &[]);
        let vm = r#"{"resource":{"type":"VirtualMachine","id":"vm-1"},"kind":"UPDATE","parent_resources":[]}"#;
        let host = r#"{"resource":{"type":"HostSystem","id":"host-1"},"kind":"UPDATE"}"#;
        check(&format!(r#"{{"value":{{"sequence":"a.2","changes":[{vm},{host},{vm}]}}}}"#), "a.2", &["vm-1", "vm-1"]);
    }
}
