//! Tables that fit the terminal.

use terminal_size::{Width, terminal_size_of};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The width where there is no terminal to ask.
const USUAL: usize = 80;
/// Between two columns.
const GAP: &str = "  ";

/// How wide standard output is.
pub(super) fn width() -> usize {
    terminal_size_of(std::io::stdout()).map_or(USUAL, |(Width(width), _)| usize::from(width))
}

/// The lines of a table. The columns come with their headings, the more
/// important first: the first is always there, the others where they fit.
/// Empty ones are left out, and long cells are shortened.
pub(super) fn fit(all: Vec<Vec<String>>, width: usize) -> Vec<String> {
    // So wide that an identifier of 36 characters is whole in 80 columns.
    let longest = (width * 45 / 100).clamp(1, 60);
    let mut chosen: Vec<Vec<String>> = Vec::new();
    let mut used = 0;
    for column in all {
        let empty = column.iter().skip(1).all(String::is_empty);
        if empty && !chosen.is_empty() {
            continue;
        }
        let cells: Vec<String> = column.iter().map(|cell| shortened(cell, longest)).collect();
        let wide = cells.iter().map(|cell| cell.width()).max().unwrap_or(0);
        let more = if chosen.is_empty() { wide } else { GAP.len() + wide };
        if chosen.is_empty() || used + more <= width {
            used += more;
            chosen.push(cells);
        }
    }
    let height = chosen.first().map_or(0, Vec::len);
    let rows: Vec<Vec<String>> = (0..height)
        .map(|row| chosen.iter().map(|column| column.get(row).cloned().unwrap_or_default()).collect())
        .collect();
    columns(&rows)
}

/// Rows whose cells line up.
pub(super) fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..count)
        .map(|i| rows.iter().filter_map(|r| r.get(i)).map(|c| c.width()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                // Some characters take two columns, and some take none.
                format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width())))
            });
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
        })
        .collect()
}

/// A text that is at most so wide; an ellipsis says that there is more.
fn shortened(text: &str, longest: usize) -> String {
    if text.width() <= longest {
        return text.to_owned();
    }
    let mut used = 1;
    let mut short: String = text
        .chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= longest
        })
        .collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(cells: &[&str]) -> Vec<String> {
        cells.iter().map(|cell| (*cell).to_owned()).collect()
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_empty_columns_take_no_room() {
        let table = |width| {
            let subject = column(&["SUBJECT", "8f14e45f-ceea-467f-a8d5-90f3a4b2c6d1"]);
            let all =
                vec![subject, column(&["STATE", "active"]), column(&["CAUSE", ""]), column(&["CLIENT", "p"])];
            fit(all, width)
        };
        assert_eq!(table(80)[0], "SUBJECT                               STATE   CLIENT");
        assert_eq!(table(80)[1], "8f14e45f-ceea-467f-a8d5-90f3a4b2c6d1  active  p");
        assert_eq!(table(30)[1], "8f14e45f-cee…  active  p");
        assert_eq!(table(20)[1], "8f14e45f…  active");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            rows in prop::collection::vec(prop::collection::vec("[ -~äß漢…]{0,90}", 4), 1..5),
            width in 4_usize..200,
        ) {
            let all = (0..4).map(|i| rows.iter().map(|row| row[i].clone()).collect()).collect();
            for line in fit(all, width) {
                prop_assert!(line.width() <= width, "{} of {width}: {line}", line.width());
            }
        }
    }
}
