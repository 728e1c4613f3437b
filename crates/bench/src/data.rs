//! The data directory: a generated inventory, the value pools of its queries, a change stream, and what runs leave there.
//!
//! | file | what |
//! |---|---|
//! | `inv.ndjson` | one resource a line |
//! | `values.json` | value pools for the varied forms of the queries |
//! | `updates.ndjson` | change operations |
//! | `reference-K.json` | the reference evaluator's answers, K varied forms of each query ([`crate::verify`]) |
//! | `expected.json` | number of items and total of every form that was answered and agreed on ([`crate::expected`]) |
//! | `postgres/` | the private PostgreSQL cluster ([`crate::postgres`]) |

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::Args;

/// A directory with a generated inventory.
#[derive(Clone, Debug)]
pub struct DataDir {
    path: PathBuf,
}

impl DataDir {
    /// Opens an existing data directory.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let path = path.canonicalize().with_context(|| format!("data directory {}", path.display()))?;
        let data = DataDir { path };
        ensure!(data.inventory().exists(), "{} is missing: run `lockstep-bench data`", data.inventory().display());
        Ok(data)
    }

    pub fn inventory(&self) -> PathBuf {
        self.path.join("inv.ndjson")
    }

    pub fn values(&self) -> PathBuf {
        self.path.join("values.json")
    }

    pub fn expected(&self) -> PathBuf {
        self.path.join("expected.json")
    }

    pub fn reference(&self, varied_forms: usize) -> PathBuf {
        self.path.join(format!("reference-{varied_forms}.json"))
    }

    pub fn postgres(&self) -> PathBuf {
        self.path.join("postgres")
    }
}

/// Generate an inventory, its value pools and a change stream.
///
/// The same arguments give the same bytes. A million VMs are 1.7 GB of NDJSON: keep them outside the repository.
#[derive(Args)]
pub struct DataArgs {
    /// Number of virtual machines.
    #[arg(long)]
    vms: u64,
    /// Directory to write; created when missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Operations in the change stream.
    #[arg(long, default_value_t = 1000)]
    updates: u64,
    /// The generator script.
    #[arg(long, value_name = "PATH", default_value = "../shared/bench/gen_inventory.py")]
    generator: PathBuf,
    /// The Python interpreter that runs it.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

/// Runs the generator.
pub fn generate(args: &DataArgs) -> anyhow::Result<()> {
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let status = Command::new(&args.python)
        .arg(&args.generator)
        .args(["--vms", &args.vms.to_string(), "--seed", &args.seed.to_string()])
        .args(["--n-updates", &args.updates.to_string()])
        .arg("--out")
        .arg(args.out.join("inv.ndjson"))
        .arg("--values")
        .arg(args.out.join("values.json"))
        .arg("--updates")
        .arg(args.out.join("updates.ndjson"))
        .status()
        .with_context(|| format!("run {}", args.python.display()))?;
    ensure!(status.success(), "{} failed: {status}", args.generator.display());
    // What earlier runs learned holds for the earlier inventory only.
    for entry in std::fs::read_dir(&args.out)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name == "expected.json" || name.starts_with("reference-") {
            std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}
