//! Images of recovered disks, by QEMU's own program.

use std::ffi::OsStr;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lockstep_blocks::Name;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::error::{Error, io_error};
use super::exports::export_name;

/// How long the making of an image may take; nothing is copied for it.
const CREATE_LIMIT: Duration = Duration::from_secs(60);

/// Bytes of what a program prints that are shown to people.
const REASON_BYTES_MAX: usize = 500;

/// `qemu-img`.
#[derive(Debug, Clone)]
pub(super) struct Images {
    pub(super) program: PathBuf,
    /// The socket of the NBD server.
    pub(super) socket: PathBuf,
}

impl Images {
    /// Where QEMU's programs read a disk of an instance.
    pub(super) fn url(&self, name: &Name, disk: u32) -> String {
        let mut url = format!("nbd+unix:///{}?socket=", export_name(name, disk));
        for byte in self.socket.as_os_str().as_encoded_bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                    url.push(char::from(*byte))
                }
                other => url.push_str(&format!("%{other:02X}")),
            }
        }
        url
    }

    /// Makes an image that holds nothing, over a disk of an instance: what is not written is read there.
    pub(super) async fn create(&self, path: &Path, name: &Name, disk: u32, bytes: u64) -> Result<(), Error> {
        let mut command = self.command("create");
        command.args(["-q", "-f", "qcow2", "-F", "raw", "-b", &self.url(name, disk), "--"]).arg(path);
        command.arg(bytes.to_string());
        let mut unheard = |_| ();
        let creating = self.run(command, "qemu-img create", &mut unheard, std::future::pending());
        tokio::time::timeout(CREATE_LIMIT, creating).await.unwrap_or_else(|_| {
            let reason = format!("it took longer than {CREATE_LIMIT:?}");
            Err(Error::Program { program: "qemu-img create".into(), reason })
        })
    }

    /// Copies what an image that nobody has open lacks of the disk below it, and cuts it off. What was copied by a call that was interrupted
    /// is not copied again. `progress` is told percents. It ends when `stop` does; nobody has the image open then.
    ///
    /// # Errors
    /// [`Error::Cancelled`] when it was to stop, [`Error::Program`].
    pub(super) async fn make_independent(
        &self,
        path: &Path,
        progress: &mut (dyn FnMut(f64) + Send),
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        let mut command = self.command("rebase");
        command.args(["-p", "-f", "qcow2", "-b", "", "--"]).arg(path);
        self.run(command, "qemu-img rebase", progress, stop).await
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(verb).stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
        command
    }

    async fn run(
        &self,
        mut command: Command,
        what: &str,
        progress: &mut (dyn FnMut(f64) + Send),
        stop: impl Future<Output = ()>,
    ) -> Result<(), Error> {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = || format!("running {what}");
        let mut child = command.spawn().map_err(io_error(failed()))?;
        let (output, errors) = (child.stdout.take(), child.stderr.take());
        let mut reason = Vec::new();
        // Both at once: a pipe that nobody empties stops the program.
        let running = async {
            let (_, _, ended) = tokio::join!(
                follow(output, |text| text.rsplit('\r').filter_map(percent).take(1).for_each(&mut *progress)),
                follow(errors, |text| {
                    let room = REASON_BYTES_MAX.saturating_sub(reason.len());
                    reason.extend(text.bytes().take(room));
                }),
                child.wait()
            );
            ended.map_err(io_error(failed()))
        };
        let status = tokio::select! {
            status = running => Some(status?),
            () = stop => None,
        };
        let Some(status) = status else {
            // It has the image locked until it is gone.
            child.kill().await.map_err(io_error(failed()))?;
            return Err(Error::Cancelled);
        };
        if status.success() {
            return Ok(());
        }
        Err(Error::Program { program: what.to_owned(), reason: shown(&reason, &status) })
    }
}

/// What a program said, or how it ended when it said nothing.
pub(super) fn shown(words: &[u8], status: &std::process::ExitStatus) -> String {
    let words = String::from_utf8_lossy(&words[..words.len().min(REASON_BYTES_MAX)]);
    match words.trim() {
        "" => status.to_string(),
        words => words.replace('\n', ", "),
    }
}

async fn follow(pipe: Option<impl AsyncRead + Unpin>, mut tell: impl FnMut(&str)) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(bytes @ 1..) = pipe.read(&mut buffer).await {
        tell(&String::from_utf8_lossy(&buffer[..bytes]));
    }
}

/// Of `    (12.34/100%)`.
fn percent(text: &str) -> Option<f64> {
    text.trim().strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()
}

/// A value of one of QEMU's options that are lists: commas in it are doubled.
pub(super) fn escaped(value: &OsStr) -> std::ffi::OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let doubled = value.as_bytes().iter().flat_map(|byte| {
        let times = if *byte == b',' { 2 } else { 1 };
        std::iter::repeat_n(*byte, times)
    });
    std::ffi::OsString::from_vec(doubled.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_as_it_is_printed() {
        assert_eq!(percent("    (12.34/100%)"), Some(12.34));
        for text in ["", "(12.34/100%", "done"] {
            assert_eq!(percent(text), None, "{text}");
        }
    }

    #[test]
    fn what_separates_is_escaped() {
        assert_eq!(escaped(OsStr::new("/a,b")), "/a,,b");
        let images = Images { program: "qemu-img".into(), socket: "/a b&c?/s".into() };
        let name = Name::new("r", "i").unwrap();
        assert_eq!(images.url(&name, 2000), "nbd+unix:///r/i/2000?socket=/a%20b%26c%3F/s");
    }
}
