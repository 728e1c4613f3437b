//! Commits made while readers wait: one small update each, on a connection and a thread of their own, so that the time of the
//! acknowledgement does not wait for the readers' turn.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{anyhow, ensure};
use serde_json::json;

use crate::http::{Client, Server};

/// VMs that are updated in turn: `vm-1` to this one. The smallest inventory has them all.
const VMS: usize = 1000;

/// An acknowledged commit.
#[derive(Debug)]
pub struct Committed {
    /// When the request was sent.
    pub sent: Instant,
    /// When its acknowledgement had been read.
    pub acked: Instant,
}

/// The thread that commits. It ends when this is dropped.
pub struct Committer {
    orders: Option<Sender<Order>>,
    /// How many were ordered.
    count: Cell<usize>,
    committed: Receiver<anyhow::Result<Committed>>,
    thread: Option<JoinHandle<()>>,
}

/// A commit to be made.
struct Order {
    vm: String,
    when: Instant,
}

impl Committer {
    pub fn start(server: &Server) -> anyhow::Result<Self> {
        let client = server.connect_logged_in()?;
        let (orders, incoming) = channel();
        let (outgoing, committed) = channel();
        let thread = std::thread::Builder::new()
            .name("committer".into())
            .spawn(move || commit_in_order(client, &incoming, &outgoing))?;
        Ok(Committer { orders: Some(orders), count: Cell::new(0), committed, thread: Some(thread) })
    }

    /// Asks for the next commit, to be sent at `when`, and says which VM it will change.
    pub fn order(&self, when: Instant) -> anyhow::Result<String> {
        let vm = format!("vm-{}", 1 + self.count.get() % VMS);
        self.count.set(self.count.get() + 1);
        let orders = self.orders.as_ref().ok_or_else(|| anyhow!("the committer has ended"))?;
        orders.send(Order { vm: vm.clone(), when }).map_err(|_| anyhow!("the committer has ended"))?;
        Ok(vm)
    }

    /// The next acknowledged commit, in the order of the orders; `None` when there is none yet.
    pub fn next(&self) -> anyhow::Result<Option<Committed>> {
        match self.committed.try_recv() {
            Ok(committed) => committed.map(Some),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(anyhow!("the committer has ended")),
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            eprintln!("the committer panicked");
        }
    }
}

fn commit_in_order(mut client: Client, orders: &Receiver<Order>, committed: &Sender<anyhow::Result<Committed>>) {
    for Order { vm, when } in orders {
        std::thread::sleep(when.saturating_duration_since(Instant::now()));
        let result = commit(&mut client, &vm);
        let is_over = result.is_err();
        if committed.send(result).is_err() || is_over {
            return;
        }
    }
}

/// Sets a text that no earlier run set, since an update that changes nothing makes no event.
fn commit(client: &mut Client, vm: &str) -> anyhow::Result<Committed> {
    let path = format!("/api/lockstep/resources/VirtualMachine/{vm}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos();
    let body = serde_json::to_vec(&json!({"properties": {"annotation": format!("bench at {now}")}}))?;
    let sent = Instant::now();
    let answer = client.request("PATCH", &path, &body)?;
    let acked = Instant::now();
    let text = String::from_utf8_lossy(&answer.body);
    ensure!((200..300).contains(&answer.status), "PATCH {path}: status {}: {text}", answer.status);
    ensure!(answer.header("lockstep-position").is_some(), "PATCH {path}: no Lockstep-Position in the answer");
    Ok(Committed { sent, acked })
}
