//! A policy file: its text, read and checked against the schema.
//!
//! The file is cut into its policies before Cedar reads them one by one, so
//! that all faults are reported at once and each with the line its policy
//! starts on; that line is also the policy's name in logs.

#![expect(clippy::disallowed_types, reason = "this is a part of `authz`, the one home of Cedar")]

use std::fmt;
use std::sync::LazyLock;

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};

/// What the check of a policy file found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// How many policies the file has.
    pub policies: usize,
    /// What is valid but looks like a mistake.
    pub warnings: Vec<Remark>,
}

/// Something to say about a policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remark {
    /// The line on which the policy starts, from 1.
    pub line: usize,
    /// What there is to say.
    pub what: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// A policy file that cannot be used, with all its faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError {
    /// The faults, in the order of the file.
    pub faults: Vec<Remark>,
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("policy")?;
        for (n, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if n == 0 { ": " } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for PolicyError {}

/// Policies that passed the check.
pub(super) struct Checked {
    pub(super) policies: PolicySet,
    pub(super) summary: Summary,
}

/// The embedded schema.
pub(super) fn schema() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(read_schema);
    &SCHEMA
}

#[expect(clippy::expect_used, reason = "the schema is a part of this program, and every test of it reads it")]
fn read_schema() -> Schema {
    let (schema, _) = Schema::from_cedarschema_str(include_str!("schema.cedarschema"))
        .expect("the embedded schema is well-formed");
    schema
}

/// Reads a policy file and checks it against the schema.
pub(super) fn check(text: &str) -> Result<Checked, PolicyError> {
    let mut policies = PolicySet::new();
    let mut faults = Vec::new();
    let mut lines = Vec::new();
    for (line, statement) in statements(text) {
        // Two policies may share a line, but not a name.
        let id = PolicyId::new(format!("line {line}, policy {}", lines.len() + 1));
        let added = Policy::parse(Some(id.clone()), statement)
            .map_err(|errors| errors.iter().map(|e| fault(line, e)).collect::<Vec<Remark>>())
            .and_then(|policy| policies.add(policy).map_err(|e| vec![fault(line, &e)]));
        match added {
            Ok(()) => lines.push((id, line)),
            Err(more) => faults.extend(more),
        }
    }
    let line_of = |id: &PolicyId| lines.iter().find(|(known, _)| known == id).map_or(0, |(_, line)| *line);

    let result = Validator::new(schema().clone()).validate(&policies, ValidationMode::Strict);
    faults.extend(result.validation_errors().map(|e| fault(line_of(e.policy_id()), e)));
    if !faults.is_empty() {
        faults.sort();
        return Err(PolicyError { faults });
    }

    let mut warnings: Vec<Remark> =
        result.validation_warnings().map(|w| fault(line_of(w.policy_id()), w)).collect();
    if lines.is_empty() {
        warnings.push(Remark { line: 1, what: "there is no policy, so everything is denied".to_owned() });
    }
    warnings.sort();
    Ok(Checked { policies, summary: Summary { policies: lines.len(), warnings } })
}

fn fault(line: usize, what: &dyn fmt::Display) -> Remark {
    Remark { line, what: what.to_string() }
}

/// Cuts a policy file after each semicolon that is neither in a string nor in a
/// comment; Cedar has semicolons nowhere else. Each piece comes with the line
/// of its first word.
fn statements(text: &str) -> Vec<(usize, &str)> {
    let mut statements = Vec::new();
    let mut line = 1;
    let mut start: Option<(usize, usize)> = None;
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\n' => line += 1,
            b'/' if bytes.peek().is_some_and(|(_, next)| *next == b'/') => {
                while bytes.next_if(|(_, b)| *b != b'\n').is_some() {}
            }
            byte if byte.is_ascii_whitespace() => {}
            byte => {
                let (begins, first_line) = *start.get_or_insert((at, line));
                if byte == b'"' {
                    let mut escaped = false;
                    for (_, b) in bytes.by_ref() {
                        line += usize::from(b == b'\n');
                        if b == b'"' && !escaped {
                            break;
                        }
                        escaped = b == b'\\' && !escaped;
                    }
                } else if byte == b';' {
                    statements.push((first_line, &text[begins..=at]));
                    start = None;
                }
            }
        }
    }
    // A last policy without its semicolon is Cedar's to complain of.
    statements.extend(start.map(|(begins, first_line)| (first_line, &text[begins..])));
    statements
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<Remark> {
        check(text).map(|c| c.summary).unwrap_err().faults
    }

    #[test]
    fn a_file_is_cut_at_semicolons_that_end_policies() {
        let text = "// a; b\n\t\r\npermit(a == \";//\\\";\");\n@x(\"y\") forbid(b); permit\n(c)";
        assert_eq!(
            statements(text),
            [(3, "permit(a == \";//\\\";\");"), (4, "@x(\"y\") forbid(b);"), (4, "permit\n(c)"),]
        );
        assert!(statements(" // nothing;\n").is_empty());
    }

    #[test]
    fn all_faults_are_reported_with_their_lines() {
        let found = faults(
            "permit(principal, action, resource) when { };\n\n\
             permit(principal, action == Action::\"GetRefreshToken\", resource);\n\
             permit(principal == User::\"x\", action, resource);\n\
             forbid(principal, action, resource) when { context.client == \"mail\" };\n\
             permit(principal, action, resource)",
        );
        let mut lines: Vec<usize> = found.iter().map(|f| f.line).collect();
        lines.dedup();
        assert_eq!(lines, [1, 3, 4, 5, 6], "{found:#?}");
        assert!(found.iter().any(|f| f.what.contains("GetRefreshToken")), "{found:#?}");
    }

    #[test]
    fn what_a_request_may_lack_must_be_asked_for() {
        let list = r#"permit(principal, action == Action::"ListGrants", resource) when"#;
        assert_eq!(faults(&format!(r#"{list} {{ context.client == "mail" }};"#)).len(), 1);
        let guarded = format!(r#"{list} {{ context has client && context.client == "mail" }};"#);
        assert_eq!(check(&guarded).unwrap().summary.policies, 1);
    }

    #[test]
    fn an_empty_file_is_valid_and_remarked_on() {
        let summary = check("// nothing\n").unwrap().summary;
        assert_eq!(summary.policies, 0);
        assert_eq!(summary.warnings.len(), 1);
    }

    #[test]
    fn a_template_cannot_be_loaded() {
        assert_eq!(faults("permit(principal == ?principal, action, resource);").len(), 1);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_the_check_panic(text in "[a-z;\"/\\\\\n(){} é]{0,60}") {
            let _ = check(&text);
        }
    }
}
