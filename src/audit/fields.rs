//! How the fields of an entry are written. There is no line end in what is
//! written, whatever the fields hold.

use std::fmt;
use std::io::Write as _;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::domain::scope::{ClaimsDigest, ScopeSet};

use super::chain::Hash;

/// Writes a field, if it is there.
pub(super) type Writes<T> = fn(&mut Vec<u8>, &'static str, Option<T>);

/// Longest text of a field in a brief entry, in bytes.
const BRIEF_BYTES: usize = 128;

fn name(out: &mut Vec<u8>, name: &'static str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

pub(super) fn text(out: &mut Vec<u8>, field: &'static str, value: Option<&str>) {
    if let Some(value) = value {
        name(out, field);
        out.push(b'"');
        escape(out, value);
        out.push(b'"');
    }
}

pub(super) fn number(out: &mut Vec<u8>, field: &'static str, value: Option<u64>) {
    if let Some(value) = value {
        name(out, field);
        // Writing to a `Vec` cannot fail.
        let _ = write!(out, "{value}");
    }
}

pub(super) fn digest(out: &mut Vec<u8>, field: &'static str, value: Option<ClaimsDigest>) {
    if let Some(value) = value {
        name(out, field);
        let _ = write!(out, "\"{value}\"");
    }
}

pub(super) fn list(out: &mut Vec<u8>, field: &'static str, scopes: Option<&ScopeSet>) {
    if let Some(scopes) = scopes {
        name(out, field);
        out.push(b'[');
        for (n, scope) in scopes.iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
            escape(out, scope);
            out.push(b'"');
        }
        out.push(b']');
    }
}

pub(super) fn hash(out: &mut Vec<u8>, field: &'static str, value: Option<Hash>) {
    if let Some(value) = value {
        name(out, field);
        let _ = write!(out, "\"{value}\"");
    }
}

pub(super) fn brief_text(out: &mut Vec<u8>, field: &'static str, value: Option<&str>) {
    match value {
        Some(long) if long.len() > BRIEF_BYTES => {
            text(out, field, Some(&format!("sha256:{}", hexadecimal(Sha256::digest(long).as_slice()))));
        }
        short => text(out, field, short),
    }
}

/// How many there are, and the hash of all in their order, with a space between
/// each and the next: that of `printf '%s' 'a b' | sha256sum` for a and b.
pub(super) fn brief_list(out: &mut Vec<u8>, field: &'static str, scopes: Option<&ScopeSet>) {
    let Some(scopes) = scopes else { return };
    let (mut count, mut digest) = (0, Sha256::new());
    for scope in scopes.iter() {
        if count > 0 {
            digest.update(b" ");
        }
        digest.update(scope);
        count += 1;
    }
    name(out, field);
    let _ = write!(out, "{{\"count\":{count},\"sha256\":\"{}\"}}", hexadecimal(digest.finalize().as_slice()));
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a `String` cannot fail.
        let _ = fmt::Write::write_fmt(&mut text, format_args!("{byte:02x}"));
        text
    })
}

pub(super) fn uuid(out: &mut Vec<u8>, field: &'static str, value: Option<Uuid>) {
    if let Some(value) = value {
        name(out, field);
        out.push(b'"');
        out.extend_from_slice(value.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        out.push(b'"');
    }
}

/// Writes the inside of a JSON string (RFC 8259 section 7).
pub(super) fn escape(out: &mut Vec<u8>, value: &str) {
    let mut rest = value.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b < 0x20 || matches!(*b, b'"' | b'\\')) {
        out.extend_from_slice(&rest[..at]);
        match rest[at] {
            quoted @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', quoted]),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}
