//! The bare HTTP round trip: what the machine itself takes to send a request and get as many bytes back, with nothing in between.
//!
//! A thread answers every request on one kept connection with the same prepared bytes; the client, and the request, are those that
//! measure the server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::http::Client;
use crate::http::message::Message;
use crate::http::session::SESSION_HEADER;
use crate::latency::{Latencies, show};
use crate::queries::QUERY_PATH;
use crate::report::{Report, show_bytes};

/// A client connected to a server that does nothing.
pub struct Floor {
    client: Client,
}

impl Floor {
    /// Starts a server whose answers have bodies of `body_bytes`, and connects to it. Its thread ends when the client is dropped.
    pub fn start(body_bytes: usize) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("bind the floor's server")?;
        let address = listener.local_addr()?.to_string();
        let mut client = Client::connect(&address, None)?;
        client.set_header(SESSION_HEADER, &"0".repeat(32));
        let (stream, _) = listener.accept()?;
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {body_bytes}\r\n\r\n")
                .into_bytes();
        answer.resize(answer.len() + body_bytes, b'0');
        std::thread::Builder::new().name("floor".into()).spawn(move || {
            if let Err(error) = serve(stream, &answer) {
                eprintln!("the floor's server ended: {error:#}");
            }
        })?;
        Ok(Floor { client })
    }

    /// One round trip with this request body.
    pub fn round_trip(&mut self, body: &[u8]) -> anyhow::Result<Duration> {
        let (_, time) = self.client.timed("POST", QUERY_PATH, body)?;
        Ok(time)
    }
}

fn serve(mut stream: TcpStream, answer: &[u8]) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 64 << 10];
    let mut filled = 0;
    loop {
        let n = stream.read(&mut buffer[filled..])?;
        if n == 0 {
            return Ok(());
        }
        filled += n;
        if let Some(request) = Message::parse(&buffer[..filled])? {
            filled -= request.length;
            stream.write_all(answer)?;
        } else if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
    }
}

/// Measure the bare HTTP round trip for answers of some sizes.
#[derive(Args)]
pub struct FloorArgs {
    /// Sizes of the answers, in bytes.
    #[arg(long, value_delimiter = ',', default_value = "300,8000,16000,32000,64000")]
    bytes: Vec<usize>,
    /// Size of the requests' bodies, in bytes.
    #[arg(long, default_value_t = 800)]
    request_bytes: usize,
    #[arg(long, default_value_t = 5000)]
    requests: usize,
}

/// Runs the subcommand.
pub fn run(args: &FloorArgs) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut rows = Vec::new();
    let body = vec![b'0'; args.request_bytes];
    for &bytes in &args.bytes {
        let mut floor = Floor::start(bytes)?;
        for _ in 0..args.requests / 10 {
            floor.round_trip(&body)?;
        }
        let times = (0..args.requests).map(|_| floor.round_trip(&body)).collect::<anyhow::Result<Latencies>>()?;
        let Some(summary) = times.summary() else { continue };
        rows.push(vec![show_bytes(bytes as u64), show(summary.p50), show(summary.p99), show(summary.max)]);
        report.figure(bytes.to_string(), json!(summary.json()));
    }
    report.table("Bare HTTP round trip, one kept connection", &["answer", "p50", "p99", "max"], rows);
    Ok(report)
}
