//! How much of a server's syncs may be under way, and whose turn it is.
//!
//! * [`Memory`], one for a server: the bytes of disks that all its syncs hold together.
//! * [`Line`], one for each link: so many puts in flight, so many bytes a second. Syncs that wait take turns, and who has sent the least
//!   goes first, so each gets the same share of the line however many disks it has or how fast it reads.
//! * [`Flow`], one for each sync: its place in the line, and what a break of the connection may cost it.
//!
//! A turn, and a piece of memory, are given back when they are dropped; a sync that is cancelled leaves nothing behind.
//!
//! # What a break may cost
//! Bytes that are under way when the connection breaks, or the destination dies, are sent again. So that a sync over a bad line still
//! sends hardly more than it must, what is not acknowledged is kept below a share of what was ([`WASTE_SHARE`]), less what was wasted
//! already. There is a floor: [`WINDOW_MIN`] until the first break, [`WINDOW_BROKEN_MIN`] from then on, and from the beginning of a sync
//! that takes up one which was broken off ([`Line::join_again`]).

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

/// Most puts of a link that are under way at a time: enough to fill a line of 50 ms and 2 Gbit/s.
pub const PUTS_IN_FLIGHT_MAX: usize = 4;

/// Bytes of disks that all syncs of a server hold at a time.
pub const MEMORY_BYTES_MAX: usize = 256 << 20;

/// What was wasted stays below one part in so many of what was useful.
pub const WASTE_SHARE: u64 = 25;

/// Least unacknowledged bytes before anything has broken.
pub const WINDOW_MIN: u64 = 2 << 20;

/// Least unacknowledged bytes once something has.
pub const WINDOW_BROKEN_MIN: u64 = 128 << 10;

/// Most unacknowledged bytes of one sync.
pub const WINDOW_MAX: u64 = 16 << 20;

/// Least bytes of a frame, where there is room for two of them: smaller ones cost as many answers and flushes.
const FRAME_MIN: u64 = 512 << 10;

/// How far a limited line may run ahead after a pause.
const BURST: Duration = Duration::from_millis(250);

/// The unit in which memory is counted.
const MEMORY_UNIT: usize = 64 << 10;

/// The memory of a server's syncs.
#[derive(Debug, Clone)]
pub struct Memory {
    units: Arc<Semaphore>,
    most: usize,
}

/// A piece of [`Memory`].
#[derive(Debug)]
pub struct Held {
    /// Given back when this is dropped.
    _permit: OwnedSemaphorePermit,
}

impl Default for Memory {
    fn default() -> Self {
        Self::new(MEMORY_BYTES_MAX)
    }
}

impl Memory {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        let most = (bytes / MEMORY_UNIT).clamp(1, u32::MAX as usize);
        Self { units: Arc::new(Semaphore::new(most)), most }
    }

    /// Waits for so many bytes. More than there are is all there are.
    pub async fn take(&self, bytes: usize) -> Held {
        let units = bytes.div_ceil(MEMORY_UNIT).clamp(1, self.most);
        match self.units.clone().acquire_many_owned(units as u32).await {
            Ok(permit) => Held { _permit: permit },
            // Nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }
}

/// What goes over a link, in turns.
#[derive(Debug)]
pub struct Line {
    /// Held for a few steps; never while waiting.
    state: Mutex<State>,
    this: Weak<Line>,
}

#[derive(Debug)]
struct State {
    flows: BTreeMap<u64, Queue>,
    next_flow: u64,
    in_flight: usize,
    in_flight_max: usize,
    bytes_per_s: Option<u64>,
    /// Bytes that may go at once; below zero, what went ahead of its time.
    credit: f64,
    credited: Instant,
    is_timed: bool,
    /// What the flow that went last had sent: newcomers begin there, not with all that they did not send before.
    floor: u64,
}

#[derive(Debug, Default)]
struct Queue {
    sent: u64,
    waiting: VecDeque<(u64, oneshot::Sender<Turn>)>,
}

impl Line {
    /// A line; without a limit when `bytes_per_s` is none or zero.
    pub fn new(bytes_per_s: Option<u64>) -> Arc<Self> {
        Self::with_puts(bytes_per_s, PUTS_IN_FLIGHT_MAX)
    }

    /// The same with another number of puts in flight.
    pub fn with_puts(bytes_per_s: Option<u64>, in_flight_max: usize) -> Arc<Self> {
        let state = State {
            flows: BTreeMap::new(),
            next_flow: 0,
            in_flight: 0,
            in_flight_max: in_flight_max.max(1),
            bytes_per_s: bytes_per_s.filter(|rate| *rate > 0),
            credit: 0.0,
            credited: Instant::now(),
            is_timed: false,
            floor: 0,
        };
        Arc::new_cyclic(|this| Self { state: Mutex::new(state), this: this.clone() })
    }

    /// Changes the limit, for those who wait as well.
    pub fn set_bytes_per_s(&self, bytes_per_s: Option<u64>) {
        let mut state = self.state.lock();
        state.refill();
        state.bytes_per_s = bytes_per_s.filter(|rate| *rate > 0);
        state.credit = state.credit.min(0.0);
        self.serve(&mut state);
    }

    /// A place in the line.
    pub fn join(self: &Arc<Self>) -> Flow {
        self.join_with(Window::default())
    }

    /// The same for who was broken off before: what broke it may be there still.
    pub fn join_again(self: &Arc<Self>) -> Flow {
        self.join_with(Window { has_broken: true, ..Window::default() })
    }

    fn join_with(self: &Arc<Self>, window: Window) -> Flow {
        let mut state = self.state.lock();
        let id = state.next_flow;
        state.next_flow += 1;
        let queue = Queue { sent: state.floor, waiting: VecDeque::new() };
        state.flows.insert(id, queue);
        Flow { line: self.clone(), id, window: Mutex::new(window), freed: Notify::new() }
    }

    /// Gives turns as far as there are any.
    fn serve(&self, state: &mut State) {
        let Some(this) = self.this.upgrade() else { return };
        while state.in_flight < state.in_flight_max {
            let waiting = state.flows.iter().filter(|(_, queue)| !queue.waiting.is_empty());
            let Some(id) = waiting.min_by_key(|(id, queue)| (queue.sent, **id)).map(|(id, _)| *id) else { return };
            if let Some(wait) = state.wait() {
                if !state.is_timed {
                    state.is_timed = true;
                    let line = self.this.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        if let Some(line) = line.upgrade() {
                            let mut state = line.state.lock();
                            state.is_timed = false;
                            line.serve(&mut state);
                        }
                    });
                }
                return;
            }
            let Some(queue) = state.flows.get_mut(&id) else { return };
            let Some((bytes, give)) = queue.waiting.pop_front() else { return };
            match give.send(Turn { line: Some(this.clone()) }) {
                Ok(()) => {
                    queue.sent += bytes;
                    state.floor = queue.sent - bytes;
                    state.in_flight += 1;
                    state.credit -= bytes as f64;
                }
                // Who asked has gone. The turn must not give itself back while the state is held.
                Err(mut turn) => turn.line = None,
            }
        }
    }
}

