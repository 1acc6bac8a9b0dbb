//! Reading the project's own documents: tables, code spans, links, headings.

/// The cells of the table that stands first below a heading, without its head.
pub(crate) fn rows_below(document: &str, heading: &str) -> Vec<Vec<String>> {
    let mut lines = document.lines().skip_while(|line| *line != heading).skip(1).peekable();
    assert!(lines.peek().is_some(), "the document has no heading {heading:?}");
    let section = lines.take_while(|line| !line.starts_with('#'));
    let table: Vec<_> =
        section.skip_while(|l| !l.starts_with('|')).take_while(|l| l.starts_with('|')).collect();
    assert!(table.len() > 2, "there is no table below {heading:?}");
    table[2..].iter().map(|line| cells(line)).collect()
}

/// The cells of a table's row; `\|` is no border.
pub(crate) fn cells(line: &str) -> Vec<String> {
    let line = line.trim().trim_matches('|').replace("\\|", "\u{1}");
    line.split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect()
}

/// What stands between backticks, fenced blocks left out.
pub(crate) fn code_spans(text: &str) -> Vec<String> {
    let text = without_fences(text);
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).map(str::to_owned).collect()
}

/// The targets of links, as `](target)` gives them.
pub(crate) fn links(document: &str) -> Vec<String> {
    let text = without_fences(document);
    text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned).collect()
}

/// The anchors of a document's headings, as hosts of repositories make them.
pub(crate) fn anchors(document: &str) -> Vec<String> {
    let text = without_fences(document);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

fn without_fences(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}
