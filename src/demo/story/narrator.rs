//! What the demonstration prints: a numbered line per step, its time on the
//! right, details indented below.

use std::future::Future;
use std::io::Write as _;
use std::time::Duration;

use crate::clock::{Clock as _, SystemClock};

use super::Broken;

/// Where the times end.
const WIDTH: usize = 79;

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
        let line = format!("{:>2}  {title}", self.steps);
        let room = WIDTH.saturating_sub(line.chars().count());
        say(&format!("{line}{took:>room$}"));
        for detail in details {
            say(&format!("    {detail}"));
        }
        say("");
        Ok(())
    }

    /// How many steps there were.
    pub(super) fn steps(&self) -> usize {
        self.steps
    }
}

/// Prints a line.
pub(super) fn say(line: &str) {
    // When nobody reads it, the demonstration goes on all the same.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
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
}
