//! Choices between two ways to the same result, and the sizes at which they change.
//!
//! Sizes are small in tests and choices can be left to chance there, so that small inventories take every way.

/// A size at which something is done in another way.
pub(crate) const fn size(real: usize, in_tests: usize) -> usize {
    if cfg!(test) { in_tests } else { real }
}

/// Whether the first of two ways is to be taken, by the nanoseconds that each is estimated to take.
pub(crate) fn prefer_first(first_ns: usize, second_ns: usize) -> bool {
    #[cfg(test)]
    if let Some(choice) = chance::toss() {
        return choice;
    }
    first_ns <= second_ns
}

#[cfg(test)]
pub(crate) mod chance {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }

    /// From here on choices of this thread are left to chance; 0 ends that.
    pub(crate) fn seed(seed: u64) {
        STATE.set(seed);
    }

    pub(crate) fn toss() -> Option<bool> {
        let state = STATE.get();
        if state == 0 {
            return None;
        }
        STATE.set(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) | 1);
        Some(STATE.get() >> 40 & 1 == 1)
    }
}
