//! Imports over connections that break, against a site that breaks them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use lockstep_client::{
    Client, Config, ImportError, ImportFailure, ImportOptions, ImportReport, Login, OnExisting, Progress, Trust,
};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// What the site does with one request.
#[derive(Debug, Clone, Copy)]
enum Act {
    /// Takes all lines.
    Take,
    /// Takes so many lines, then breaks off without an answer. What it took is in.
    BreakAfter(usize),
    /// Takes so many lines, then answers that it is stopping.
    StopAfter(usize),
    /// Takes so many lines and refuses the next.
    RefuseAfter(usize),
}

/// A site that does one act after the other, then takes everything. It keeps what is in.
struct FaultySite {
    url: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl FaultySite {
    async fn start(acts: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let kept = lines.clone();
        tokio::spawn(async move {
            let mut acts = acts.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                // One request a connection: the order of acts is that of requests.
                serve(stream, acts.next().unwrap_or(Act::Take), &kept).await;
            }
        });
        Self { url, lines }
    }

    fn client(&self) -> Client {
        Client::new(Config { url: self.url.clone(), login: Login::Anonymous, trust: Trust::System }).unwrap()
    }

    async fn import(&self, input: &str, options: ImportOptions) -> Result<ImportReport, ImportError> {
        self.client().import(input.as_bytes(), options, |_: Progress<'_>| {}).await
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

/// The body of a request in chunks, up to its end or until `limit` lines of it are there.
async fn read_lines(reader: &mut BufReader<TcpStream>, limit: usize) -> Vec<String> {
    let mut head = String::new();
    while reader.read_line(&mut head).await.unwrap() > 2 {}
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let mut body = Vec::new();
    loop {
        let mut size = String::new();
        reader.read_line(&mut size).await.unwrap();
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).await.unwrap();
        body.extend_from_slice(&chunk[..size]);
        let text = String::from_utf8_lossy(&body);
        if size == 0 || text.matches('\n').count() > limit {
            return text.lines().map(str::to_owned).collect();
        }
    }
}

async fn serve(stream: TcpStream, act: Act, kept: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream);
    let limit = match act {
        Act::Take => usize::MAX,
        Act::BreakAfter(n) | Act::StopAfter(n) | Act::RefuseAfter(n) => n,
    };
    let mut lines = read_lines(&mut reader, limit).await;
    lines.truncate(limit);
    let count = lines.len();
    kept.lock().unwrap().extend(lines);
    let (status, body) = match act {
        Act::BreakAfter(_) => return,
        Act::Take => (
            200,
            format!(
                r#"{{"lines":{count},"created":{count},"replaced":0,"unchanged":0,"skipped":0,"position":{count}}}"#
            ),
        ),
        Act::StopAfter(_) => (503, r#"{"messages":[],"error_type":"SERVICE_UNAVAILABLE"}"#.to_owned()),
        Act::RefuseAfter(_) => {
            let line = count + 1;
            let message = format!(r#"{{"id":"x","default_message":"line {line}: no type","args":["{line}","type"]}}"#);
            (400, format!(r#"{{"messages":[{message}],"error_type":"INVALID_ARGUMENT"}}"#))
        }
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nlockstep-lines-committed: {count}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _ = reader.get_mut().write_all((head + &body).as_bytes()).await;
    // Takes what is still coming, so that the answer is not lost to a reset.
    let mut rest = Vec::new();
    let _ = reader.read_to_end(&mut rest).await;
}

fn input(lines: usize) -> String {
    (1..=lines).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn expected(lines: impl IntoIterator<Item = usize>) -> Vec<String> {
    lines.into_iter().map(|n| format!("{{\"n\":{n}}}")).collect()
}

#[tokio::test]
async fn a_whole_stream_goes_in_once() {
    let site = FaultySite::start(vec![]).await;
    let report = site.import(&input(1000), ImportOptions::default()).await.unwrap();
    assert_eq!((report.lines, report.created, report.position), (1000, 1000, 1000));
    assert_eq!(site.lines(), expected(1..=1000));
}

#[tokio::test]
async fn the_last_line_needs_no_end() {
    let site = FaultySite::start(vec![]).await;
    let report = site.import(input(3).trim_end(), ImportOptions::default()).await.unwrap();
    assert_eq!(report.lines, 3);
    assert_eq!(site.lines(), expected(1..=3));
}

#[tokio::test]
async fn lines_that_are_done_are_passed_over() {
    let site = FaultySite::start(vec![]).await;
    let report = site.import(&input(10), ImportOptions { skip_lines: 7, ..ImportOptions::default() }).await.unwrap();
    assert_eq!((report.lines, report.created), (10, 3));
    assert_eq!(site.lines(), expected(8..=10));
}

#[tokio::test]
async fn after_a_break_everything_unanswered_is_sent_again() {
    let site = FaultySite::start(vec![Act::BreakAfter(400)]).await;
    let mut told = Vec::new();
    let told_to = |progress: Progress<'_>| told.extend(progress.broken.map(ToString::to_string));
    let input = input(1000);
    let report = site.client().import(input.as_bytes(), ImportOptions::default(), told_to).await.unwrap();
    assert_eq!(report.lines, 1000);
    assert_eq!(site.lines(), expected((1..=400).chain(1..=1000)));
    assert_eq!(told.len(), 1, "{told:?}");
}

#[tokio::test]
async fn after_an_answer_only_what_is_not_in_is_sent_again() {
    let site = FaultySite::start(vec![Act::StopAfter(400), Act::StopAfter(0), Act::StopAfter(1)]).await;
    let report = site.import(&input(1000), ImportOptions::default()).await.unwrap();
    assert_eq!(report.lines, 1000);
    assert_eq!(site.lines(), expected(1..=1000));
}

#[tokio::test]
async fn a_refused_line_is_named_by_its_number_in_the_whole_stream() {
    let site = FaultySite::start(vec![Act::StopAfter(300), Act::RefuseAfter(50)]).await;
    let options = ImportOptions { skip_lines: 100, ..ImportOptions::default() };
    let error = site.import(&input(1000), options).await.unwrap_err();
    assert_eq!(error.line, Some(451));
    assert_eq!(error.done.lines, 450);
    assert!(!error.is_uncertain);
    assert_eq!(error.to_string(), "no type (INVALID_ARGUMENT)");
    assert_eq!(site.lines(), expected(101..=450));
}

#[tokio::test]
async fn what_must_not_exist_is_not_sent_twice() {
    let site = FaultySite::start(vec![Act::BreakAfter(400)]).await;
    let options = ImportOptions { on_existing: OnExisting::Fail, ..ImportOptions::default() };
    let error = site.import(&input(1000), options).await.unwrap_err();
    assert!(error.is_uncertain);
    assert_eq!(error.done.lines, 0);
    assert!(matches!(error.cause, ImportFailure::Client(_)));
    assert_eq!(site.lines(), expected(1..=400));
}
