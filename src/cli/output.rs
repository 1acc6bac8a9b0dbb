//! The only place that prints: results to standard output, errors and notes to
//! standard error. How a table is laid out is in `table`.

use std::io::{self, ErrorKind, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

use super::Exit;
use super::failure::CliFailure;
use super::harmless::harmless;
use super::table::{self, columns};

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
        /// The columns of the table, the more important first: it has as many
        /// as fit. None named: all, in their order.
        columns: &'static [&'static str],
        /// What an empty list means, for people.
        empty: String,
    },
    /// A result, and a sentence about it for people; the same is in the values.
    Noted(Box<Self>, String),
    /// A result, and what went wrong on the way to it.
    But(Box<Self>, CliFailure),
}

/// Writes a result to standard output, and what is to be said about it to
/// standard error.
pub(super) fn show(output: Output, shown: Shown) -> Result<(), CliFailure> {
    match shown {
        Shown::Noted(shown, note) => {
            show(output, *shown)?;
            if output == Output::Table {
                to_stderr(&note);
            }
            Ok(())
        }
        Shown::But(shown, failure) => show(output, *shown).and(Err(failure)),
        shown => {
            if let (Output::Table, Shown::Many { records, empty, .. }) = (output, &shown)
                && records.is_empty()
            {
                to_stderr(empty);
            }
            let text = match output {
                Output::Table => table(&shown, table::width()),
                Output::Json => json(&shown)?,
            };
            if text.is_empty() { Ok(()) } else { written(write_line(&mut io::stdout().lock(), &text)) }
        }
    }
}

fn write_line(to: &mut impl Write, text: &str) -> io::Result<()> {
    // Buffered output that is not flushed here is lost without a word.
    writeln!(to, "{text}").and_then(|()| to.flush())
}

/// Who reads has enough, and that is no failure: `| head -1`. Anything else,
/// a full disk for example, is.
fn written(result: io::Result<()>) -> Result<(), CliFailure> {
    match result {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliFailure::new(Exit::OutputLost, format!("the result cannot be written: {error}"))
                .advice("what was asked for has been done; look before you repeat it"))
        }
        _ => Ok(()),
    }
}

/// Writes a failure to standard error.
pub(super) fn fail(output: Output, failure: &CliFailure) {
    match output {
        Output::Table => to_stderr(&failure.to_string()),
        Output::Json => to_stderr(&format!("{:#}", failure.json())),
    }
}

fn to_stderr(text: &str) {
    // Nobody is there to read it when that fails.
    let _ = write_line(&mut io::stderr().lock(), text);
}

/// Writes the text of a wrong command line, or of `--help`, to where it belongs.
pub(super) fn usage(output: Output, error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        return match written(error.print().and_then(|()| io::stdout().flush())) {
            Ok(()) => Exit::Ok,
            Err(failure) => {
                fail(output, &failure);
                failure.exit()
            }
        };
    }
    match output {
        Output::Table => drop(error.print()),
        Output::Json => {
            let text = error.render().to_string();
            let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            let message = lines.next().unwrap_or_default();
            let failure = CliFailure::new(Exit::Usage, message.trim_start_matches("error: "));
            fail(output, &lines.fold(failure, CliFailure::note).advice("see --help"));
        }
    }
    Exit::Usage
}

fn json(shown: &Shown) -> Result<String, CliFailure> {
    let document = match shown {
        Shown::Nothing => return Ok(String::new()),
        Shown::One(record) => object(record),
        Shown::Many { name, records, beside, .. } => {
            let Value::Object(mut document) = object(beside) else { return Ok(String::new()) };
            document.insert((*name).into(), Value::Array(records.iter().map(object).collect()));
            Value::Object(document)
        }
        Shown::Noted(shown, _) | Shown::But(shown, _) => return json(shown),
    };
    serde_json::to_string_pretty(&document)
        .map_err(|e| CliFailure::new(Exit::Unexpected, format!("cannot write JSON: {e}")))
}

fn object(record: &Record) -> Value {
    Value::Object(
        record.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect::<Map<_, _>>(),
    )
}

fn table(shown: &Shown, width: usize) -> String {
    let lines = match shown {
        Shown::Nothing => Vec::new(),
        Shown::One(record) => columns(&named_rows(record)),
        Shown::Many { records, beside, columns: wanted, .. } => {
            let mut lines = many(records, wanted, width);
            let beside = columns(&named_rows(beside));
            if !lines.is_empty() && !beside.is_empty() {
                lines.push(String::new());
            }
            lines.extend(beside);
            lines
        }
        Shown::Noted(shown, _) | Shown::But(shown, _) => return table(shown, width),
    };
    lines.join("\n")
}

fn many(records: &[Record], wanted: &[&str], width: usize) -> Vec<String> {
    let Some(first) = records.first() else { return Vec::new() };
    let all: Vec<&str> = first.iter().map(|(name, _)| *name).collect();
    let wanted = if wanted.is_empty() { &all } else { wanted };
    let columns = wanted.iter().map(|wanted| {
        let cells = records.iter().map(|record| {
            let value = record.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
            value.map(cell).unwrap_or_default()
        });
        std::iter::once(wanted.to_uppercase()).chain(cells).collect()
    });
    table::fit(columns.collect(), width)
}

fn named_rows(record: &Record) -> Vec<Vec<String>> {
    record
        .iter()
        .map(|(name, value)| vec![(*name).to_owned(), cell(value)])
        .filter(|row| !row[1].is_empty())
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
            columns: &[],
            empty: String::new(),
        }
    }

    #[test]
    fn a_table_lines_up() {
        insta::assert_snapshot!(table(&keys(), 80), @r"
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
    fn a_reader_who_has_enough_is_no_failure_and_a_full_disk_is() {
        assert!(written(Err(ErrorKind::BrokenPipe.into())).is_ok());
        let full = written(Err(ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(full.exit(), Exit::OutputLost);
    }

    #[test]
    fn what_a_table_shortens_json_has_whole() {
        let long = "x".repeat(200);
        let shown = Shown::Many {
            name: "grants",
            records: vec![vec![("subject", long.clone().into()), ("scopes", vec!["a", "b"].into())]],
            beside: Vec::new(),
            columns: &["subject"],
            empty: String::new(),
        };
        assert!(table(&shown, 80).lines().all(|line| line.chars().count() <= 80));
        assert!(json(&shown).unwrap().contains(&long));
    }

    #[test]
    fn a_name_from_elsewhere_cannot_steer_the_terminal() {
        let shown = Shown::One(vec![("subject", "a\u{1b}[2Jb\nc".into())]);
        assert!(!table(&shown, 80).contains(['\u{1b}', '\n']));
    }

    #[test]
    fn a_time_is_rfc_3339() {
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 };
        assert_eq!(time(Some(at)), "2023-11-14T22:13:20.005Z");
    }
}
