//! How a collector is doing: in memory, since it changes with every answer of the source.

use std::collections::BTreeMap;

use lockstep_contract::Message;
use lockstep_model::ResourceId;
use parking_lot::Mutex;

use crate::object::Hidden;
use lockstep_site::times;

/// Kinds of hidden properties that are told apart; further ones are not told.
const HIDDEN_MAX: usize = 200;

/// What a collector is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// It reaches for the source.
    #[default]
    Connecting,
    /// It reads everything, and compares.
    Reading,
    /// All is here, and changes come as they happen.
    Following,
    /// It failed, and will try again.
    Failed,
}

/// A moment of a collector.
#[derive(Debug, Clone, Default)]
pub(crate) struct Moment {
    pub(crate) phase: Phase,
    /// Why it failed last; gone once all is here again.
    pub(crate) error: Option<Message>,
    /// Objects that were read in the present or last read, and how many there are.
    pub(crate) done: u64,
    pub(crate) total: u64,
    /// When the source last confirmed that all is as it is here, in milliseconds since 1970.
    pub(crate) confirmed_ms: Option<i64>,
    /// How long the last whole read took, in milliseconds.
    pub(crate) read_ms: Option<u64>,
    /// Properties that the source does not show, and of how many objects.
    pub(crate) hidden: BTreeMap<Hidden, u64>,
    /// Resources that somebody else keeps: how many, and one of them.
    pub(crate) taken: u64,
    pub(crate) one_taken: Option<ResourceId>,
    /// Resources that do not fit the models.
    pub(crate) misfits: u64,
}

/// The status of one collector.
#[derive(Debug, Default)]
pub(crate) struct Status {
    /// Held for some assignments.
    moment: Mutex<Moment>,
}

impl Status {
    pub(crate) fn moment(&self) -> Moment {
        self.moment.lock().clone()
    }

    pub(crate) fn connecting(&self) {
        self.moment.lock().phase = Phase::Connecting;
    }

    pub(crate) fn reading(&self, total: u64) {
        let mut moment = self.moment.lock();
        *moment = Moment {
            phase: Phase::Reading,
            total,
            error: moment.error.take(),
            confirmed_ms: moment.confirmed_ms,
            read_ms: moment.read_ms,
            ..Moment::default()
        };
    }

    pub(crate) fn advance(&self, objects: usize) {
        let mut moment = self.moment.lock();
        moment.done += objects as u64;
        moment.total = moment.total.max(moment.done);
    }

    pub(crate) fn following(&self, read_ms: u64) {
        let mut moment = self.moment.lock();
        moment.phase = Phase::Following;
        moment.total = moment.done;
        moment.error = None;
        moment.read_ms = Some(read_ms);
        moment.confirmed_ms = Some(times::now_ms());
    }

    /// The source was read whole in no time, and all of it is here.
    pub(crate) fn all_here(&self, objects: u64) {
        let confirmed_ms = Some(times::now_ms());
        let (phase, done) = (Phase::Following, objects);
        *self.moment.lock() = Moment { phase, done, total: done, confirmed_ms, ..Moment::default() };
    }

    pub(crate) fn confirmed(&self) {
        self.moment.lock().confirmed_ms = Some(times::now_ms());
    }

    pub(crate) fn failed(&self, error: Message) {
        let mut moment = self.moment.lock();
        moment.phase = Phase::Failed;
        moment.error = Some(error);
    }

    pub(crate) fn hidden(&self, hidden: impl IntoIterator<Item = Hidden>) {
        let mut moment = self.moment.lock();
        for one in hidden {
            if moment.hidden.len() < HIDDEN_MAX || moment.hidden.contains_key(&one) {
                *moment.hidden.entry(one).or_default() += 1;
            }
        }
    }

    pub(crate) fn left_alone(&self, taken: &[ResourceId], misfits: usize) {
        let mut moment = self.moment.lock();
        moment.taken += taken.len() as u64;
        moment.misfits += misfits as u64;
        if let Some(one) = taken.first() {
            moment.one_taken.get_or_insert_with(|| one.clone());
        }
    }
}
