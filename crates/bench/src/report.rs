//! What a run prints and keeps: tables for people, figures for programs.

use std::fmt;
use std::path::Path;

use anyhow::Context;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use serde_json::{Map, Value};

/// The result of one subcommand.
#[derive(Default)]
pub struct Report {
    sections: Vec<Section>,
    figures: Map<String, Value>,
    /// Claims that did not hold; the process exits with 1 when there are any.
    pub failures: Vec<String>,
}

struct Section {
    title: String,
    body: String,
}

impl Report {
    /// Adds a table. The first column is text, the others are figures, aligned to the right.
    pub fn table(&mut self, title: impl Into<String>, header: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(header);
        table.add_rows(rows);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.text(title, table.to_string());
    }

    /// Adds lines of text.
    pub fn text(&mut self, title: impl Into<String>, body: String) {
        self.sections.push(Section { title: title.into(), body });
    }

    /// Keeps a figure under `name` for the JSON file.
    pub fn figure(&mut self, name: impl Into<String>, value: Value) {
        self.figures.insert(name.into(), value);
    }

    /// Writes the figures as JSON.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.figures)?;
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for section in &self.sections {
            writeln!(f, "\n{}\n{}", section.title, section.body)?;
        }
        for failure in &self.failures {
            writeln!(f, "FAILED: {failure}")?;
        }
        Ok(())
    }
}

/// A count of bytes for a table.
pub fn show_bytes(bytes: u64) -> String {
    match bytes {
        _ if bytes < 10 << 10 => format!("{bytes} B"),
        _ if bytes < 10 << 20 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.0} MiB", bytes as f64 / (1024.0 * 1024.0)),
    }
}
