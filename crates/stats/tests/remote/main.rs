//! The store outside, with real ones: VictoriaMetrics and Prometheus, each a process of the test's own on a free port of loopback.
//! Where a program is not installed, its tests say so and are skipped; `scripts/test-tools.sh` installs both.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

mod faults;
mod reading;
mod receiver;
mod servers;
mod site;
mod writing;
