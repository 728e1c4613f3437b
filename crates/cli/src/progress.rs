//! How far something is: a bar on a terminal, a line now and then elsewhere, both on standard error.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress through a stream of bytes that are resources.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total_bytes: Option<u64>,
    started: Instant,
    /// When the last line was written.
    written: Instant,
}

impl Progress {
    /// Progress that begins; of so many bytes, when that is known.
    pub(crate) fn new(what: &'static str, total_bytes: Option<u64>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let (bar, template) = match total_bytes {
                Some(total) => (ProgressBar::new(total), "{prefix} {wide_bar} {bytes}/{total_bytes}, {msg}, ETA {eta}"),
                None => (ProgressBar::new_spinner(), "{spinner} {prefix} {bytes}, {msg}, {elapsed}"),
            };
            // The templates are constants that parse.
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.with_prefix(what)
        });
        Self { bar, what, total_bytes, started: Instant::now(), written: Instant::now() }
    }

    /// So many bytes and resources are through.
    pub(crate) fn at(&mut self, bytes: u64, resources: u64) {
        let elapsed_s = self.started.elapsed().as_secs_f64().max(0.001);
        let rate = resources as f64 / elapsed_s;
        let rate_text = format!("{} resources, {}/s", HumanCount(resources), HumanCount(rate as u64));
        if let Some(bar) = &self.bar {
            bar.set_message(rate_text);
            bar.set_position(bytes);
        } else if self.written.elapsed() >= LINE_INTERVAL {
            self.written = Instant::now();
            let rest = self.total_bytes.filter(|_| bytes > 0).map(|total| {
                let left_s = elapsed_s * total.saturating_sub(bytes) as f64 / bytes as f64;
                format!(" of {}, {} left", HumanBytes(total), HumanDuration(Duration::from_secs_f64(left_s)))
            });
            eprintln!("{}: {}{}, {rate_text}", self.what, HumanBytes(bytes), rest.unwrap_or_default());
        }
    }

    /// Something to know while it goes on.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// How long it has taken.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How far work on the server is: a bar on a terminal, nothing elsewhere.
pub(crate) struct WorkBar(Option<ProgressBar>);

impl WorkBar {
    /// Work of that name, which begins.
    pub(crate) fn new(name: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_prefix(name.to_owned());
            // The template is a constant that parses.
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {wide_bar} {human_pos}/{human_len}, {msg}, {per_sec}, ETA {eta}")
            {
                bar.set_style(style);
            }
            bar
        });
        Self(bar)
    }

    /// So much of it is done.
    pub(crate) fn show(&self, what: &str, completed: i64, total: i64) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.to_lowercase().replace('_', " "));
            bar.set_length(u64::try_from(total).unwrap_or(0));
            bar.set_position(u64::try_from(completed).unwrap_or(0));
        }
    }
}

impl Drop for WorkBar {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// How many there are, with their noun.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{} {}", HumanCount(n), if n == 1 { one } else { many })
}
