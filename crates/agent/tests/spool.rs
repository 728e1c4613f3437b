//! The spool of a process that is killed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use lockstep_agent::spool::Spool;
use lockstep_contract::points::{Batch, Identifier, Series};

/// Names the directory in which [`writer`] writes.
const DIRECTORY: &str = "LOCKSTEP_TEST_SPOOL";
const BYTES_MAX: u64 = 64 << 20;

/// Appends points and says after each flush how many are durable, until it is killed.
#[test]
fn writer() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let mut spool = Spool::open(directory.as_ref(), BYTES_MAX).unwrap();
    for number in 0i64.. {
        let address = vec![Identifier { r#type: "HOST".to_owned(), id: "host-1".to_owned() }];
        let series = Series {
            cid: "cpu.load.minute.HOST".to_owned(),
            address,
            times: Series::deltas([number]),
            values: vec![number as f64],
        };
        spool.append(Batch { series: vec![series] }).unwrap();
        if number % 7 == 6 {
            spool.flush().unwrap().sync_data().unwrap();
            println!("durable {}", number + 1);
        }
    }
}

#[test]
fn a_killed_process_loses_nothing_that_was_flushed() {
    let directory = tempfile::tempdir().unwrap();
    for flushes in [1, 5, 50] {
        let spool = directory.path().join(flushes.to_string());
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer", "--nocapture"])
            .env(DIRECTORY, &spool)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let durable = lines
            .filter_map(|line| line.rsplit_once("durable ").and_then(|(_, count)| count.parse::<usize>().ok()))
            .nth(flushes - 1)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let found = Spool::open(&spool, BYTES_MAX).unwrap().oldest(usize::MAX).unwrap().unwrap();
        let values = &found.batch.series[0].values;
        assert!(values.len() >= durable, "{} of {durable}", values.len());
        assert!(values.iter().enumerate().all(|(number, value)| *value == number as f64));
    }
}
