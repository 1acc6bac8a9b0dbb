//! Checks of single values. Each says what the value must be; none shows it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::{Value, ValueKind};

use crate::idp::{check_endpoint, check_issuer};

use super::source::is_variable;

/// Text with something in it. What stands around it would be compared and sent,
/// and is hardly meant.
pub(super) fn text(value: &Value) -> Result<String, String> {
    match &value.kind {
        ValueKind::String(text) if !text.is_empty() && text.trim() == text => Ok(text.clone()),
        ValueKind::String(text) if !text.trim().is_empty() => {
            Err("must not begin or end with white space".into())
        }
        ValueKind::String(_) => Err("must not be empty".into()),
        _ => Err("must be text in quotes".into()),
    }
}

/// `true` or `false`.
pub(super) fn flag(value: &Value) -> Result<bool, String> {
    match &value.kind {
        ValueKind::Boolean(flag) => Some(*flag),
        ValueKind::String(text) if is_variable(value) => text.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| "must be true or false".into())
}

/// A whole number within bounds.
pub(super) fn whole<N>(bounds: RangeInclusive<N>) -> impl Fn(&Value) -> Result<N, String>
where
    N: TryFrom<i64> + PartialOrd + Display,
{
    move |value| {
        match &value.kind {
            ValueKind::I64(number) => Some(*number),
            ValueKind::String(text) if is_variable(value) => text.parse().ok(),
            _ => None,
        }
        .and_then(|number| N::try_from(number).ok())
        .filter(|number| bounds.contains(number))
        .ok_or_else(|| format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

/// A span given in whole seconds.
pub(super) fn seconds(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<Duration, String> {
    span(1, bounds)
}

/// A span given in whole hours.
pub(super) fn hours(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<Duration, String> {
    span(3600, bounds)
}

/// A span given in whole days.
pub(super) fn days(bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<Duration, String> {
    span(86_400, bounds)
}

fn span(unit: u64, bounds: RangeInclusive<u64>) -> impl Fn(&Value) -> Result<Duration, String> {
    let number = whole(bounds);
    move |value| number(value).map(|n| Duration::from_secs(n.saturating_mul(unit)))
}

/// One of a few words.
pub(super) fn word<T: Clone>(words: &[(&str, T)]) -> impl Fn(&Value) -> Result<T, String> {
    move |value| {
        let given = text(value).unwrap_or_default();
        words.iter().find(|(word, _)| *word == given).map(|(_, meaning)| meaning.clone()).ok_or_else(|| {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            format!("must be {}", known.join(" or "))
        })
    }
}

/// A list of at least one text; from the environment, separated by commas.
pub(super) fn list(value: &Value) -> Result<Vec<String>, String> {
    let items = match &value.kind {
        ValueKind::Array(items) => items.iter().map(text).collect::<Result<Vec<_>, _>>(),
        ValueKind::String(items) if is_variable(value) => {
            Ok(items.split(',').map(str::trim).filter(|i| !i.is_empty()).map(str::to_owned).collect())
        }
        _ => Err(String::new()),
    };
    items.ok().filter(|items| !items.is_empty()).ok_or_else(|| "must be a list of texts, at least one".into())
}

/// A value that its own type checks, as the names of `domain::id` do.
pub(super) fn checked<T, E: Display>(
    check: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&Value) -> Result<T, String> {
    move |value| text(value).and_then(|text| check(&text).map_err(|e| e.to_string()))
}

/// Where to listen.
pub(super) fn socket(value: &Value) -> Result<SocketAddr, String> {
    text(value)?.parse().map_err(|_| "must be an IP address and a port, for example 127.0.0.1:8443".into())
}

/// A web address that secrets are sent to.
pub(super) fn endpoint(value: &Value) -> Result<String, String> {
    let template = text(value)?;
    check_endpoint(&template).map(|()| template)
}

/// A provider's issuer.
pub(super) fn issuer(value: &Value) -> Result<String, String> {
    let template = text(value)?;
    check_issuer(&template).map(|()| template)
}

/// Several of them.
pub(super) fn issuers(value: &Value) -> Result<Vec<String>, String> {
    let templates = list(value)?;
    templates.iter().try_for_each(|template| check_issuer(template)).map(|()| templates)
}

/// The name of an environment variable where it cannot well be a secret that
/// was put in its place: in capitals, or words with underscores.
pub(super) fn shown_variable(name: &str) -> Option<&str> {
    let only = |fits: fn(&u8) -> bool| name.bytes().all(|byte| fits(&byte) || byte == b'_');
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let capitals = only(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let words = name.contains('_') && only(u8::is_ascii_alphabetic);
    (name.len() <= 128 && starts && (capitals || words)).then_some(name)
}

/// A provider's name.
pub(super) fn name(name: &str) -> Result<String, String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if fits {
        Ok(name.to_owned())
    } else {
        Err("a provider's name must be 1 to 64 characters of [A-Za-z0-9_-]".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_the_file_is_not_text_and_the_other_way_round() {
        let whole = whole(1..=10_u32);
        assert_eq!(whole(&Value::new(None, 10_i64)), Ok(10));
        assert!(whole(&Value::new(None, 11_i64)).is_err());
        assert!(whole(&Value::new(None, -1_i64)).is_err());
        assert!(whole(&Value::new(None, "5")).is_err());
        assert!(text(&Value::new(None, 5_i64)).is_err());
        assert!(text(&Value::new(None, " ")).is_err());
        assert!(text(&Value::new(None, "a ")).is_err());
    }

    #[test]
    fn a_secret_in_place_of_a_variables_name_is_not_shown() {
        for name in ["PORTAL_CLIENT_SECRET", "portal_secret", "S3"] {
            assert_eq!(shown_variable(name), Some(name));
        }
        for secret in ["hunter2", "8Q~kT_x9.aV", "p4ss_word", "secret", "", "a b_c"] {
            assert_eq!(shown_variable(secret), None, "{secret}");
        }
    }
}
