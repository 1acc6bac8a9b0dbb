//! Claims: what a token must say beyond its scopes (OpenID Connect Core
//! section 5.5).

use std::fmt;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::id::InvalidName;

/// A claims request: a JSON object. A provider's is kept verbatim, since the
/// provider gets it back; a caller's challenge is in canonical form, so that
/// one challenge is one text however it was written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Claims(Box<str>);

impl Claims {
    /// Most bytes of a claims request.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// Most objects and lists inside each other in a caller's challenge.
    pub const MAX_DEPTH: usize = 16;

    /// Takes a provider's claims request as it came.
    ///
    /// # Errors
    ///
    /// Too long, or not in braces.
    pub fn new(json: &str) -> Result<Self, InvalidName> {
        let json = json.trim();
        if json.len() <= Self::MAX_BYTES && json.starts_with('{') && json.ends_with('}') {
            Ok(Self(json.into()))
        } else {
            Err(InvalidName { kind: "claims", rule: "must be a JSON object of at most 8 KiB" })
        }
    }

    /// Takes a caller's challenge and puts it into canonical form: no white
    /// space, the names of every object sorted and each once (the last one
    /// counts), escapes and numbers written in one way.
    ///
    /// # Errors
    ///
    /// Not a JSON object, too long in either form, or nested too deeply.
    pub fn canonical(json: &str) -> Result<Self, InvalidName> {
        const RULE: &str = "must be a JSON object of at most 8 KiB and 16 levels";
        let invalid = || InvalidName { kind: "claims_challenge", rule: RULE };
        if json.len() > Self::MAX_BYTES {
            return Err(invalid());
        }
        let object: Map<String, Value> = serde_json::from_str(json).map_err(|_| invalid())?;
        let mut text = String::with_capacity(json.len());
        let fits = write(&Value::Object(object), Self::MAX_DEPTH, &mut text) && text.len() <= Self::MAX_BYTES;
        if fits { Ok(Self(text.into())) } else { Err(invalid()) }
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the audit log names the claims by: it never has the claims.
    #[must_use]
    pub fn sha256(&self) -> ClaimsDigest {
        ClaimsDigest(Sha256::digest(self.0.as_bytes()).into())
    }
}

/// SHA-256 of the text of claims.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimsDigest([u8; 32]);

impl fmt::Display for ClaimsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClaimsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClaimsDigest({self})")
    }
}

/// Writes the canonical form; `false` when there are more than `levels`.
fn write(value: &Value, levels: usize, out: &mut String) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string());
            true
        }
        Value::Array(_) | Value::Object(_) if levels == 0 => false,
        Value::Array(items) => {
            out.push('[');
            let fits = items.iter().enumerate().all(|(n, item)| {
                separate(n, out);
                write(item, levels - 1, out)
            });
            out.push(']');
            fits
        }
        Value::Object(object) => {
            // serde_json keeps an object's order or sorts it, depending on a
            // feature that any crate of the build may turn on.
            let mut fields: Vec<_> = object.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            let fits = fields.into_iter().enumerate().all(|(n, (name, value))| {
                separate(n, out);
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write(value, levels - 1, out)
            });
            out.push('}');
            fits
        }
    }
}

