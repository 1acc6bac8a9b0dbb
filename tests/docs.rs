//! The documents say what is there: links lead somewhere, tests and files they
//! name exist, reasons, metrics, bounds and what answers prove are those of the
//! code.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::{Asks, AttemptId, GrantState, Lineage, Owner};
use obo_vault::domain::profile::Profile;
use obo_vault::domain::protocol::{self, Advanced, AttemptRef, End, Refused, Says, State, bounds};
use obo_vault::domain::reason::Reason;
use obo_vault::grpc::status;
use obo_vault::idp::{MOST_ANSWER_BYTES, RawAnswer, RefusalKind, Verdict, classify};
use obo_vault::metrics::Counters;
use obo_vault::redeem::{cache, engine};
use uuid::Uuid;

#[path = "support/markdown.rs"]
mod markdown;

use markdown::{anchors, code_spans, links, rows_below};

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    let mut seen = 0;
    for document in documents() {
        let text = read(&document);
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            seen += 1;
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(p, a)| (p, Some(a)));
            let target =
                if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let there = target.exists()
                && anchor.is_none_or(|anchor| anchors(&read(&target)).iter().any(|known| known == anchor));
            if !there {
                broken.push(format!("{}: {link}", relative(&document)));
            }
        }
    }
    assert!(seen > 20, "the links were not found");
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}

/// `src/a.rs::name` is a function or constant there, `tests/a.rs::name` a test;
/// without a name it is a file or directory.
#[test]
fn what_the_documents_name_is_in_the_tree() {
    let mut missing = Vec::new();
    let mut tests = 0;
    for document in documents() {
        for span in code_spans(&read(&document)) {
            let (path, name) = span.split_once("::").map_or((span.as_str(), None), |(p, n)| (p, Some(n)));
            let ours =
                ["src/", "tests/", "deploy/", "docs/", "proto/"].iter().any(|top| path.starts_with(top));
            if !ours || path.contains([' ', '*', '<']) {
                continue;
            }
            let file = root().join(path);
            let there = match name {
                None => file.exists(),
                Some(name) => {
                    tests += 1;
                    let text = fs::read_to_string(&file).unwrap_or_default();
                    [format!("fn {name}("), format!("fn {name}<"), format!("const {name}:")]
                        .iter()
                        .any(|definition| text.contains(definition))
                }
            };
            if !there {
                missing.push(format!("{}: `{span}`", relative(&document)));
            }
        }
    }
    assert!(tests > 50, "the names were not found");
    assert!(missing.is_empty(), "named, and not in the tree:\n{}", missing.join("\n"));
}

/// Every invariant names where it is kept and a test that guards it.
#[test]
fn every_invariant_has_its_test() {
    let text = read(&root().join("docs/ARCHITECTURE.md"));
    for heading in ["### Of the product", "### Of the protocol"] {
        for row in rows_below(&text, heading) {
            let tests = code_spans(&row[3]);
            assert!(tests.iter().any(|test| is_test(test)), "invariant {} has no test", row[0]);
        }
    }
}

#[test]
fn the_commands_of_the_readme_are_those_that_are_run() {
    let readme = read(&root().join("README.md"));
    let ci = read(&root().join(".ci/run"));
    let run = |command: &str| ci.lines().any(|line| line.trim() == command);
    for (given, run_as) in [("cargo run -- demo", "cargo run -- demo --exit"), ("cargo test", "cargo test")] {
        let shown = readme.lines().any(|line| line.split('#').next().unwrap_or_default().trim() == given);
        assert!(shown, "the README does not give `{given}`");
        assert!(run(run_as), ".ci/run does not run `{run_as}`");
    }
}

#[test]
fn every_reason_is_explained() {
    let rows = rows_below(&read(&root().join("docs/ERRORS.md")), "## Reasons");
    let documented: BTreeMap<_, _> =
        rows.iter().map(|row| (code_spans(&row[0]).remove(0), row[1].clone())).collect();
    assert_eq!(documented.len(), rows.len(), "a reason has two rows");
    let in_force: BTreeMap<_, _> = Reason::ALL
        .into_iter()
        .map(|reason| (reason.as_str().to_owned(), name_of(status::meaning(reason).0)))
        .collect();
    assert_eq!(documented, in_force);
    for row in rows {
        assert!(row.len() == 5 && !row[2].is_empty() && !row[3].is_empty(), "{row:?}");
    }
}

