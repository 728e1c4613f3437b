//! Programs that are run to their end, with the time and the CPU time that they took.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

/// What a run took.
pub struct Timed {
    pub wall: Duration,
    /// Of the program and all that it started and waited for.
    pub cpu: Duration,
    /// What it printed.
    pub output: String,
}

/// Runs a command of the shell. Its CPU time is what bash says of its children.
pub fn run(command: &str, environment: &[(&str, &str)]) -> anyhow::Result<Timed> {
    let began = Instant::now();
    let script = format!("TIMEFORMAT='%3U %3S'; time {command}");
    let output =
        Command::new("bash").args(["-c", &script]).envs(environment.iter().copied()).output().context("run bash")?;
    let wall = began.elapsed();
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{command}`: {}: {said}", output.status);
    let times = said.lines().last().unwrap_or_default();
    let seconds = times.split(' ').map(str::parse::<f64>).sum::<Result<f64, _>>();
    let cpu = seconds.with_context(|| format!("the times of `{command}`: {times:?}"))?;
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(Timed { wall, cpu: Duration::from_secs_f64(cpu), output })
}

/// Whether there is a program of that name in the path.
pub fn is_installed(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|s| s.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_timed_and_a_failure_told() {
        let timed = run("sh -c 'echo said; echo aside >&2'", &[]).unwrap();
        assert_eq!(timed.output, "said\n");
        assert!(timed.cpu <= timed.wall * 64);
        let error = run("sh -c 'echo why >&2; exit 3'", &[]).err().unwrap().to_string();
        assert!(error.contains("exit status: 3") && error.contains("why"), "{error}");
    }
}
