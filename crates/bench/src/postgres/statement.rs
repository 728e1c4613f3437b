//! The queries of the workload as SQL, and their parameters taken from a query's spec.

use anyhow::{anyhow, bail};
use serde_json::Value;
use tokio_postgres::types::ToSql;

use super::Layout;

const QUERIES: &str = include_str!("../../sql/queries.sql");

/// A query in SQL.
#[derive(Debug, Default, PartialEq)]
pub struct Statement {
    /// The page, in every way worth trying; all give the same rows, the fastest is measured.
    pub pages: Vec<&'static str>,
    /// The total; sent together with the page, in one round trip.
    pub count: Option<&'static str>,
}

/// The SQL of one query of the workload in one schema.
///
/// # Errors
/// When there is none.
pub fn statement(query: &str, layout: Layout) -> anyhow::Result<Statement> {
    let statement = find(QUERIES, query, layout);
    if statement.pages.is_empty() {
        bail!("queries.sql has no {query} for the {} schema", layout.name());
    }
    Ok(statement)
}

/// Sections begin with a heading: `-- Q10 jsonb count: remark`.
fn find(sections: &'static str, query: &str, layout: Layout) -> Statement {
    let mut statement = Statement::default();
    for section in sections.split("\n-- ").skip(1) {
        let Some((heading, sql)) = section.split_once('\n') else { continue };
        let mut words = heading.split(':').next().unwrap_or_default().split(' ');
        if words.next() != Some(query) {
            continue;
        }
        let words: Vec<&str> = words.collect();
        let is_for_another = Layout::ALL.iter().any(|other| *other != layout && words.contains(&other.name()));
        match (is_for_another, words.contains(&"count")) {
            (true, _) => {}
            (false, true) => statement.count = Some(sql.trim()),
            (false, false) => statement.pages.push(sql.trim()),
        }
    }
    statement
}

/// The parameters of a query of the workload, in order.
///
/// # Errors
/// When the query is not known.
pub fn parameters(query: &str) -> anyhow::Result<&'static [Parameter]> {
    use Parameter::{Contains, Long, Prefix, PrefixEnd, Suffix, SuffixEnd, Text};
    Ok(match query {
        "Q1" => &[Text("/resource_filter/resource_id/id")],
        "Q2" => &[Long("/limit")],
        "Q3" | "Q4" | "Q9" | "X1" | "X3" | "X4" | "X5" => &[Text(STRING), Long("/limit")],
        "Q5" => &[Prefix(STRING), PrefixEnd(STRING), Long("/limit")],
        "Q6" => &[Contains(STRING), Long("/limit")],
        "Q7" => &[Suffix(STRING), SuffixEnd(STRING), Long("/limit")],
        "Q8" => &[
            Long("/resource_filter/composite_filter/filters/1/property_filter/comparable_long"),
            Long("/resource_filter/composite_filter/filters/2/property_filter/comparable_long"),
            Long("/limit"),
        ],
        "Q10" => &[
            Text(
                "/resource_filter/composite_filter/filters/2/composite_filter/filters/0/property_filter/comparable_string",
            ),
            Text(
                "/resource_filter/composite_filter/filters/2/composite_filter/filters/2/property_filter/comparable_id/id",
            ),
            Long("/limit"),
        ],
        "Q11" => &[Text(STRING), Long("/offset"), Long("/limit")],
        "Q12" => {
            &[Text("/resource_filter/composite_filter/filters/1/property_filter/comparable_id/id"), Long("/limit")]
        }
        "X2" => &[Long("/offset"), Long("/limit")],
        _ => bail!("query {query} has no SQL form"),
    })
}

/// Where the queries of one filter besides the type have its comparable.
const STRING: &str = "/resource_filter/composite_filter/filters/1/property_filter/comparable_string";

/// A parameter, by the JSON pointer of its value in the query's spec.
#[derive(Clone, Copy)]
pub enum Parameter {
    Text(&'static str),
    Long(&'static str),
    /// Text in lower case: the least that starts with it.
    Prefix(&'static str),
    /// The least text above all that start with it.
    PrefixEnd(&'static str),
    /// As the two before, of the text spelled backwards: for suffixes.
    Suffix(&'static str),
    SuffixEnd(&'static str),
    /// A `LIKE` pattern for text in lower case that contains it.
    Contains(&'static str),
}

/// A parameter's value.
#[derive(Debug)]
pub enum SqlValue {
    Text(String),
    Long(i64),
}

impl SqlValue {
    /// To bind it to a prepared statement.
    pub fn bind(&self) -> &(dyn ToSql + Sync) {
        match self {
            SqlValue::Text(text) => text,
            SqlValue::Long(long) => long,
        }
    }

    /// To write it into a statement.
    pub fn literal(&self) -> String {
        match self {
            SqlValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
            SqlValue::Long(long) => long.to_string(),
        }
    }
}

impl Parameter {
    /// The value for one form of the query.
    pub fn of(&self, spec: &Value) -> anyhow::Result<SqlValue> {
        let text = |pointer: &str| {
            let value = spec.pointer(pointer).ok_or_else(|| anyhow!("the spec has nothing at {pointer}"))?;
            value.as_str().map(str::to_owned).ok_or_else(|| anyhow!("{pointer} is {value}, not a string"))
        };
        let lower = |pointer: &str| Ok::<_, anyhow::Error>(text(pointer)?.to_lowercase());
        let backwards = |pointer: &str| Ok::<_, anyhow::Error>(lower(pointer)?.chars().rev().collect::<String>());
        Ok(SqlValue::Text(match self {
            Parameter::Long(pointer) => {
                let value = spec.pointer(pointer).and_then(Value::as_i64);
                return Ok(SqlValue::Long(value.ok_or_else(|| anyhow!("the spec has no long at {pointer}"))?));
            }
            Parameter::Text(pointer) => text(pointer)?,
            Parameter::Prefix(pointer) => lower(pointer)?,
            Parameter::PrefixEnd(pointer) => above_prefix(&lower(pointer)?)?,
            Parameter::Suffix(pointer) => backwards(pointer)?,
            Parameter::SuffixEnd(pointer) => above_prefix(&backwards(pointer)?)?,
            Parameter::Contains(pointer) => format!("%{}%", escape_like(&lower(pointer)?)),
        }))
    }
}

fn escape_like(text: &str) -> String {
    text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
}

/// The least text that is greater than every text with this prefix, by code points.
fn above_prefix(prefix: &str) -> anyhow::Result<String> {
    let mut chars: Vec<char> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Ok(chars.into_iter().collect());
        }
    }
    bail!("no text is above the prefix {prefix:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_by_their_headings() {
        let text = "essay\n-- Q1\nA\n\n-- Q1 jsonb: faster\nB\n-- Q1 count\nC\n-- Q10\nD\n-- Q1 relational\nE\n";
        let statement = |layout| find(text, "Q1", layout);
        assert_eq!(statement(Layout::Jsonb), Statement { pages: vec!["A", "B"], count: Some("C") });
        assert_eq!(statement(Layout::Relational), Statement { pages: vec!["A", "E"], count: Some("C") });
    }

    #[test]
    fn prefixes_end_at_the_next_code_point() {
        let check = |prefix: &str, expected: &str| assert_eq!(above_prefix(prefix).unwrap(), expected);
        check("prd-web-", "prd-web.");
        check("ab\u{10ffff}", "ac");
        check("\u{d7ff}", "\u{e000}");
        assert!(above_prefix("").is_err());
    }
}
