//! A receiver of remote write that misbehaves as it is told. It reads requests by itself, so that it can break off anywhere.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use prost::Message as _;

use crate::servers::no_tls;

/// What becomes of a request.
#[derive(Clone)]
pub enum Reply {
    /// A status, headers, and a body.
    Status(u16, &'static [(&'static str, &'static str)], &'static str),
    /// Bytes that are no HTTP.
    Garbage,
    /// Nothing, until the other side goes away.
    Silence,
    /// It is passed on to a URL, with the answer back.
    Passed(String),
    /// It is passed on, and the answer is lost.
    Lost(String),
}

/// A request as it came.
#[derive(Clone)]
pub struct Got {
    pub at: Instant,
    /// In lower case, by name.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Got {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The samples in it.
    pub fn samples(&self) -> usize {
        self.read().series.iter().map(|series| series.samples.len()).sum()
    }

    pub fn read(&self) -> Request {
        Request::decode(&*snap::raw::Decoder::new().decompress_vec(&self.body).unwrap()).unwrap()
    }
}

/// The message, written down here once more.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    #[prost(message, repeated, tag = "1")]
    pub series: Vec<Series>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Series {
    #[prost(message, repeated, tag = "1")]
    pub labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    pub samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Label {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sample {
    #[prost(double, tag = "1")]
    pub value: f64,
    #[prost(int64, tag = "2")]
    pub time_ms: i64,
}

#[derive(Default)]
struct Script {
    replies: VecDeque<Reply>,
    /// When the script is over.
    then: Option<Reply>,
    got: Vec<Got>,
}

/// The receiver; it ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    certificate: Option<String>,
}

impl Receiver {
    /// Answers the requests, in their order, with these; when they are used up it answers 204.
    pub fn start(replies: Vec<Reply>) -> Self {
        Self::run(replies, None)
    }

    /// The same, with a certificate that nobody knows.
    pub fn start_with_tls(replies: Vec<Reply>) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        // An authority of its own: a certificate that signs itself is no server's.
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let mut receiver = Self::run(replies, Some(Arc::new(tls)));
        receiver.certificate = Some(ca_pem);
        receiver
    }

    fn run(replies: Vec<Reply>, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Mutex::new(Script { replies: replies.into(), ..Script::default() }));
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, over) = (script.clone(), is_over.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let stream = stream.unwrap();
                // What breaks off is what some of the tests are about.
                let _ = match &tls {
                    None => serve(stream, &told),
                    Some(tls) => {
                        let connection = rustls::ServerConnection::new(tls.clone()).unwrap();
                        serve(rustls::StreamOwned::new(connection, stream), &told)
                    }
                };
            }
        });
        Self { address, script, is_over, thread: Some(thread), certificate: None }
    }

    /// What every request gets when the script is over.
    pub fn then(&self, reply: Reply) {
        self.script.lock().unwrap().then = Some(reply);
    }

    pub fn url(&self) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/write", self.address)
    }

    /// The certificate to trust, in PEM.
    pub fn certificate(&self) -> &str {
        self.certificate.as_deref().unwrap_or_default()
    }

    /// The requests so far.
    pub fn got(&self) -> Vec<Got> {
        self.script.lock().unwrap().got.clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one request, and replies; then the connection ends.
fn serve(mut stream: impl Read + Write, script: &Mutex<Script>) -> std::io::Result<()> {
    let mut reader = BufReader::new(&mut stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None if line.trim_end().is_empty() => break,
            None => {}
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or("0", |(_, value)| value);
    let mut body = vec![0; length.parse().unwrap()];
    reader.read_exact(&mut body)?;
    let got = Got { at: Instant::now(), headers, body };
    let reply = {
        let mut script = script.lock().unwrap();
        script.got.push(got.clone());
        let next = script.replies.pop_front().or_else(|| script.then.clone());
        next.unwrap_or(Reply::Status(204, &[], ""))
    };
    match reply {
        Reply::Status(status, headers, body) => answer(&mut stream, status, headers, body),
        Reply::Garbage => stream.write_all(b"\x16\x03\x01 220 mail.test ESMTP\r\n\r\n"),
        Reply::Silence => {
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).map(drop)
        }
        Reply::Passed(url) => answer(&mut stream, pass(&url, &got), &[], ""),
        Reply::Lost(url) => {
            pass(&url, &got);
            Ok(())
        }
    }
}

fn answer(stream: &mut impl Write, status: u16, headers: &[(&str, &str)], body: &str) -> std::io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} Told\r\nconnection: close\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n{body}").as_bytes())?;
    stream.flush()
}

/// Passes a request on. Answers with the status.
fn pass(url: &str, got: &Got) -> u16 {
    let http = reqwest::blocking::Client::builder().tls_backend_preconfigured(no_tls()).no_proxy().build().unwrap();
    let mut request = http.post(url).body(got.body.clone());
    for name in ["content-encoding", "content-type", "x-prometheus-remote-write-version"] {
        request = request.header(name, got.header(name));
    }
    request.send().unwrap().status().as_u16()
}
