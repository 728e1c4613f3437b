//! The terminal of standard output: its size, and a screen that is drawn over and over.

use std::io::{self, IsTerminal as _, Write as _};

use terminal_size::{Height, Width, terminal_size_of};

/// Columns and lines; none when standard output is no terminal.
pub(crate) fn size() -> Option<(usize, usize)> {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let (Width(columns), Height(lines)) = terminal_size_of(&stdout)?;
    (columns > 0 && lines > 0).then_some((usize::from(columns), usize::from(lines)))
}

/// The terminal's other screen, without a cursor and without wrapping: a character that is wider than one column shifts no line. What was on it before comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Screen(());

impl Screen {
    /// Takes the screen.
    ///
    /// # Errors
    /// Those of standard output.
    pub(crate) fn enter() -> io::Result<Self> {
        let screen = Self(());
        write("\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J")?;
        Ok(screen)
    }

    /// Shows these lines from the top, each cut to the width, in one write: nothing flickers.
    ///
    /// # Errors
    /// Those of standard output.
    pub(crate) fn show(&self, lines: &[String]) -> io::Result<()> {
        let (columns, rows) = size().unwrap_or((80, 24));
        write(&frame(lines, columns, rows))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone; then there is nothing to give back.
        let _ = write("\x1b[?7h\x1b[?25h\x1b[?1049l");
    }
}

/// What draws these lines: each over the one before in its place, and nothing below them.
fn frame(lines: &[String], columns: usize, rows: usize) -> String {
    let mut text = String::from("\x1b[H");
    for (i, line) in lines.iter().take(rows).enumerate() {
        if i > 0 {
            text.push_str("\r\n");
        }
        text.extend(line.chars().take(columns));
        text.push_str("\x1b[K");
    }
    text.push_str("\x1b[J");
    text
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_screen() {
        let lines = ["abcdef", "gh", "ij"].map(str::to_owned);
        assert_eq!(frame(&lines, 4, 2), "\x1b[Habcd\x1b[K\r\ngh\x1b[K\x1b[J");
        assert_eq!(frame(&[], 4, 2), "\x1b[H\x1b[J");
    }
}
