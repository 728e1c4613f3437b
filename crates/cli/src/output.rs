//! Results on standard output: as a table for people, as JSON, YAML or CSV for programs.

use std::io::{self, IsTerminal as _, Write};

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use crate::{terminal, yaml};

/// Widest cell of a table on a terminal, in characters; what is longer is cut there and nowhere else.
const CELL_CHARS_MAX: usize = 60;

/// Columns of a terminal that does not tell.
const COLUMNS_DEFAULT: usize = 80;

/// In which form results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// Columns for people.
    #[default]
    Table,
    /// JSON as the service answers it.
    Json,
    /// The same as YAML.
    Yaml,
    /// The table as comma-separated values.
    Csv,
}

/// A result as rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Listing {
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Vec<Value>>,
    /// Columns whose cells stand at the right in a table, besides those of numbers.
    right: Vec<String>,
    /// Columns whose cells are never cut.
    whole: Vec<String>,
}

impl Listing {
    /// A listing without rows.
    pub(crate) fn new<'a>(columns: impl IntoIterator<Item = &'a str>) -> Self {
        Self { columns: columns.into_iter().map(str::to_owned).collect(), ..Self::default() }
    }

    /// Puts the text of these columns at the right: numbers that are text because their digits are chosen.
    pub(crate) fn at_right(mut self, columns: &[&str]) -> Self {
        self.right = columns.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Leaves the text of these columns as long as it is.
    pub(crate) fn whole(mut self, columns: &[&str]) -> Self {
        self.whole = columns.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    /// Adds a row, a value for each column.
    pub(crate) fn push(&mut self, row: impl IntoIterator<Item = Value>) {
        self.rows.push(row.into_iter().collect());
    }

    /// The leaves of an object, one in a row: path and value.
    pub(crate) fn of_leaves(object: &Value) -> Self {
        fn collect(path: &str, value: &Value, listing: &mut Listing) {
            match value {
                Value::Object(fields) if !fields.is_empty() && reference(value).is_none() => {
                    for (name, value) in fields {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                        collect(&path, value, listing);
                    }
                }
                value => listing.push([path.into(), value.clone()]),
            }
        }
        let mut listing = Self::new(["property", "value"]);
        collect("", object, &mut listing);
        listing
    }
}

/// Prints a result: the listing as a table or CSV, the value as JSON or YAML.
///
/// # Errors
/// Those of standard output.
pub(crate) fn print(format: Format, listing: &Listing, value: &Value) -> Result<()> {
    let stdout = io::stdout();
    let columns = stdout.is_terminal().then(|| terminal::size().map_or(COLUMNS_DEFAULT, |(columns, _)| columns));
    let mut out = io::BufWriter::new(stdout.lock());
    match format {
        Format::Table => write_table(&mut out, listing, columns)?,
        Format::Json => write_json(&mut out, value)?,
        Format::Yaml => yaml::write(&mut out, value)?,
        Format::Csv => write_csv(&mut out, listing)?,
    }
    out.flush()?;
    Ok(())
}

/// Prints a single line of text.
///
/// # Errors
/// Those of standard output.
pub(crate) fn print_line(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

fn write_json(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

fn write_table(out: &mut dyn Write, listing: &Listing, columns: Option<usize>) -> io::Result<()> {
    table_lines(listing, columns).iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// The listing as the lines of a table; none without rows. On a terminal of so many columns long cells are cut, and what is wider
/// than the terminal goes on in the next line below its heading.
pub(crate) fn table_lines(listing: &Listing, columns: Option<usize>) -> Vec<String> {
    if listing.rows.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.force_no_tty();
    let is_terminal = columns.is_some();
    if let Some(columns) = columns {
        table.set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
    }
    // Numbers stand below each other where a column has nothing else.
    let is_right = |at: usize, name: &String| {
        let is_number = |value: &Value| value.is_number() || value.is_null();
        listing.right.contains(name) || listing.rows.iter().filter_map(|row| row.get(at)).all(is_number)
    };
    let cells: Vec<(CellAlignment, bool)> = listing
        .columns
        .iter()
        .enumerate()
        .map(|(at, name)| match is_right(at, name) {
            true => (CellAlignment::Right, listing.whole.contains(name)),
            false => (CellAlignment::Left, listing.whole.contains(name)),
        })
        .collect();
    table.set_header(listing.columns.iter().zip(&cells).map(|(name, (at, _))| Cell::new(name).set_alignment(*at)));
    for row in &listing.rows {
        table.add_row(row.iter().zip(&cells).map(|(value, (alignment, is_whole))| {
            let mut text = visible(&text(value, ", "));
            if is_terminal && !is_whole && text.chars().count() > CELL_CHARS_MAX {
                text = text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect();
            }
            Cell::new(text).set_alignment(*alignment)
        }));
    }
    // The style pads on the left as well.
    table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect()
}

fn write_csv(out: &mut dyn Write, listing: &Listing) -> Result<()> {
    let mut csv = csv::Writer::from_writer(out);
    csv.write_record(&listing.columns)?;
    for row in &listing.rows {
        csv.write_record(row.iter().map(|value| text(value, ";")))?;
    }
    csv.flush()?;
    Ok(())
}

/// A value as the text of a cell: references by their ids, lists joined.
pub(crate) fn text(value: &Value, between: &str) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(|item| text(item, between)).collect::<Vec<_>>().join(between),
        value => reference(value).map_or_else(|| value.to_string(), str::to_owned),
    }
}

/// The id, when the value is a reference: an object of a type and an id, and of nothing else.
pub(crate) fn reference(value: &Value) -> Option<&str> {
    match value {
        Value::Object(fields) if fields.len() == 2 && fields.get("type").is_some_and(Value::is_string) => {
            fields.get("id")?.as_str()
        }
        _ => None,
    }
}

/// The text with what a terminal would obey made visible: values come from whoever may write.
pub(crate) fn visible(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Colours, where standard output shows them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    is_on: bool,
}

impl Paint {
    /// Colours on a terminal, unless `NO_COLOR` is set.
    pub(crate) fn new() -> Self {
        let is_refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { is_on: io::stdout().is_terminal() && !is_refused }
    }

    /// No colours.
    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { is_on: false }
    }

    /// The text in a colour, given as the number of an SGR sequence.
    pub(crate) fn apply(self, colour: u8, text: &str) -> String {
        if self.is_on { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn listing() -> Listing {
        let mut listing = Listing::new(["id", "name", "cpu_count", "tags"]);
        let tag = |id: &str| json!({"type": "Tag", "id": id});
        listing.push([json!("vm-1"), json!("a, \"b\""), json!(8), json!([tag("t-1"), tag("t-2")])]);
        listing.push([json!("vm-20"), json!("red\u{1b}[31m"), Value::Null, json!([])]);
        listing
    }

    #[test]
    fn a_table_has_columns_and_no_control_characters() {
        let mut out = Vec::new();
        write_table(&mut out, &listing(), None).unwrap();
        let expected = "id     name      cpu_count  tags\n\
                        vm-1   a, \"b\"            8  t-1, t-2\n\
                        vm-20  red\u{fffd}[31m\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn text_stands_at_the_right_where_that_is_asked_for() {
        let mut listing = Listing::new(["id", "mean", "unit"]).at_right(&["mean"]);
        listing.push([json!("a"), json!("1.50"), json!("%")]);
        listing.push([json!("b"), json!("100"), json!("MHz")]);
        assert_eq!(table_lines(&listing, None), ["id  mean  unit", "a   1.50  %", "b    100  MHz"]);
        assert!(table_lines(&Listing::new(["id"]), None).is_empty());
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let mut out = Vec::new();
        write_csv(&mut out, &listing()).unwrap();
        let expected = "id,name,cpu_count,tags\nvm-1,\"a, \"\"b\"\"\",8,t-1;t-2\nvm-20,red\u{1b}[31m,,\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn leaves_are_named_by_their_paths() {
        let host = json!({"type": "HostSystem", "id": "h"});
        let listing = Listing::of_leaves(
            &json!({"name": "a", "guest": {"tools": {"running": true}}, "host": host, "custom": {}}),
        );
        let expected: Vec<Vec<Value>> = vec![
            vec![json!("name"), json!("a")],
            vec![json!("guest/tools/running"), json!(true)],
            vec![json!("host"), host],
            vec![json!("custom"), json!({})],
        ];
        assert_eq!(listing.rows, expected);
    }

    #[test]
    fn cells_are_text() {
        for (value, expected) in [
            (json!(null), ""),
            (json!("a"), "a"),
            (json!(2.0), "2.0"),
            (json!(true), "true"),
            (json!([1, [2]]), "1, 2"),
            (json!({"a": 1}), "{\"a\":1}"),
            (json!({"type": 1, "id": "x"}), "{\"type\":1,\"id\":\"x\"}"),
        ] {
            assert_eq!(text(&value, ", "), expected);
        }
    }
}