fn separate(position: usize, out: &mut String) {
    if position > 0 {
        out.push(',');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_challenge_is_one_text_however_it_is_written() {
        let canonical = r#"{"access_token":{"acrs":{"essential":true,"values":["c1","c2"]},"nbf":null}}"#;
        for same in [
            canonical,
            " { \"access_token\" :\t{\"nbf\":null,\r\n\"acrs\":{\"values\":[\"c1\",\"c2\"],\"essential\":true}} } ",
            r#"{"\u0061ccess_token":{"nbf":null,"acrs":{"values":["\u0063\u0031","c2"],"essential":true}}}"#,
            r#"{"access_token":{},"access_token":{"nbf":1,"acrs":{"essential":true,"values":["c1","c2"]},"nbf":null}}"#,
        ] {
            assert_eq!(Claims::canonical(same).unwrap().as_str(), canonical, "{same}");
        }
        for other in [
            r#"{"access_token":{"acrs":{"essential":true,"values":["c2","c1"]},"nbf":null}}"#,
            r#"{"access_token":{"acrs":{"essential":"true","values":["c1","c2"]},"nbf":null}}"#,
            r#"{"access_token":{"acrs":{"essential":true,"values":["C1","c2"]},"nbf":null}}"#,
        ] {
            assert_ne!(Claims::canonical(other).unwrap().as_str(), canonical, "{other}");
        }
        let numbers =
            Claims::canonical(r#"{"a":[1,1.0,1e2,-0,18446744073709551615],"b":"\/é\u00e9"}"#).unwrap();
        assert_eq!(numbers.as_str(), r#"{"a":[1,1.0,100.0,-0.0,18446744073709551615],"b":"/éé"}"#);
    }

    #[test]
    fn what_is_no_bounded_object_is_refused() {
        let deep =
            |levels: usize| format!("{}{}{}", "{\"a\":".repeat(levels - 1), "{}", "}".repeat(levels - 1));
        assert!(Claims::canonical(&deep(Claims::MAX_DEPTH)).is_ok());
        // Short, and longer than what is kept once its numbers are written out.
        let numbers = format!("{{\"a\":[{}]}}", vec!["1e15"; 1500].join(","));
        assert!(numbers.len() < Claims::MAX_BYTES);
        let long = format!("{{\"a\":\"{}\"}}", "x".repeat(Claims::MAX_BYTES));
        let lists = format!("{{\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
        for bad in [
            "",
            "[]",
            "null",
            "{",
            "{}{}",
            "{\"a\":}",
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e999}"#,
            &numbers,
            &long,
            &lists,
        ]
        .into_iter()
        .chain([deep(Claims::MAX_DEPTH + 1).as_str(), deep(1000).as_str()])
        {
            assert!(Claims::canonical(bad).is_err(), "{} was accepted", &bad[..bad.len().min(40)]);
        }
    }

    #[test]
    fn a_providers_claims_stay_verbatim() {
        let odd = "{ \"b\" : 1, \"a\":1 }";
        assert_eq!(Claims::new(odd).unwrap().as_str(), odd);
    }

    #[test]
    fn the_digest_is_that_of_the_text() {
        assert_eq!(
            Claims::canonical("{ }").unwrap().sha256().to_string(),
            "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
        );
    }

    /// A JSON value, and the same value written in another way.
    fn spelled() -> impl Strategy<Value = (String, String)> {
        let text = "[ -~é\\n]{0,6}".prop_map(|text: String| {
            let plain = Value::from(text.as_str()).to_string();
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
            (plain, format!("\"{escaped}\""))
        });
        let leaf = prop_oneof![
            text.clone(),
            any::<i64>().prop_map(|n| (n.to_string(), n.to_string())),
            Just(("null".to_owned(), "null".to_owned())),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let field = ("[a-f]{1,3}", inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(|items| {
                    let (a, b): (Vec<_>, Vec<_>) = items.into_iter().unzip();
                    (format!("[{}]", a.join(",")), format!(" [\n{} ] ", b.join(" ,\t")))
                }),
                prop::collection::btree_map(field.0, field.1, 0..4).prop_map(|fields| {
                    let field = |name: &str, value: &str| format!("\"{name}\" : {value}");
                    let a: Vec<_> = fields.iter().map(|(name, (a, _))| field(name, a)).collect();
                    let b: Vec<_> = fields.iter().rev().map(|(name, (_, b))| field(name, b)).collect();
                    (format!("{{{}}}", a.join(",")), format!("{{ {} }}", b.join(",\r\n")))
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn spelling_does_not_matter((a, b) in spelled()) {
            let (a, b) = (format!("{{\"x\":{a}}}"), format!("{{ \"x\"\t: {b} }}\n"));
            let canonical = Claims::canonical(&a).unwrap();
            prop_assert_eq!(&canonical, &Claims::canonical(&b).unwrap());
            // It says the same, and is its own canonical form.
            prop_assert_eq!(
                serde_json::from_str::<Value>(&a).unwrap(),
                serde_json::from_str::<Value>(canonical.as_str()).unwrap()
            );
            prop_assert_eq!(&canonical, &Claims::canonical(canonical.as_str()).unwrap());
        }
    }
}
