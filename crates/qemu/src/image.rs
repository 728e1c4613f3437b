//! QEMU's own programs for images: the only ones that may write to a qcow2 that has bitmaps, since any other writer must
//! invalidate them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use crate::bitmaps::{Action, Found, Tag};
use crate::{Error, Result};

/// How long one call of a program may take; none of them touches data.
const TOOL_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of what a program prints that are shown to people.
const REASON_BYTES_MAX: usize = 500;

/// How an image is read. It is never guessed from its content: a guest writes what it likes to a raw disk, the head of a qcow2
/// that names a file of the host too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// QEMU's format, which can keep bitmaps.
    Qcow2,
    /// The disk's bytes, in a file or a block device.
    Raw,
}

impl Format {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// What `qemu-img info` tells of a qcow2 image.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) bytes: u64,
    /// Whether the image's version can keep bitmaps.
    pub(crate) keeps_bitmaps: bool,
    pub(crate) bitmaps: Vec<Found>,
}

/// Looks at a qcow2 image. Refused with [`Error::InUse`] when a running QEMU has it open for writing.
pub(crate) async fn info(path: &Path, tag: &Tag) -> Result<Info> {
    let text = qemu_img(path, &["info", "-f", "qcow2", "--output=json", "--"], &[path.as_os_str()]).await?;
    let info: Value = serde_json::from_str(&text).map_err(|error| tool("qemu-img info", &error.to_string()))?;
    let bytes = info["virtual-size"].as_u64().ok_or_else(|| tool("qemu-img info", "it tells no size"))?;
    let data = &info["format-specific"]["data"];
    let bitmaps = data["bitmaps"].as_array().map(Vec::as_slice).unwrap_or_default().iter().filter_map(|bitmap| {
        let has = |flag: &str| bitmap["flags"].as_array().is_some_and(|flags| flags.iter().any(|found| found == flag));
        let number = tag.number(bitmap["name"].as_str()?)?;
        Some(Found { number, is_recording: has("auto"), is_inconsistent: has("in-use") })
    });
    Ok(Info { bytes, keeps_bitmaps: data["compat"] != "0.10", bitmaps: bitmaps.collect() })
}

/// Changes the bitmaps of a qcow2 image; each change by itself is safe to lose or to repeat.
pub(crate) async fn apply(path: &Path, tag: &Tag, actions: &[Action]) -> Result<()> {
    for action in actions {
        let (options, bitmap) = match action {
            Action::Enable(number) => (vec!["--enable".to_owned()], tag.bitmap(*number)),
            Action::Merge { target, source } => (vec!["--merge".into(), tag.bitmap(*source)], tag.bitmap(*target)),
            Action::Remove(number) => (vec!["--remove".into()], tag.bitmap(*number)),
        };
        change_bitmap(path, &options, &bitmap).await?;
    }
    Ok(())
}

/// Adds a bitmap that records from the next start on.
pub(crate) async fn add_bitmap(path: &Path, bitmap: &str, granularity: u32) -> Result<()> {
    change_bitmap(path, &["--add".to_owned(), "-g".to_owned(), granularity.to_string()], bitmap).await
}

async fn change_bitmap(path: &Path, options: &[String], bitmap: &str) -> Result<()> {
    let mut arguments = vec!["bitmap", "-f", "qcow2"];
    arguments.extend(options.iter().map(String::as_str));
    arguments.push("--");
    qemu_img(path, &arguments, &[path.as_os_str(), bitmap.as_ref()]).await.map(drop)
}

/// Makes an empty qcow2 image.
pub(crate) async fn create(path: &Path, bytes: u64) -> Result<()> {
    let bytes = bytes.to_string();
    qemu_img(path, &["create", "-q", "-f", "qcow2", "--"], &[path.as_os_str(), bytes.as_ref()]).await.map(drop)
}

async fn qemu_img(path: &Path, arguments: &[&str], operands: &[&std::ffi::OsStr]) -> Result<String> {
    let mut command = Command::new("qemu-img");
    command.args(arguments).args(operands).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let name = format!("qemu-img {}", arguments.first().unwrap_or(&""));
    let output = tokio::time::timeout(TOOL_LIMIT, command.output())
        .await
        .map_err(|_| Error::Timeout { what: name.clone(), limit: TOOL_LIMIT })?
        .map_err(Error::io(format!("starting {name}")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failure(&name, path, &output.stderr))
}

/// What a program's words mean.
pub(crate) fn failure(program: &str, path: &Path, words: &[u8]) -> Error {
    let words = &words[..words.len().min(REASON_BYTES_MAX)];
    let text = String::from_utf8_lossy(words);
    let text = text.trim().replace('\n', ", ");
    if text.contains(" lock") && text.contains("Failed to get") {
        return Error::InUse { path: PathBuf::from(path), by: "a QEMU that runs".into() };
    }
    tool(program, &text)
}

fn tool(program: &str, reason: &str) -> Error {
    Error::Tool { program: program.to_owned(), reason: reason.to_owned() }
}