#[test]
fn every_metric_is_explained() {
    let rows = rows_below(&read(&root().join("docs/OPERATIONS.md")), "## Metrics");
    let documented: BTreeSet<_> = rows.iter().map(|row| code_spans(&row[0]).remove(0)).collect();
    let rendered = Counters::new().render();
    let in_force: BTreeSet<_> = rendered
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(documented, in_force);
    for document in documents() {
        let text = read(&document);
        let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        for word in words.filter(|w| w.starts_with("obo_vault_") && !w.ends_with('_')) {
            assert!(
                in_force.contains(word),
                "{} names a metric that is not there: {word}",
                relative(&document)
            );
        }
    }
}

#[test]
fn the_bounds_are_those_of_the_protocol() {
    let rows = rows_below(&read(&root().join("docs/REFRESH.md")), "## Bounds");
    let documented: BTreeMap<_, _> =
        rows.iter().map(|row| (code_spans(&row[0]).remove(0), quantity(&row[1]))).collect();
    assert_eq!(documented.len(), rows.len(), "a bound has two rows");
    let spans = [
        ("HARD_LIMIT", bounds::HARD_LIMIT),
        ("SEND_WITHIN", bounds::SEND_WITHIN),
        ("PROBE_MARGIN", bounds::PROBE_MARGIN),
        ("BACK_OFF", bounds::BACK_OFF),
        ("LONGEST_PAUSE", bounds::LONGEST_PAUSE),
        ("LONGEST_OUTAGE_PAUSE", bounds::LONGEST_OUTAGE_PAUSE),
        ("WAIT", engine::WAIT),
        ("REFUSED_FOR", cache::REFUSED_FOR),
    ];
    let counts = [
        ("UNHELPFUL_ALERT", usize::try_from(bounds::UNHELPFUL_ALERT).unwrap()),
        ("FLIGHTS_PER_CALLER", engine::FLIGHTS_PER_CALLER),
        ("TARGETS_PER_GRANT", cache::TARGETS_PER_GRANT),
        ("REFUSED_PER_CALLER", cache::REFUSED_PER_CALLER),
        ("MOST_ANSWER_BYTES", MOST_ANSWER_BYTES),
    ];
    let spans = spans.map(|(name, span)| (name.to_owned(), Quantity::Span(span)));
    let counts = counts.map(|(name, count)| (name.to_owned(), Quantity::Count(count)));
    assert_eq!(documented, spans.into_iter().chain(counts).collect());
}

#[derive(Debug, PartialEq)]
enum Quantity {
    Span(Duration),
    Count(usize),
}

/// A number with its unit, as the documents write it.
fn quantity(text: &str) -> Quantity {
    let (number, unit) = text.split_once(' ').unwrap_or((text, ""));
    let number: u32 = number.parse().unwrap_or_else(|_| panic!("no number: {text}"));
    let count = usize::try_from(number).unwrap();
    match unit {
        "" => Quantity::Count(count),
        "MiB" => Quantity::Count(count * 1024 * 1024),
        "s" => Quantity::Span(Duration::from_secs(1) * number),
        "min" => Quantity::Span(Duration::from_secs(60) * number),
        "h" => Quantity::Span(Duration::from_secs(3600) * number),
        unit => panic!("no known unit: {unit}"),
    }
}

