//! `lockstep task`: what takes long, and how it goes.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use lockstep_client::Client;
use lockstep_contract::services::replication::vm;
use lockstep_contract::services::tasks::{Cancel, Get, List, ListInput, Log, State, Task, TaskInput};
use serde_json::json;

use super::Context;
use crate::json;
use crate::output::{Listing, print};
use crate::times;

/// How often a task that is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(250);

/// List tasks, watch them, and cancel them.
#[derive(Debug, clap::Subcommand)]
pub enum TaskCommand {
    /// List tasks, the youngest first.
    #[command(after_help = "Examples:\n  lockstep task list\n  lockstep task list --state failed --limit 20\n  \
        lockstep task list --operation-id deploy-17 --output json")]
    List {
        /// Only those in this state
        #[arg(long, value_enum)]
        state: Option<TaskState>,
        /// Only those that this user asked for
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only those about this: the id of a replication
        #[arg(long, value_name = "ID")]
        resource: Option<String>,
        /// Only those of this operation id
        #[arg(long, value_name = "ID")]
        operation_id: Option<String>,
        /// How many at most
        #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
    },
    /// Show a task: its state, its result or why it failed, and what it has told.
    #[command(after_help = "Example:\n  lockstep task get 0b54fb28-1a3e-4d27-9a6e-1d5d0ad6c3d1")]
    Get {
        /// The task's id
        task: String,
    },
    /// Wait for a task, and show how it gets on. Ends with 1 when it failed.
    #[command(after_help = "Example:\n  lockstep task watch 0b54fb28-1a3e-4d27-9a6e-1d5d0ad6c3d1")]
    Watch {
        /// The task's id
        task: String,
    },
    /// Ask a task to end. It has failed as soon as it has put things in order.
    #[command(after_help = "Example:\n  lockstep task cancel 0b54fb28-1a3e-4d27-9a6e-1d5d0ad6c3d1")]
    Cancel {
        /// The task's id
        task: String,
    },
}

/// A state of tasks.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum TaskState {
    /// Not ended.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended otherwise.
    Failed,
}