impl State {
    /// How long until something may go; none: at once.
    fn wait(&mut self) -> Option<Duration> {
        let rate = self.bytes_per_s?;
        self.refill();
        (self.credit < 0.0).then(|| Duration::from_secs_f64((-self.credit / rate as f64).clamp(0.001, 60.0)))
    }

    fn refill(&mut self) {
        let now = Instant::now();
        let past = now.duration_since(self.credited);
        self.credited = now;
        if let Some(rate) = self.bytes_per_s {
            let most = rate as f64 * BURST.as_secs_f64();
            self.credit = (self.credit + rate as f64 * past.as_secs_f64()).min(most);
        }
    }
}

/// One put's right to be under way.
#[derive(Debug)]
pub struct Turn {
    line: Option<Arc<Line>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(line) = self.line.take() {
            let mut state = line.state.lock();
            state.in_flight -= 1;
            line.serve(&mut state);
        }
    }
}

/// A sync's place in the line.
#[derive(Debug)]
pub struct Flow {
    line: Arc<Line>,
    id: u64,
    /// Held for a few steps.
    window: Mutex<Window>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Window {
    under_way: u64,
    useful: u64,
    wasted: u64,
    has_broken: bool,
}

impl Window {
    fn most(&self) -> u64 {
        let least = if self.has_broken { WINDOW_BROKEN_MIN } else { WINDOW_MIN };
        (self.useful / WASTE_SHARE).saturating_sub(self.wasted).clamp(least, WINDOW_MAX)
    }
}

/// Bytes that are under way. Dropped without [`Sent::arrived`], they are wasted.
#[derive(Debug)]
pub struct Sent<'a> {
    flow: &'a Flow,
    bytes: u64,
    has_arrived: bool,
    /// None until it is theirs.
    turn: Option<Turn>,
}

impl Flow {
    /// How large a frame is best: as many fit into what may be under way as a link carries at a time, so that one is received while
    /// another is made durable; two at least.
    pub fn frame_bytes(&self, most: usize) -> usize {
        let window = self.window.lock().most();
        let best = (window / PUTS_IN_FLIGHT_MAX as u64).max(FRAME_MIN).min(window / 2);
        usize::try_from(best).unwrap_or(most).min(most)
    }