#[test]
fn an_answer_proves_what_the_table_says() {
    let vouched =
        Profile { client_error_proves_unused: true, throttle_proves_unused: true, ..Profile::strict() };
    let columns = [
        vec![Profile::strict(), Profile::grace(Duration::from_secs(30))],
        vec![vouched],
        vec![Profile::tolerant()],
    ];
    for row in rows_below(&read(&root().join("docs/REFRESH.md")), "## What an answer proves") {
        let status: u16 = row[0].parse().unwrap();
        let word = code_spans(&row[1]).remove(0);
        let body = if word == "*" { String::new() } else { format!(r#"{{"error":"{word}"}}"#) };
        for (profiles, expected) in columns.iter().zip(&row[3..]) {
            for profile in profiles {
                let answer = RawAnswer::new(status, None, body.clone().into_bytes());
                let Verdict::Refused(refusal) = classify(profile, &answer) else { panic!("{row:?}") };
                let proves = match &refusal.kind {
                    RefusalKind::InvalidGrant => "dead",
                    RefusalKind::InteractionRequired { .. } => "REAUTH",
                    _ if refusal.proves_unused => "unused",
                    _ => "unknown",
                };
                let kind = format!("{:?}", refusal.kind);
                assert_eq!((kind.split(' ').next(), proves), (Some(&*row[2]), &**expected), "{row:?}");
            }
        }
    }
}

#[test]
fn an_answer_to_a_choice_does_to_the_grant_what_the_table_says() {
    let rows = rows_below(&read(&root().join("docs/REFRESH.md")), "## Whose request it was");
    let columns =
        [vec![Profile::strict(), Profile::grace(Duration::from_secs(30))], vec![Profile::tolerant()]];
    assert_eq!(rows.len(), 6);
    for row in rows {
        for end in ends_named(&row[0]) {
            for (profiles, cell) in columns.iter().zip(&row[1..]) {
                for profile in profiles {
                    let grant = after_a_choice(profile, &end);
                    let at_once = cell.ends_with(", own request at once");
                    let shown = match &grant {
                        GrantState::Active => "ACTIVE".to_owned(),
                        GrantState::InDoubt { cause, .. } => {
                            assert_eq!(at_once, !cause.may_be_under_way(), "{row:?}");
                            format!("IN_DOUBT `{}`", cause.as_str())
                        }
                        other => panic!("{row:?}: {other:?}"),
                    };
                    assert_eq!(cell.split(',').next(), Some(&*shown), "{row:?}: {end:?}");
                }
            }
        }
    }
}

/// The ends of an attempt that a row stands for.
fn ends_named(row: &str) -> Vec<End> {
    let act = Says::Interaction { claims: None, error: "interaction_required", suberror: "" };
    let refused = |says, complete, retry_after| {
        End::Refused(Refused { says, proves_unused: false, complete, retry_after })
    };
    let nothing = [Says::ClientRejected, Says::Outage, Says::Nothing];
    let all = || nothing.iter().chain([&Says::InvalidGrant, &act]).cloned();
    let pause = Some(Duration::from_secs(9));
    match row {
        "complete, `invalid_grant`" => vec![refused(Says::InvalidGrant, true, None)],
        "complete, the user has to act" => vec![refused(act, true, None)],
        "complete, anything else" => {
            let at_once = nothing.clone().map(|says| refused(says, true, None));
            at_once.into_iter().chain(nothing.map(|says| refused(says, true, pause))).collect()
        }
        "not complete" => all().map(|says| refused(says, false, None)).collect(),
        "broken off after the first byte" => vec![End::Interrupted],
        "no request byte written" => vec![End::Unsent],
        other => panic!("no such answer: {other}"),
    }
}

/// What becomes of a grant whose token was sent with a caller's choice.
fn after_a_choice(profile: &Profile, end: &End) -> GrantState {
    let (attempt, lineage) = (AttemptId(Uuid::from_u128(1)), Lineage(Uuid::from_u128(2)));
    let owner = Owner(Uuid::from_u128(3));
    let state = State::enrolled(None, lineage);
    let claim = protocol::Claim { attempt, owner, asks: Asks::Target, fenced_at: None };
    let sending = protocol::claim(&state, &claim, profile, Timestamp(0)).unwrap();
    let of = AttemptRef { attempt, lineage, generation: state.generation };
    match protocol::advance(&sending, &of, end, profile, Timestamp(1000)) {
        Advanced::Moved { state, .. } => state.grant,
        other => panic!("{end:?}: {other:?}"),
    }
}

fn name_of(code: tonic::Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

/// Whether a name from a document is that of a test.
fn is_test(span: &str) -> bool {
    let Some((path, name)) = span.split_once("::") else { return false };
    let text = fs::read_to_string(root().join(path)).unwrap_or_default();
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let before: Vec<_> = text[..at].lines().rev().take(4).collect();
    before.iter().any(|line| line.contains("test]") || line.contains("::test("))
}

/// All documents of the project.
fn documents() -> Vec<PathBuf> {
    let mut documents = Vec::new();
    for directory in [root(), root().join("docs")] {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    assert!(documents.len() > 6, "the documents were not found");
    documents
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().display().to_string()
}
