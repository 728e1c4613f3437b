//! Which instances the rules of a replication keep.
//!
//! A rule keeps so many instances, one of each stretch of time. Stretches begin at multiples of their length since 1970, so that an instance
//! that is kept today is still the one that is kept tomorrow. Rules add up. Besides them, the latest instance stays, and pinned ones do.
//! Source: `api/vcda.md`, section 7.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{Instance, Name};

/// Most instances that all rules of a replication keep together.
pub const INSTANCES_MAX: usize = 24;

/// So many instances, so far apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// How many.
    pub instances: u32,
    /// How far apart, in minutes; 0: the latest ones, however close.
    pub distance_minutes: u32,
}

/// The instances that no rule keeps. They come the oldest first, as [`Store::instances`](crate::Store::instances) gives them.
pub fn expired(instances: &[Arc<Instance>], rules: &[Rule]) -> Vec<Name> {
    let mut kept: BTreeSet<u64> = BTreeSet::new();
    for rule in rules {
        let mut stretch = None;
        let mut left = rule.instances;
        for instance in instances.iter().rev().filter(|instance| !instance.state.is_pinned) {
            let length_ms = i64::from(rule.distance_minutes) * 60_000;
            // Without a distance, every instance is a stretch of its own.
            let own = if length_ms == 0 {
                instance.state.sequence as i64
            } else {
                instance.state.time_ms.div_euclid(length_ms)
            };
            if left > 0 && stretch != Some(own) {
                stretch = Some(own);
                left -= 1;
                kept.insert(instance.state.sequence);
            }
        }
    }
    while kept.len() > INSTANCES_MAX {
        kept.pop_first();
    }
    let latest = instances.last().map(|instance| instance.state.sequence);
    let stays = |instance: &Instance| {
        let sequence = instance.state.sequence;
        instance.state.is_pinned || Some(sequence) == latest || kept.contains(&sequence)
    };
    instances.iter().filter(|instance| !stays(instance)).map(|instance| instance.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InstanceState;

    /// What is kept of instances at these minutes; those in `pinned` are.
    fn check(minutes: &[i64], pinned: &[i64], rules: &[(u32, u32)], expected: &[i64]) {
        let instance = |(sequence, minute): (u64, &i64)| {
            let is_pinned = pinned.contains(minute);
            let state = InstanceState { time_ms: minute * 60_000, sequence, stored_bytes: 0, is_pinned };
            let name = Name::new("r", &minute.to_string()).unwrap();
            Arc::new(Instance { name, root: [0; 32], state, disks: Vec::new() })
        };
        let instances: Vec<_> = (1..).zip(minutes).map(instance).collect();
        let rules: Vec<_> = rules
            .iter()
            .map(|(instances, distance)| Rule { instances: *instances, distance_minutes: *distance })
            .collect();
        let gone = expired(&instances, &rules);
        let left: Vec<i64> =
            minutes.iter().copied().filter(|m| !gone.iter().any(|name| name.instance() == m.to_string())).collect();
        assert_eq!(left, expected, "{minutes:?} {pinned:?} {rules:?}");
    }

    #[test]
    fn rules_keep_what_they_say() {
        check(&[], &[], &[], &[]);
        check(&[0, 5, 10], &[], &[], &[10]);
        check(&[0, 5, 10], &[5], &[], &[5, 10]);
        check(&[0, 5, 10, 15], &[], &[(2, 0)], &[10, 15]);
        check(&[0, 5, 60, 65, 120, 125], &[], &[(3, 60)], &[5, 65, 125]);
        check(&[0, 5, 60, 65, 120, 125], &[], &[(2, 60), (2, 0)], &[65, 120, 125]);
        check(&[0, 5, 60, 65, 120, 125], &[125], &[(2, 60)], &[65, 120, 125]);
        check(&[0, 5], &[], &[(0, 5)], &[5]);
    }

    #[test]
    fn what_is_kept_stays_kept_while_time_goes_on() {
        // A new instance each five minutes; the rule's are the last of each hour.
        let mut there: Vec<i64> = Vec::new();
        for minute in (0..1440).step_by(5) {
            there.push(minute);
            let instance = |(sequence, minute): (u64, &i64)| {
                let state = InstanceState { time_ms: minute * 60_000, sequence, stored_bytes: 0, is_pinned: false };
                let name = Name::new("r", &minute.to_string()).unwrap();
                Arc::new(Instance { name, root: [0; 32], state, disks: Vec::new() })
            };
            let instances: Vec<_> = (1..).zip(&there).map(instance).collect();
            let gone = expired(&instances, &[Rule { instances: 4, distance_minutes: 60 }]);
            there.retain(|minute| !gone.iter().any(|name| name.instance() == minute.to_string()));
        }
        assert_eq!(there, [1255, 1315, 1375, 1435]);
    }

    #[test]
    fn there_are_never_more_than_the_most() {
        let minutes: Vec<i64> = (0..40).collect();
        let expected: Vec<i64> = (16..40).collect();
        check(&minutes, &[], &[(100, 0)], &expected);
    }
}
