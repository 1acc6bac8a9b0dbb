//! `cargo bench`: how fast the vault is, each number beside its floor from the
//! same run. docs/PERFORMANCE.md says how to read them.
//!
//! - [`hits`]: GetAccessToken from memory, against a bare tonic handler;
//! - [`redemptions`]: refresh tokens redeemed, against durable commits of SQLite;
//! - [`reseals`]: the rotation job, against a batch update of SQLite;
//! - [`memory`]: what a full token memory takes;
//! - [`strangers`]: what a good caller waits beside a flood, against being alone;
//! - [`bed`], [`load`], [`floor`]: the vault under test, the callers, raw SQLite.
//!
//! `cargo bench -- hits` runs one of them; `quick` makes everything shorter.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to a terminal and ends at the first fault"
)]

mod bed;
mod floor;
mod hits;
mod load;
mod memory;
mod redemptions;
mod reseals;
mod strangers;

use obo_vault::config::{Log, LogFormat};
use obo_vault::telemetry;

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Scale {
    /// Rounds of each contender; the median counts.
    rounds: usize,
    /// Length of a round of calls.
    round_millis: u64,
    /// Grants that are redeemed per round.
    redeemed: usize,
    /// Grants that are re-sealed.
    resealed: usize,
    /// Tokens that are put into memory.
    remembered: usize,
}

const FULL: Scale =
    Scale { rounds: 7, round_millis: 2000, redeemed: 3000, resealed: 20_000, remembered: 100_000 };
const QUICK: Scale =
    Scale { rounds: 3, round_millis: 700, redeemed: 600, resealed: 2000, remembered: 100_000 };

/// One part of the report.
type Section = fn(Scale);

fn main() {
    // Cargo adds `--bench`.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let has = |word: &str| words.iter().any(|w| w == word);
    // As a vault in service has it: that libraries are asked nothing costs too.
    telemetry::init(&Log { format: LogFormat::Json, level: "warn".to_owned() });
    let scale = if has("quick") { QUICK } else { FULL };
    let sections: [(&str, Section); 5] = [
        ("hits", hits::run),
        ("redemptions", redemptions::run),
        ("reseals", reseals::run),
        ("memory", memory::run),
        ("strangers", strangers::run),
    ];
    let chosen = sections.iter().any(|(name, _)| has(name));
    println!("{} cores", std::thread::available_parallelism().unwrap());
    for (name, section) in sections {
        if !chosen || has(name) {
            section(scale);
        }
    }
}

/// Prints a heading and a table whose first column is text.
pub(crate) fn print_table(heading: &str, columns: &[&str], rows: &[(String, Vec<String>)]) {
    let first = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(n, column)| rows.iter().map(|(_, cells)| cells[n].len()).fold(column.len(), usize::max))
        .collect();
    println!("\n{heading}\n");
    let line = |name: &str, cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        println!("| {name:<first$} | {} |", cells.join(" | "));
    };
    line("", &mut columns.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| format!("{}:", "-".repeat(width - 1))).collect();
    println!("| {} | {} |", "-".repeat(first), rules.join(" | "));
    for (name, cells) in rows {
        line(name, &mut cells.iter().map(String::as_str));
    }
}

/// The middle value.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
