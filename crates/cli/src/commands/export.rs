//! `lockstep export`: the inventory as a file.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lockstep_client::ExportOptions;

use super::Context;
use crate::progress::{self, Progress};

/// What to write, and where.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    lockstep export --out inventory.ndjson\n  \
    lockstep export --type VirtualMachine --type HostSystem | jq .id")]
pub struct ExportArgs {
    /// Only resources of this type; may be given several times
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,

    /// Write to this file [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl ExportArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        let options = ExportOptions { types: self.types, after: None };
        let mut export = context.client.export(&options).await?;
        let mut out: Box<dyn Write> = match &self.out {
            None => Box::new(std::io::stdout().lock()),
            Some(file) => {
                Box::new(std::fs::File::create(file).with_context(|| format!("cannot write {}", file.display()))?)
            }
        };
        // On a terminal the lines themselves are progress enough.
        let mut progress = self.out.is_some().then(|| Progress::new("export", None));
        let (mut bytes, mut lines) = (0, 0);
        while let Some(chunk) = export.next_chunk().await? {
            out.write_all(&chunk)?;
            bytes += chunk.len() as u64;
            lines += chunk.iter().filter(|byte| **byte == b'\n').count() as u64;
            if let Some(progress) = &mut progress {
                progress.at(bytes, lines);
            }
        }
        out.flush()?;
        drop(progress);
        if let Some(file) = &self.out {
            eprintln!("exported {} to {}", progress::count(lines, "resource", "resources"), file.display());
        }
        if let Some(token) = export.sequence() {
            eprintln!("changes since then: lockstep watch --from {token}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
