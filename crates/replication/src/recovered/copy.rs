//! Making recovered disks independent of the instance.
//!
//! A running machine's QEMU copies what its disks lack while the guest works (`block-stream`); those of one that is off are copied by
//! `qemu-img`. Neither relies on what a QEMU that is killed would lose. Both go on where an earlier try stopped, since what is copied is
//! in the image, and an image is cut off from the instance only when it holds everything.

use std::time::Duration;

use lockstep_qemu::qmp::Qmp;
use serde_json::{Value, json};

use super::error::Error;
use super::guest::{instance_node, node};
use super::state::Place;

/// How often a copying QEMU is asked how far it is.
const POLL_PAUSE: Duration = Duration::from_millis(200);

/// What a running QEMU made of a disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Streamed {
    /// The disk holds everything.
    Whole,
    /// QEMU ended; the rest can be copied without it.
    Ended,
}

/// Has the disk of a running machine copied. `progress` is told done and all, in QEMU's measure.
///
/// # Errors
/// What QEMU says, such as that the instance cannot be read.
pub(super) async fn stream(
    place: &Place,
    index: usize,
    progress: &mut (dyn FnMut(u64, u64) + Send),
) -> Result<Streamed, Error> {
    let ended = |error: lockstep_qemu::Error| match error {
        lockstep_qemu::Error::Command { .. }
        | lockstep_qemu::Error::Busy { .. }
        | lockstep_qemu::Error::Timeout { .. } => Err(Error::Qemu(error)),
        _ => Ok(Streamed::Ended),
    };
    let streaming = async {
        let control = Qmp::connect(&place.control()).await?;
        stream_by(&control, index, progress).await
    };
    match streaming.await {
        Ok(()) => Ok(Streamed::Whole),
        Err(Error::Qemu(error)) => ended(error),
        Err(error) => Err(error),
    }
}

async fn stream_by(control: &Qmp, index: usize, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<(), Error> {
    let job = format!("stream{index}");
    let mut is_begun = false;
    loop {
        let found = find(&control.execute("query-jobs", Value::Null).await?, &job);
        match found {
            // Begun by us before, or by a process before this one.
            Some(found) => {
                progress(
                    found["current-progress"].as_u64().unwrap_or(0),
                    found["total-progress"].as_u64().unwrap_or(0),
                );
                if found["status"] == "concluded" {
                    control.execute("job-dismiss", json!({"id": job})).await?;
                    // One that somebody cancelled is begun anew by the next call.
                    if let Some(reason) = found["error"].as_str() {
                        return Err(Error::Program {
                            program: format!("copying {}", node(index)),
                            reason: reason.into(),
                        });
                    }
                    break;
                }
                is_begun = true;
                // What QEMU has not written yet of the image's tables would be lost with it, and no instance would be below any more.
                if found["status"] == "pending" {
                    flush(control, index).await?;
                    control.execute("job-finalize", json!({"id": job})).await?;
                    continue;
                }
                tokio::time::sleep(POLL_PAUSE).await;
            }
            None if is_begun => break,
            None => {
                if !has_below(control, index).await? {
                    break;
                }
                let arguments =
                    json!({"job-id": job, "device": node(index), "auto-dismiss": false, "auto-finalize": false});
                control.execute("block-stream", arguments).await?;
                is_begun = true;
            }
        }
    }
    // Its node goes only when nothing reads it: so this is a second witness that the disk is whole, and it ends the connection.
    if nodes(control).await?.iter().any(|found| found["node-name"] == instance_node(index)) {
        control.execute("blockdev-del", json!({"node-name": instance_node(index)})).await?;
    }
    if has_below(control, index).await? {
        let reason = "the disk still needs the instance".to_owned();
        return Err(Error::Program { program: format!("copying {}", node(index)), reason });
    }
    Ok(())
}

/// Has QEMU write what it holds back of a disk.
async fn flush(control: &Qmp, index: usize) -> Result<(), Error> {
    let arguments = json!({"command-line": format!("qemu-io {} flush", node(index))});
    let said = control.execute("human-monitor-command", arguments).await?;
    match said.as_str().unwrap_or_default().trim() {
        "" => Ok(()),
        reason => Err(Error::Program { program: format!("flushing {}", node(index)), reason: reason.to_owned() }),
    }
}

/// Ends a copying that was begun; the disk goes on needing the instance.
pub(super) async fn cancel(place: &Place, index: usize) -> Result<(), Error> {
    let control = Qmp::connect(&place.control()).await?;
    let job = format!("stream{index}");
    match control.execute("job-cancel", json!({"id": job})).await {
        // It may just have ended.
        Ok(_) | Err(lockstep_qemu::Error::Command { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    loop {
        match find(&control.execute("query-jobs", Value::Null).await?, &job) {
            None => return Ok(()),
            Some(job_now) if job_now["status"] == "concluded" => {
                control.execute("job-dismiss", json!({"id": job})).await?;
                return Ok(());
            }
            Some(_) => tokio::time::sleep(POLL_PAUSE).await,
        }
    }
}

fn find(jobs: &Value, job: &str) -> Option<Value> {
    jobs.as_array()?.iter().find(|found| found["id"] == job).cloned()
}

/// Whether a disk has the instance below it.
async fn has_below(control: &Qmp, index: usize) -> Result<bool, Error> {
    let what = node(index);
    let nodes = nodes(control).await?;
    let found = nodes.iter().find(|found| found["node-name"] == what);
    let found = found.ok_or(lockstep_qemu::Error::NoDisk { what })?;
    let depth = found["backing_file_depth"].as_u64();
    depth.map(|depth| depth > 0).ok_or_else(|| {
        let reason = "QEMU does not tell what is below a disk".to_owned();
        Error::Program { program: format!("copying {}", node(index)), reason }
    })
}

async fn nodes(control: &Qmp) -> Result<Vec<Value>, Error> {
    // When it is asked to be flat, it says of every node that nothing is below it.
    let nodes = control.execute("query-named-block-nodes", json!({"flat": false})).await?;
    match nodes {
        Value::Array(nodes) => Ok(nodes),
        _ => Ok(Vec::new()),
    }
}
