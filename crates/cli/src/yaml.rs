//! JSON values as YAML, in blocks.

use std::io::{self, Write};

use serde_json::Value;

/// Writes a value as a YAML document.
///
/// # Errors
/// Those of `out`.
pub(crate) fn write(out: &mut dyn Write, value: &Value) -> io::Result<()> {
    block(out, value, 0, true)
}

/// Writes a value; `is_at_start` when the line it begins on is indented already.
fn block(out: &mut dyn Write, value: &Value, indent: usize, is_at_start: bool) -> io::Result<()> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            for (i, item) in items.iter().enumerate() {
                pad(out, indent, is_at_start && i == 0)?;
                out.write_all(b"- ")?;
                block(out, item, indent + 2, true)?;
            }
            Ok(())
        }
        Value::Object(fields) if !fields.is_empty() => {
            for (i, (name, value)) in fields.iter().enumerate() {
                pad(out, indent, is_at_start && i == 0)?;
                out.write_all(scalar(name).as_bytes())?;
                out.write_all(b":")?;
                match value {
                    Value::Array(items) if !items.is_empty() => {
                        out.write_all(b"\n")?;
                        block(out, value, indent, false)?;
                    }
                    Value::Object(fields) if !fields.is_empty() => {
                        out.write_all(b"\n")?;
                        block(out, value, indent + 2, false)?;
                    }
                    value => {
                        out.write_all(b" ")?;
                        block(out, value, indent, true)?;
                    }
                }
            }
            Ok(())
        }
        Value::String(text) => writeln!(out, "{}", scalar(text)),
        // Empty lists and objects, numbers, booleans and null are the same in YAML.
        value => writeln!(out, "{value}"),
    }
}

fn pad(out: &mut dyn Write, indent: usize, is_done: bool) -> io::Result<()> {
    if is_done { Ok(()) } else { write!(out, "{:indent$}", "") }
}

/// A string, bare where no reader could take it for anything else, otherwise as in JSON, which YAML reads alike.
fn scalar(text: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '/' | '.' | '-' | '>' | '@');
    let begins_well = text.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_' || c == '/');
    // The words for null, true and false, of old readers of YAML 1.1 too, and numbers such as infinity.
    let reserved = ["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"];
    let is_reserved = reserved.iter().any(|word| text.eq_ignore_ascii_case(word));
    if begins_well && !is_reserved && text.chars().all(is_word) {
        return text.to_owned();
    }
    Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: &Value, expected: &str) {
        let mut out = Vec::new();
        write(&mut out, value).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn values_are_written_in_blocks() {
        check(&json!(7), "7\n");
        check(&json!([]), "[]\n");
        check(&json!({}), "{}\n");
        check(&json!([1, [2, []], {}]), "- 1\n- - 2\n  - []\n- {}\n");
        check(
            &json!({"items": [{"id": "vm-1", "host": {"type": "HostSystem", "id": "h"}, "tags": []}, {"a": [1]}], "n": 2.0}),
            "items:\n- id: vm-1\n  host:\n    type: HostSystem\n    id: h\n  tags: []\n- a:\n  - 1\n\"n\": 2.0\n",
        );
    }

    #[test]
    fn strings_are_never_taken_for_something_else() {
        for quoted in [
            "",
            "1",
            "1.5",
            "-",
            "-x",
            "true",
            "No",
            "NULL",
            "a: b",
            "a#b",
            "~",
            "a\nb",
            " a",
            "2026-11-22",
            "ü\"",
            "*a",
            ".5",
            "[a]",
        ] {
            check(&json!(quoted), &format!("{}\n", json!(quoted)));
        }
        for bare in
            ["POWERED_ON", "vm-1", "VirtualMachine/host->HostSystem/name", "a.b", "_", "/dev/sda", "übung", "a@b.local"]
        {
            check(&json!(bare), &format!("{bare}\n"));
        }
    }
}