    /// Waits until so many bytes may be sent. More than may be under way go when nothing else is; none if so many of them could be sent
    /// in parts, and are alone more than that: something has broken since they were put together.
    pub async fn send(&self, bytes: u64, divisible_bytes: u64) -> Option<Sent<'_>> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Listening begins before the look, so that nothing is missed in between.
            freed.as_mut().enable();
            {
                let mut window = self.window.lock();
                if divisible_bytes > window.most() {
                    return None;
                }
                if window.under_way == 0 || window.under_way + bytes <= window.most() {
                    window.under_way += bytes;
                    break;
                }
            }
            freed.await;
        }
        // From here on the bytes are given back whatever happens.
        let mut sent = Sent { flow: self, bytes, has_arrived: false, turn: None };
        let (give, turn) = oneshot::channel();
        {
            let mut state = self.line.state.lock();
            let floor = state.floor;
            if let Some(queue) = state.flows.get_mut(&self.id) {
                if queue.waiting.is_empty() {
                    queue.sent = queue.sent.max(floor);
                }
                queue.waiting.push_back((bytes, give));
            }
            self.line.serve(&mut state);
        }
        sent.turn = turn.await.ok();
        Some(sent)
    }

    /// What was sent so far and had to be sent again, or may have to be, in bytes.
    pub fn wasted_bytes(&self) -> u64 {
        self.window.lock().wasted
    }
}

impl Sent<'_> {
    /// They need not be sent again.
    pub fn arrived(mut self) {
        self.has_arrived = true;
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        {
            let mut window = self.flow.window.lock();
            window.under_way -= self.bytes;
            // What never got its turn was not sent.
            match (self.has_arrived, self.turn.is_some()) {
                (true, _) => window.useful += self.bytes,
                (false, true) => {
                    window.wasted += self.bytes;
                    window.has_broken = true;
                }
                (false, false) => {}
            }
        }
        self.flow.freed.notify_waiters();
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.line.state.lock().flows.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn flows_get_the_same_share_however_much_they_ask_for() {
        let line = Line::with_puts(None, 1);
        let (greedy, modest) = (line.join(), line.join());
        let first = greedy.send(1000, 0).await.unwrap();
        let order = Mutex::new(Vec::new());
        let one = async |flow: &Flow, name: char, bytes: u64| {
            let sent = flow.send(bytes, 0).await.unwrap();
            order.lock().push(name);
            sent.arrived();
        };
        // All ask while the line is taken; the greedy one more often and for as much.
        let all = async {
            tokio::join!(
                one(&greedy, 'g', 1000),
                one(&greedy, 'g', 1000),
                one(&greedy, 'g', 1000),
                one(&modest, 'm', 1000),
                one(&modest, 'm', 1000),
            )
        };
        let free = async {
            tokio::task::yield_now().await;
            first.arrived();
        };
        tokio::join!(all, free);
        assert_eq!(order.into_inner().iter().collect::<String>(), "mgmgg");
    }

    #[tokio::test]
    async fn who_gives_up_waiting_takes_no_turn() {
        let line = Line::with_puts(None, 1);
        let flow = line.join();
        let first = flow.send(10, 0).await.unwrap();
        {
            let second = flow.send(10, 0);
            let mut second = std::pin::pin!(second);
            assert!(tokio::time::timeout(Duration::ZERO, second.as_mut()).await.is_err());
        }
        first.arrived();
        drop(flow.send(10, 0).await);
        assert_eq!(line.state.lock().in_flight, 0);
        assert_eq!(flow.wasted_bytes(), 10);
        drop(flow);
        assert!(line.state.lock().flows.is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_limited_line_keeps_to_its_rate() {
        let line = Line::new(Some(100_000_000));
        let flow = line.join();
        let begun = Instant::now();
        for _ in 0..20 {
            flow.send(1_000_000, 0).await.unwrap().arrived();
        }
        // 20 MB at 100 MB/s; the last megabyte goes ahead of its time.
        assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_break_costs_a_share_of_what_was_sent() {
        let most = |useful, wasted, has_broken| Window { under_way: 0, useful, wasted, has_broken }.most();
        assert_eq!(most(0, 0, false), WINDOW_MIN);
        assert_eq!(most(0, 0, true), WINDOW_BROKEN_MIN);
        assert_eq!(most(100 << 20, 0, true), 4 << 20);
        assert_eq!(most(100 << 20, 3 << 20, true), 1 << 20);
        assert_eq!(most(u64::MAX, 0, false), WINDOW_MAX);
    }

    #[tokio::test]
    async fn what_has_become_too_large_is_sent_in_parts_if_it_has_any() {
        let flow = Line::new(None).join();
        flow.send(WINDOW_MIN, WINDOW_MIN).await.unwrap().arrived();
        drop(flow.send(1000, 1000).await.unwrap());
        assert!(flow.send(WINDOW_MIN, WINDOW_MIN).await.is_none());
        // What is large for another reason is not put together anew for ever.
        flow.send(WINDOW_MIN, WINDOW_BROKEN_MIN).await.unwrap().arrived();
        flow.send(WINDOW_BROKEN_MIN, WINDOW_BROKEN_MIN).await.unwrap().arrived();
    }

    #[tokio::test]
    async fn memory_is_waited_for_and_never_more_than_there_is() {
        let memory = Memory::new(1 << 20);
        let all = memory.take(100 << 20).await;
        assert!(tokio::time::timeout(Duration::ZERO, memory.take(1)).await.is_err());
        drop(all);
        memory.take(1 << 20).await;
    }
}
