//! VictoriaMetrics: the same points, by Prometheus' remote write.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lockstep_contract::points::{Batch, Series};
use prost::Message as _;
use tempfile::TempDir;

use crate::files::quoted;
use crate::http::{Client, Server};
use crate::process::Process;
use crate::serve::Serve;
use crate::stats::{Programs, free_address};

/// The remote write's path.
pub const WRITE_PATH: &str = "/api/v1/write";

/// How long a merge of everything may take.
const MERGE_TIME_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, PartialEq, prost::Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct TimeSeries {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

/// A batch as the body of a remote write. A series has two labels, its name and its host: as little as tells it from others, as in
/// the server's own form.
pub fn write_body(batch: &Batch) -> anyhow::Result<Vec<u8>> {
    let request = WriteRequest { timeseries: batch.series.iter().map(time_series).collect() };
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).context("compress a remote write")
}

fn time_series(series: &Series) -> TimeSeries {
    let label = |name: &str, value: String| Label { name: name.to_owned(), value };
    let host = series.address.first().map(|identifier| identifier.id.clone()).unwrap_or_default();
    let samples = series.times_s().zip(&series.values);
    TimeSeries {
        labels: vec![label("__name__", series.cid.replace('.', "_")), label("host", host)],
        samples: samples.map(|(time_s, &value)| Sample { value, timestamp: time_s * 1000 }).collect(),
    }
}

/// A running VictoriaMetrics with its own directory.
pub struct Victoria {
    serve: Serve,
    server: Server,
    dir: TempDir,
}

impl Victoria {
    /// Starts it with its defaults, but for what hides the newest points and caches answers.
    pub fn start(programs: &Programs) -> anyhow::Result<Self> {
        let dir = programs.fresh_dir()?;
        let server = Server::plain(&free_address()?, "");
        let command = format!(
            "exec {} -storageDataPath={} -httpListenAddr={} -retentionPeriod=12 -search.latencyOffset=0s -search.disableCache 2>{}",
            quoted(&programs.victoria_metrics),
            quoted(&dir.path().join("data")),
            server.address,
            quoted(&dir.path().join("log")),
        );
        let (serve, _) = Serve::start_until(&command, &server, "/health")?;
        Ok(Victoria { serve, server, dir })
    }

    /// A kept connection that may write.
    pub fn connect(&self) -> anyhow::Result<Client> {
        let mut client = self.server.connect()?;
        client.set_header("content-encoding", "snappy");
        client.set_header("x-prometheus-remote-write-version", "0.1.0");
        Ok(client)
    }

    /// A kept connection that reads.
    pub fn connect_reader(&self) -> anyhow::Result<Client> {
        self.server.connect()
    }

    pub fn process(&self) -> Process {
        Process::new(self.serve.pid())
    }

    /// Makes what was written visible and durable.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.get("/internal/force_flush").map(drop)
    }

    /// Merges all that there is into as few parts as it will ever be.
    pub fn merge(&self) -> anyhow::Result<()> {
        self.flush()?;
        self.get("/internal/force_merge")?;
        let begin = Instant::now();
        // The merge is done in the background, and begins a moment later.
        std::thread::sleep(Duration::from_millis(500));
        while self.metric("vm_active_force_merges")? + self.metric("vm_active_merges")? > 0.0 {
            ensure!(begin.elapsed() < MERGE_TIME_MAX, "VictoriaMetrics still merges after {MERGE_TIME_MAX:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The sum of one of its own metrics over the labels.
    pub fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.get("/metrics")?;
        let values = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        Ok(values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    fn get(&self, path: &str) -> anyhow::Result<String> {
        let mut client = self.server.connect()?;
        let answer = client.request("GET", path, b"")?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        ensure!(answer.status == 200, "VictoriaMetrics, {path}: status {}: {text}", answer.status);
        Ok(text)
    }

    /// Stops it. Its files are there until the directory that is returned is dropped.
    pub fn stop(self) -> anyhow::Result<(TempDir, PathBuf)> {
        self.serve.stop()?;
        let data = self.dir.path().join("data");
        Ok((self.dir, data))
    }
}

#[cfg(test)]
mod tests {
    use lockstep_contract::points::Identifier;

    use super::*;

    #[test]
    fn a_remote_write_holds_the_points_of_the_batch() {
        let address = vec![Identifier { r#type: "HOST".to_owned(), id: "h1".to_owned() }];
        let series = Series {
            cid: "cpu.time.user.HOST".to_owned(),
            address,
            times: Series::deltas([10, 20]),
            values: vec![1.5, 2.5],
        };
        let body = write_body(&Batch { series: vec![series] }).unwrap();
        let plain = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let request = WriteRequest::decode(&*plain).unwrap();
        let label = |name: &str, value: &str| Label { name: name.to_owned(), value: value.to_owned() };
        let expected = TimeSeries {
            labels: vec![label("__name__", "cpu_time_user_HOST"), label("host", "h1")],
            samples: vec![Sample { value: 1.5, timestamp: 10_000 }, Sample { value: 2.5, timestamp: 20_000 }],
        };
        assert_eq!(request.timeseries, [expected]);
    }
}
