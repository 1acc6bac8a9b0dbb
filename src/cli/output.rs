//! The only place that prints: results to standard output, errors and notes to
//! standard error.

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

use super::Exit;
use super::failure::CliFailure;
use super::harmless::harmless;

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    // No doc comments: each would become a paragraph in every help text.
    Table,
    Json,
}

/// Named values in the order in which they are shown.
pub(super) type Record = Vec<(&'static str, Value)>;

/// A result.
#[derive(Debug)]
pub(super) enum Shown {
    /// Nothing to say.
    Nothing,
    /// One thing.
    One(Record),
    /// Things in a list, and values that belong to the whole of it.
    Many {
        /// The list's name in the JSON document.
        name: &'static str,
        /// The list; all records have the same names.
        records: Vec<Record>,
        /// Values beside it.
        beside: Record,
    },
}

/// Writes a result to standard output.
#[expect(clippy::print_stdout, reason = "the home of printing")]
pub(super) fn show(output: Output, shown: &Shown) -> Result<(), CliFailure> {
    let text = match output {
        Output::Table => table(shown),
        Output::Json => json(shown)?,
    };
    if !text.is_empty() {
        println!("{text}");
    }
    Ok(())
}

/// Writes a failure to standard error.
#[expect(clippy::print_stderr, reason = "the home of printing")]
pub(super) fn fail(failure: &CliFailure) {
    eprintln!("{failure}");
}

/// Writes the text of a wrong command line, or of `--help`, to where it belongs.
pub(super) fn usage(error: &clap::Error) {
    // Nobody is there to read it when that fails.
    let _ = error.print();
}

fn json(shown: &Shown) -> Result<String, CliFailure> {
    let document = match shown {
        Shown::Nothing => return Ok(String::new()),
        Shown::One(record) => object(record),
        Shown::Many { name, records, beside } => {
            let Value::Object(mut document) = object(beside) else { return Ok(String::new()) };
            document.insert((*name).into(), Value::Array(records.iter().map(object).collect()));
            Value::Object(document)
        }
    };
    serde_json::to_string_pretty(&document)
        .map_err(|e| CliFailure::new(Exit::Unexpected, format!("cannot write JSON: {e}")))
}

fn object(record: &Record) -> Value {
    Value::Object(
        record.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>(),
    )
}

fn table(shown: &Shown) -> String {
    let lines = match shown {
        Shown::Nothing => Vec::new(),
        Shown::One(record) => columns(&named_rows(record)),
        Shown::Many { records, beside, .. } => {
            let heading = records.first().map(|r| r.iter().map(|(n, _)| n.to_uppercase()).collect());
            let rows = records.iter().map(|r| r.iter().map(|(_, v)| cell(v)).collect::<Vec<_>>());
            let mut lines = columns(&heading.into_iter().chain(rows).collect::<Vec<_>>());
            let beside = columns(&named_rows(beside));
            if !lines.is_empty() && !beside.is_empty() {
                lines.push(String::new());
            }
            lines.extend(beside);
            lines
        }
    };
    lines.join("\n")
}

fn named_rows(record: &Record) -> Vec<Vec<String>> {
    record
        .iter()
        .map(|(name, value)| vec![(*name).to_owned(), cell(value)])
        .filter(|row| !row[1].is_empty())
        .collect()
}

fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.chars().count()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => harmless(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(_) => value.to_string(),
    }
}

/// A time as RFC 3339; null when there is none.
pub(super) fn time(at: Option<prost_types::Timestamp>) -> Value {
    at.map_or(Value::Null, |t| {
        let millis = t.seconds.saturating_mul(1000).saturating_add(i64::from(t.nanos / 1_000_000));
        Value::String(Timestamp(millis).to_string())
    })
}

/// Text; null when it is empty.
pub(super) fn text(text: String) -> Value {
    if text.is_empty() { Value::Null } else { Value::String(text) }
}

/// The word of an enum value without its type's prefix, in lower case.
pub(super) fn state(name: &'static str, prefix: &str) -> Value {
    Value::String(name.strip_prefix(prefix).unwrap_or(name).to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Shown {
        Shown::Many {
            name: "key_versions",
            records: vec![
                vec![("version", 1.into()), ("state", "deactivated".into()), ("sealed_values", 0.into())],
                vec![("version", 12.into()), ("state", "active".into()), ("sealed_values", 40.into())],
            ],
            beside: vec![("tenant", "acme".into()), ("purge_time", Value::Null)],
        }
    }

    #[test]
    fn a_table_lines_up() {
        insta::assert_snapshot!(table(&keys()), @r"
        VERSION  STATE        SEALED_VALUES
        1        deactivated  0
        12       active       40

        tenant  acme
        ");
    }

    #[test]
    fn json_is_one_document_with_every_name() {
        let document: Value = serde_json::from_str(&json(&keys()).unwrap()).unwrap();
        assert_eq!(document["key_versions"][1]["sealed_values"], 40);
        assert_eq!(document["tenant"], "acme");
        assert!(document.as_object().unwrap().contains_key("purge_time"));
    }

    #[test]
    fn a_name_from_elsewhere_cannot_steer_the_terminal() {
        let shown = Shown::One(vec![("subject", "a\u{1b}[2Jb\nc".into())]);
        assert!(!table(&shown).contains(['\u{1b}', '\n']));
    }

    #[test]
    fn a_time_is_rfc_3339() {
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 };
        assert_eq!(time(Some(at)), "2023-11-14T22:13:20.005Z");
    }
}
