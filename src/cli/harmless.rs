//! Text that goes to a terminal.

/// Text from elsewhere must not steer the terminal.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
