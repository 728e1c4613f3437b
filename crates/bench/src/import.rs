//! Bulk import over HTTP: how fast, how much memory a resource takes, and how soon a restarted server is ready.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::data::DataDir;
use crate::http::client::Upload;
use crate::http::{Server, ServerArgs};
use crate::latency::show;
use crate::process::{Memory, Process};
use crate::report::{Report, show_bytes};
use crate::serve::Serve;

const IMPORT_PATH: &str = "/api/lockstep/resources?action=import";
const NDJSON: &str = "application/x-ndjson";

/// Measure the bulk import, the memory of a resource, and the restart.
///
/// The server must be empty. With `--serve-cmd` the tool starts it, and after the import restarts it and waits until it is ready.
#[derive(Args)]
pub struct ImportArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Data directory to import.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Process id of the running server, to show its memory.
    #[arg(long, conflicts_with = "serve_cmd")]
    pid: Option<u32>,
    /// Shell command that runs the server, e.g. `exec lockstep serve --data-dir D --listen 127.0.0.1:8080 --plain-http …`.
    #[arg(long, value_name = "COMMAND")]
    serve_cmd: Option<String>,
}

/// Runs the subcommand.
pub fn run(args: &ImportArgs) -> anyhow::Result<Report> {
    let data = DataDir::open(&args.data)?;
    let server = Server::new(&args.server)?;
    let serve = match &args.serve_cmd {
        Some(command) => Some(Serve::start(command, &server)?.0),
        None => None,
    };
    let process = args.pid.or(serve.as_ref().map(Serve::pid)).map(Process::new);
    let before = memory(process)?;
    let import = import(&server, &data)?;
    let after = memory(process)?;

    let mut report = Report::default();
    let rate = import.resources as f64 / import.time.as_secs_f64();
    let mut rows = vec![
        vec!["resources".to_owned(), import.resources.to_string()],
        vec!["bytes".to_owned(), show_bytes(import.bytes)],
        vec!["time".to_owned(), show(import.time)],
        vec!["resources/s".to_owned(), format!("{rate:.0}")],
    ];
    report.figure(
        "import",
        json!({"resources": import.resources, "time_s": import.time.as_secs_f64(),
        "resources_per_s": rate, "answer": import.answer}),
    );
    add_memory(&mut report, &mut rows, "after the import", before, after, import.resources);

    if let (Some(serve), Some(command)) = (serve, &args.serve_cmd) {
        let status = serve.stop()?;
        ensure!(status.success(), "the server stopped with {status}");
        let (serve, ready) = Serve::start(command, &server)?;
        rows.push(vec!["restart to ready".to_owned(), show(ready)]);
        report.figure("restart_to_ready_s", json!(ready.as_secs_f64()));
        let restarted = memory(Some(Process::new(serve.pid())))?;
        add_memory(&mut report, &mut rows, "after the restart", None, restarted, import.resources);
        serve.stop()?;
    }
    report.table("Bulk import over HTTP", &["", "value"], rows);
    report.text("The server's answer", import.answer.to_string());
    Ok(report)
}

struct Import {
    resources: u64,
    bytes: u64,
    time: Duration,
    answer: Value,
}

fn import(server: &Server, data: &DataDir) -> anyhow::Result<Import> {
    let path = data.inventory();
    let mut file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    let bytes = file.metadata()?.len();
    let resources = count_lines(&mut file)?;
    file.rewind()?;
    let mut client = server.connect_logged_in()?;
    let begin = Instant::now();
    let answer = client.upload(IMPORT_PATH, NDJSON, Upload::File(&mut file))?;
    let time = begin.elapsed();
    let text = String::from_utf8_lossy(&answer.body);
    ensure!(answer.status == 200, "import: status {}: {}", answer.status, text.chars().take(1000).collect::<String>());
    let answer = serde_json::from_str(&text).with_context(|| format!("the import answered {text}"))?;
    Ok(Import { resources, bytes, time, answer })
}

/// Counts the lines of a file, before the time that counts: afterwards the file is in the page cache, as far as it fits.
fn count_lines(file: &mut File) -> std::io::Result<u64> {
    let mut block = vec![0; 1 << 20];
    let mut lines = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok(lines),
            n => lines += block[..n].iter().filter(|&&byte| byte == b'\n').count() as u64,
        }
    }
}

fn memory(process: Option<Process>) -> anyhow::Result<Option<Memory>> {
    process.map(|process| process.memory()).transpose()
}

/// Memory all told, divided by the resources; what the empty server took is named, not subtracted.
fn add_memory(
    report: &mut Report,
    rows: &mut Vec<Vec<String>>,
    when: &str,
    before: Option<Memory>,
    after: Option<Memory>,
    resources: u64,
) {
    let Some(after) = after else { return };
    if let Some(before) = before {
        rows.push(vec!["resident while empty".to_owned(), show_bytes(before.resident)]);
    }
    rows.push(vec![format!("resident {when}"), show_bytes(after.resident)]);
    rows.push(vec![format!("peak {when}"), show_bytes(after.peak)]);
    rows.push(vec![format!("bytes a resource {when}"), (after.resident / resources.max(1)).to_string()]);
    report.figure(
        format!("memory {when}"),
        json!({"resident": after.resident, "peak": after.peak,
        "bytes_per_resource": after.resident / resources.max(1)}),
    );
}
