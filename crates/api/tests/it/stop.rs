//! How a server stops, and TLS.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstep_api::Limits;
use rustls_pki_types::pem::PemObject as _;

use crate::harness::{PASSWORD, Request, Server, USER, wait_until};

#[test]
fn at_the_end_readers_are_answered_and_what_hangs_is_cut_off() {
    let limits = Limits { stop_timeout: Duration::from_millis(500), ..Limits::default() };
    let mut server = Server::start_with(limits, false, |_| {});
    let token = server.log_in();
    let current =
        server.ask(&Request::new("POST", "/api/cdc/change-log?action=get-current-sequence").session(&token)).json();
    let changes = Request::new("POST", "/api/cdc/change-log?action=get-changes")
        .session(&token)
        .json(&format!(r#"{{"sequence_token":{current}}}"#));
    let mut parked = server.connect();
    parked.send(&changes.bytes());
    let mut events = server.connect();
    events.send(&Request::new("GET", "/api/lockstep/feed/events").session(&token).bytes());
    events.until("\r\n\r\n");
    wait_until("both wait", || server.metric("lockstep_readers_parked") == 2.0);
    let mut idle = server.connect();
    let mut hanging = server.connect();
    hanging.send(
        &Request::new("POST", "/api/lockstep/query").session(&token).header("Content-Length", "9").json("").bytes(),
    );
    wait_until("the slow request is under way", || server.metric("lockstep_requests_in_flight") == 2.0);

    let started = Instant::now();
    server.stop();
    let answer = parked.response();
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "sequence": current })));
    assert_eq!((parked.rest(), idle.rest()), (String::new(), String::new()));
    events.rest();
    assert!(started.elapsed() < Duration::from_millis(450), "{:?}", started.elapsed());
    assert_eq!(hanging.rest(), "");
    server.join();
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

/// A client's side of TLS that trusts the server's own file.
fn connect(server: &Server, protocols: &[&[u8]]) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let certificates =
        rustls_pki_types::CertificateDer::pem_file_iter(server.data.path().join(lockstep_api::tls::CERTIFICATE_FILE));
    for certificate in certificates.unwrap() {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
    let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = std::net::TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    rustls::StreamOwned::new(connection, stream)
}

#[test]
fn tls_speaks_with_who_trusts_the_servers_file() {
    let server = Server::start_with(Limits::default(), true, |_| {});
    let mut client = connect(&server, &[b"http/1.1"]);
    client
        .write_all(&Request::new("POST", "/api/session").basic(USER, PASSWORD).header("Connection", "close").bytes())
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201 Created\r\n"), "{answer}");
    assert_eq!(client.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
    // HTTP/2: the server's settings come first, in a frame of type 4.
    let mut client = connect(&server, &[b"h2", b"http/1.1"]);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut frame = [0; 9];
    client.read_exact(&mut frame).unwrap();
    assert_eq!((client.conn.alpn_protocol(), frame[3]), (Some(&b"h2"[..]), 4));
    // Someone without TLS is not answered, and does no harm.
    let mut plain = server.connect();
    plain.send(&Request::new("GET", "/healthz").bytes());
    assert!(!plain.rest().contains("200 OK"));
}
