//! What a server gives at most, and the counting that holds it to that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a server gives at most. Reaching a limit is an error that the client can name, never a wait of the others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections; beyond it a new one is closed, after a 503 where it can be said without TLS.
    pub connections_max: u64,
    /// Requests that are being worked on, but for those that wait; beyond it: 503.
    pub requests_in_flight_max: u64,
    /// Requests that wait for something to tell, and event streams; beyond it: 503.
    pub parked_max: u64,
    /// Bytes of a request's body, but for an import, which has no end; beyond it: 413.
    pub body_bytes_max: u64,
    /// Bytes of all bodies that are held at a time; beyond it: 503.
    pub body_bytes_total_max: u64,
    /// Bytes of a request's line and headers; beyond it: 431.
    pub head_bytes_max: usize,
    /// How long a kept connection may be idle, and a request's head may take; then it is closed.
    pub head_timeout: Duration,
    /// How long a request's body may take, and an import may be silent; then: 408.
    pub body_timeout: Duration,
    /// How long a client may leave an answer untaken; then the connection is closed.
    pub stall_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long requests under way may take to end when the server stops.
    pub stop_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 25_000,
            requests_in_flight_max: 1024,
            parked_max: 20_000,
            body_bytes_max: 16 << 20,
            body_bytes_total_max: 128 << 20,
            head_bytes_max: 64 << 10,
            head_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(20),
        }
    }
}

/// Something of which there is a limited amount.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicU64,
    max: u64,
}

impl Budget {
    /// All of it free.
    pub fn new(max: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), max })
    }

    /// How much is in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes some, unless that is more than is left. It is given back when the share is dropped.
    pub fn take(self: &Arc<Self>, amount: u64) -> Option<Share> {
        let mut share = Share { budget: self.clone(), amount: 0 };
        share.grow(amount).then_some(share)
    }
}

/// Some of a [`Budget`].
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    amount: u64,
}

impl Share {
    /// Takes more, unless that is more than is left; answers whether it did.
    pub fn grow(&mut self, more: u64) -> bool {
        let fits = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.budget.max);
        // Relaxed: the number guards no other memory.
        let taken = self.budget.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        if taken {
            self.amount += more;
        }
        taken
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_gives_no_more_than_it_has_and_takes_back_all() {
        let budget = Budget::new(10);
        let mut a = budget.take(4).unwrap();
        let b = budget.take(6).unwrap();
        assert!(budget.take(1).is_none() && !a.grow(1) && !a.grow(u64::MAX));
        drop(b);
        assert!(a.grow(6) && !a.grow(1));
        assert_eq!(budget.used(), 10);
        drop(a);
        assert_eq!(budget.used(), 0);
    }
}
