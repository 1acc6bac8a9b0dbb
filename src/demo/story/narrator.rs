//! What the demonstration prints: a numbered line per step, its time on the
//! right, details indented below. It keeps to the terminal's width, and has
//! colours where the terminal takes them (NO_COLOR and CLICOLOR_FORCE decide
//! otherwise).

use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Effects, Style};
use terminal_size::{Width, terminal_size_of};
use textwrap::{Options, WordSplitter};

use crate::clock::{Clock as _, SystemClock};

use super::Broken;

/// The width where there is no terminal to ask.
const USUAL: usize = 80;
/// Where the times end, in a terminal that is as wide as that.
const TIMES_END: usize = 79;
/// Narrower than that, words would stand one below the other.
const NARROWEST: usize = 40;
/// Before the details, below the number and title of a step.
const INDENT: &str = "    ";

/// A heading, or the title of a step.
pub(super) const TITLE: Style = Style::new().effects(Effects::BOLD);
/// What is beside the point.
pub(super) const ASIDE: Style = Style::new().effects(Effects::DIMMED);
/// A command to paste.
pub(super) const COMMAND: Style = AnsiColor::Cyan.on_default();
/// What went well.
const GOOD: Style = AnsiColor::Green.on_default();
/// What was refused, as it should be.
const REFUSED: Style = AnsiColor::Yellow.on_default();

/// The indented lines below a step.
pub(super) type Details = Vec<String>;

/// Tells the story and counts its steps.
#[derive(Debug)]
pub(super) struct Narrator {
    clock: SystemClock,
    steps: usize,
}

impl Narrator {
    pub(super) fn new() -> Self {
        Self { clock: SystemClock::new(), steps: 0 }
    }

    /// Does a step, and tells of it when it went as it should.
    pub(super) async fn step(
        &mut self,
        title: &str,
        deed: impl Future<Output = Result<Details, Broken>>,
    ) -> Result<(), Broken> {
        self.steps += 1;
        let begun = self.clock.instant();
        let details = deed.await.map_err(|broken| broken.at(self.steps, title))?;
        let took = millis(self.clock.instant().since(begun));
        for (style, line) in step_lines(self.steps, title, &took, &details, width()) {
            paint(style, &line);
        }
        say("");
        Ok(())
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }
}

/// The lines of a step, each with its style; none wider than the terminal, but
/// for words that are.
fn step_lines(
    number: usize,
    title: &str,
    took: &str,
    details: &[String],
    width: usize,
) -> Vec<(Style, String)> {
    let edge = TIMES_END.min(width.saturating_sub(1));
    let room = edge.saturating_sub(INDENT.len() + took.len() + 1);
    let mut lines = Vec::new();
    for (i, line) in textwrap::wrap(title, options(room)).iter().enumerate() {
        let line = if i == 0 {
            let line = format!("{number:>2}  {line}");
            let room = edge.saturating_sub(line.chars().count());
            format!("{line}{took:>room$}")
        } else {
            format!("{INDENT}{line}")
        };
        lines.push((TITLE, line));
    }
    for detail in details {
        let style = if detail.contains("_DENIED") || detail.contains("FAILED_PRECONDITION") {
            REFUSED
        } else {
            Style::new()
        };
        let below = format!("{INDENT}  ");
        let options = options(width).initial_indent(INDENT).subsequent_indent(&below);
        lines.extend(textwrap::wrap(detail, options).into_iter().map(|line| (style, line.into_owned())));
    }
    lines
}

/// Words stay whole: what is told may be pasted.
fn options(width: usize) -> Options<'static> {
    Options::new(width).break_words(false).word_splitter(WordSplitter::NoHyphenation)
}

fn width() -> usize {
    let width = terminal_size_of(std::io::stdout()).map_or(USUAL, |(Width(width), _)| usize::from(width));
    width.max(NARROWEST)
}

/// Prints a line as it is.
pub(super) fn say(line: &str) {
    paint(Style::new(), line);
}

/// Prints text over as many lines as it needs.
pub(super) fn wrapped(style: Style, text: &str) {
    for line in textwrap::wrap(text, options(width())) {
        paint(style, &line);
    }
}

/// Prints that all is well.
pub(super) fn good(text: &str) {
    wrapped(GOOD, text);
}

/// Prints a line in a style, where the terminal has such.
pub(super) fn paint(style: Style, line: &str) {
    // When nobody reads it, the demonstration goes on all the same.
    let _ = writeln!(anstream::stdout().lock(), "{style}{line}{style:#}");
}

/// A time as it is shown.
pub(super) fn millis(span: Duration) -> String {
    format!("{:.1} ms", span.as_secs_f64() * 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_hold_names_its_step() {
        let mut narrator = Narrator::new();
        narrator.step("The first", async { Ok(vec![]) }).await.unwrap();
        let broken = narrator.step("The second", async { Err(Broken::new("nobody came")) }).await;
        assert_eq!(broken.unwrap_err().to_string(), "step 2 (The second): nobody came");
    }

    #[test]
    fn a_time_has_a_tenth_of_a_millisecond() {
        assert_eq!(millis(Duration::from_micros(12_345)), "12.3 ms");
    }

    #[test]
    fn a_step_keeps_to_the_width_of_the_terminal() {
        let details = vec!["the vault verified it and exchanged it at the provider, as it should".to_owned()];
        for width in [40, 60, 80, 200] {
            let lines = step_lines(
                7,
                "Keys rotate while tokens refresh in the background",
                "12.3 ms",
                &details,
                width,
            );
            for (_, line) in &lines {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            assert!(lines[0].1.ends_with("12.3 ms"), "{lines:?}");
            let words = lines.iter().flat_map(|(_, line)| line.split_whitespace()).count();
            assert_eq!(words, 8 + 3 + 13, "a word is lost at {width}");
        }
    }
}