impl TaskCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<ExitCode> {
        match self {
            Self::List { state, user, resource, operation_id, limit } => {
                let state = state.map(|state| match state {
                    TaskState::Running => State::Running,
                    TaskState::Succeeded => State::Succeeded,
                    TaskState::Failed => State::Failed,
                });
                let input = ListInput {
                    user,
                    state,
                    resource_type: None,
                    resource_id: resource,
                    source_org: None,
                    destination_org: None,
                    start_time_after: None,
                    start_time_before: None,
                    operation_id,
                    offset: None,
                    limit: Some(limit),
                };
                let page = context.client.call(List, input).await?;
                let columns = ["task", "what", "of", "state", "progress", "begun", "took", "user", "error"];
                let mut listing = Listing::new(columns).whole(&["task"]).at_right(&["progress", "took"]);
                page.items.iter().for_each(|task| listing.push(row(task)));
                print(context.output, &listing, &json::value(&page.items))?;
                if page.total > limit {
                    eprintln!("{} of {} tasks", page.items.len(), page.total);
                }
                Ok(ExitCode::SUCCESS)
            }
            Self::Get { task } => {
                let input = || TaskInput { task: task.clone() };
                let found = context.client.call(Get, input()).await?;
                let log = context.client.call(Log, input()).await?;
                let mut value = json::value(&found);
                value["log"] = json!(log.iter().map(json::value).collect::<Vec<_>>());
                let mut listing = Listing::new(["property", "value"]).whole(&["value"]);
                for (name, cell) in DETAILS.iter().zip(row(&found)) {
                    listing.push([json!(name), cell]);
                }
                for line in &log {
                    listing.push([json!(times::utc(line.time / 1000)), json!(line.text)]);
                }
                print(context.output, &listing, &value)?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Watch { task } => {
                let found = context.client.call(Get, TaskInput { task }).await?;
                let ended = wait(&context.client, found).await?;
                let mut listing = Listing::new(DETAILS).whole(&["task"]);
                listing.push(row(&ended));
                print(context.output, &listing, &json::value(&ended))?;
                Ok(outcome(&ended))
            }
            Self::Cancel { task } => {
                let found = context.client.call(Cancel, TaskInput { task }).await?;
                if found.state != State::Running {
                    eprintln!("the task has ended already");
                }
                let ended = wait(&context.client, found).await?;
                let mut listing = Listing::new(DETAILS).whole(&["task"]);
                listing.push(row(&ended));
                print(context.output, &listing, &json::value(&ended))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The columns of [`row`].
const DETAILS: [&str; 9] = ["task", "what", "of", "state", "progress", "begun", "took", "user", "error"];

fn row(task: &Task) -> [serde_json::Value; 9] {
    let end_ms = if task.end_time < 0 { task.last_updated } else { task.end_time };
    let error = task.error.as_ref().map(|error| format!("{}: {}", error.code, error.msg));
    [
        json!(task.id),
        json!(task.workflow_info.kind),
        json!(task.workflow_info.resource_name),
        json!(task.state.name()),
        json!(format!("{} %", task.progress)),
        json!(times::relative(task.start_time / 1000, times::now_s())),
        json!(format!("{:.1} s", (end_ms - task.start_time).max(0) as f64 / 1000.0)),
        json!(task.user),
        json!(error),
    ]
}

/// What a command that waited for a task ends with.
pub(crate) fn outcome(task: &Task) -> ExitCode {
    if task.state == State::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits for a task with a bar on a terminal, and tells its warnings and why it failed. Ctrl-C ends the waiting, and not the task.
///
/// # Errors
/// What hinders a call.
pub(crate) async fn wait(client: &Client, mut task: Task) -> Result<Task> {
    let bar = bar(&task);
    while task.state == State::Running {
        tokio::time::sleep(POLL_EVERY).await;
        task = client.call(Get, TaskInput { task: task.id.clone() }).await?;
        let Some(bar) = &bar else { continue };
        bar.set_position(u64::try_from(task.progress).unwrap_or(0));
        if task.workflow_info.kind == "sync" && task.state == State::Running {
            bar.set_message(sync_message(client, &task).await.unwrap_or_default());
        }
    }
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    for warning in &task.warnings {
        eprintln!("warning: {}", warning.msg);
    }
    if let Some(error) = &task.error {
        eprintln!("{} failed: {} ({})", task.workflow_info.kind, error.msg, error.code);
    }
    Ok(task)
}

fn bar(task: &Task) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() || task.state != State::Running {
        return None;
    }
    let what = format!("{} {}", task.workflow_info.kind, task.workflow_info.resource_name);
    let bar = ProgressBar::new(100).with_prefix(what);
    // The template is a constant that parses.
    if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent} %, {msg} ETA {eta}") {
        bar.set_style(style);
    }
    Some(bar)
}

/// How a sync gets on: its rate, what differs, what was sent of that, and how much was there already.
async fn sync_message(client: &Client, task: &Task) -> Option<String> {
    let input = vm::Input { replication_id: task.workflow_info.resource_id.clone() };
    let now = client.call(vm::Get, input).await.ok()?.sync_progress?;
    let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
    let took_s = (task.last_updated - task.start_time).max(1) as f64 / 1000.0;
    let rate = HumanBytes((bytes(now.done_bytes) as f64 / took_s) as u64);
    let (changed, sent) = (HumanBytes(bytes(now.changed_bytes)), HumanBytes(bytes(now.wire_bytes)));
    Some(format!("{rate}/s, {changed} changed, {sent} sent,{}", there(now.changed_bytes, now.sent_bytes)))
}

/// Which part of what differs was there already.
pub(crate) fn there(changed_bytes: i64, sent_bytes: i64) -> String {
    if changed_bytes <= 0 {
        return String::new();
    }
    format!(" {:.0} % there already,", 100.0 * (changed_bytes - sent_bytes).max(0) as f64 / changed_bytes as f64)
}
