//! `lockstep import`: many resources at once.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use indicatif::HumanCount;
use lockstep_client::{ImportError, ImportOptions, ImportReport, OnExisting};
use serde_json::json;
use tokio::io::AsyncRead;

use super::Context;
use crate::json;
use crate::output::{Format, Listing, print};
use crate::progress::{self, Progress};

/// Which file, and how to load it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep import inventory.ndjson\n  \
    zcat inventory.ndjson.gz | lockstep import -\n  \
    lockstep import inventory.ndjson --on-existing skip --resume-from 25001")]
pub struct ImportArgs {
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// What to do with a resource that exists: give it the line's properties, leave it, or refuse the batch
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    on_existing: Existing,

    /// Lines that are committed together [default: the site's, 1000]
    #[arg(long, value_name = "LINES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: Option<u32>,

    /// Begin at this line, counted from 1: an import before did those in front of it
    #[arg(long, value_name = "LINE", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    resume_from: u64,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Existing {
    #[default]
    Replace,
    Skip,
    Fail,
}

impl ImportArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let options = ImportOptions {
            on_existing: match self.on_existing {
                Existing::Replace => OnExisting::Replace,
                Existing::Skip => OnExisting::Skip,
                Existing::Fail => OnExisting::Fail,
            },
            batch_lines: self.batch,
            skip_lines: self.resume_from - 1,
        };
        if self.file == Path::new("-") {
            return self.load(context, tokio::io::stdin(), None, options).await;
        }
        let named = || format!("cannot read {}", self.file.display());
        let file = tokio::fs::File::open(&self.file).await.with_context(named)?;
        let metadata = file.metadata().await.with_context(named)?;
        let total_bytes = metadata.is_file().then_some(metadata.len());
        self.load(context, file, total_bytes, options).await
    }

    async fn load<R: AsyncRead + Unpin>(
        &self,
        context: &Context,
        input: R,
        total_bytes: Option<u64>,
        options: ImportOptions,
    ) -> Result<ExitCode> {
        let mut progress = Progress::new("import", total_bytes);
        let skipped = options.skip_lines;
        let result = context
            .client
            .import(input, options, |now| {
                progress.at(now.sent_bytes, now.sent_lines.saturating_sub(skipped));
                if let Some(error) = now.broken {
                    let line = now.done.lines + 1;
                    progress
                        .note(&format!("{error}; going on from line {} in a moment", HumanCount(line.unsigned_abs())));
                }
            })
            .await;
        let elapsed_s = progress.elapsed().as_secs_f64();
        drop(progress);
        match result {
            Ok(report) => summarize(context.output, &report, elapsed_s).map(|()| ExitCode::SUCCESS),
            Err(error) => {
                let place = self.place(&error);
                Err(anyhow::Error::from(error).context(place))
            }
        }
    }

    /// Which line of which file.
    fn place(&self, error: &ImportError) -> String {
        let is_stdin = self.file == Path::new("-");
        let file = if is_stdin { "standard input".to_owned() } else { self.file.display().to_string() };
        error.line.map_or_else(|| file.clone(), |line| format!("{file}, line {line}"))
    }
}

fn summarize(output: Format, report: &ImportReport, elapsed_s: f64) -> Result<()> {
    let resources = report.resources().unsigned_abs();
    let rate = (resources as f64 / elapsed_s.max(0.001)) as u64;
    if output == Format::Table {
        let number = |n: i64| HumanCount(n.unsigned_abs());
        eprintln!(
            "imported {} in {elapsed_s:.1} s, {}/s: {} created, {} replaced, {} unchanged, {} skipped; position {}",
            progress::count(resources, "resource", "resources"),
            HumanCount(rate),
            number(report.created),
            number(report.replaced),
            number(report.unchanged),
            number(report.skipped),
            report.position,
        );
        return Ok(());
    }
    let mut value = json::value(report);
    value["seconds"] = json!(elapsed_s);
    value["resources_per_second"] = json!(rate);
    let listing = Listing::of_leaves(&value);
    print(output, &listing, &value)
}
