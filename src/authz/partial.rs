//! What is left of a policy when a part of the request is not known yet.
//!
//! Cedar evaluates what it can and keeps the rest, but it does not draw the
//! conclusion from `what is open && false`: what is open might fail, which is
//! another answer to Cedar and the same to the vault. Here it is drawn.

use cedar_policy::Policy;
use serde_json::Value;

/// Whether the policy may hold, whatever the open parts turn out to be. Where
/// that cannot be seen, it may.
pub(super) fn may_hold(residual: &Policy) -> bool {
    let Ok(policy) = residual.to_json() else { return true };
    let conditions = policy.get("conditions").and_then(Value::as_array);
    conditions.is_none_or(|conditions| {
        conditions.iter().all(|condition| {
            let wanted = condition.get("kind").and_then(Value::as_str) != Some("unless");
            condition.get("body").is_none_or(|body| may_be(body, wanted))
        })
    })
}

/// Whether an expression, in Cedar's JSON, may have this value.
fn may_be(expression: &Value, wanted: bool) -> bool {
    let part = |operator: &Value, name: &str, wanted| {
        operator.get(name).is_none_or(|expression| may_be(expression, wanted))
    };
    let Some((operator, operands)) = expression.as_object().and_then(|object| object.iter().next()) else {
        return true;
    };
    let both = |wanted| part(operands, "left", wanted) && part(operands, "right", wanted);
    let either = |wanted| part(operands, "left", wanted) || part(operands, "right", wanted);
    match operator.as_str() {
        "Value" => operands.as_bool().is_none_or(|value| value == wanted),
        "!" => part(operands, "arg", !wanted),
        "&&" if wanted => both(true),
        "&&" => either(false),
        "||" if wanted => either(true),
        "||" => both(false),
        "if-then-else" => {
            (part(operands, "if", true) && part(operands, "then", wanted))
                || (part(operands, "if", false) && part(operands, "else", wanted))
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `resource` stands for what is open, and is not evaluated here.
    #[test]
    fn what_is_false_whatever_is_open_does_not_hold() {
        let open = "resource == Tenant::\"acme\"";
        for (conditions, holds) in [
            (String::new(), true),
            (format!("when {{ {open} }}"), true),
            (format!("when {{ {open} && false }}"), false),
            (format!("when {{ false && {open} }}"), false),
            (format!("when {{ ({open} && true) && ({open} && false) }}"), false),
            (format!("when {{ {open} || false }}"), true),
            (format!("when {{ !({open} || true) }}"), false),
            (format!("when {{ !({open} && false) }}"), true),
            (format!("unless {{ {open} || true }}"), false),
            (format!("unless {{ {open} && true }}"), true),
            (format!("when {{ if {open} then false else {open} && false }}"), false),
            (format!("when {{ if {open} then true else false }}"), true),
            (format!("when {{ if false then true else false || {open} && false }}"), false),
            (format!("when {{ {open} }} when {{ false }}"), false),
        ] {
            let policy = format!("permit (principal, action, resource) {conditions};");
            assert_eq!(may_hold(&Policy::parse(None, &policy).unwrap()), holds, "{policy}");
        }
    }
}
