//! A line of the log and what ties it to the line before.
//!
//! ```text
//! {"seq":N,"at":"…",…,"prev":"P","hash":"H"}
//! H = SHA-256("obo-vault audit v1\n" ‖ P ‖ the line up to and excluding ,"hash")
//! ```
//!
//! P is the hash of the line before, 32 zero bytes for the first; it goes into
//! H as bytes and into the line as hexadecimal digits. The label keeps a hash of
//! this log from being one of another protocol.
//!
//! Whoever can write the whole file can compute a whole new chain. That is seen
//! only by comparing with a head that was kept elsewhere.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Most bytes of a line. No entry comes near: the longest has 64 scopes of 512
/// bytes.
pub(super) const MAX_LINE_BYTES: usize = 128 * 1024;

const LABEL: &[u8] = b"obo-vault audit v1\n";

/// The hash of a line.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    /// What the first line follows.
    const NONE: Self = Self([0; 32]);

    fn of(previous: Self, covered: &[u8]) -> Self {
        Self(
            Sha256::new()
                .chain_update(LABEL)
                .chain_update(previous.0)
                .chain_update(covered)
                .finalize()
                .into(),
        )
    }

    fn to_hex(self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        hex
    }

    fn from_hex(hex: &[u8]) -> Option<Self> {
        let digit = |d: u8| match d {
            b'0'..=b'9' => Some(d - b'0'),
            b'a'..=b'f' => Some(d - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 32];
        if hex.len() != 64 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.to_hex()).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

/// A text that is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAHash;

impl fmt::Display for NotAHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hash is 64 lower-case hexadecimal digits")
    }
}

impl std::error::Error for NotAHash {}

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(hex: &str) -> Result<Self, NotAHash> {
        Self::from_hex(hex.as_bytes()).ok_or(NotAHash)
    }
}

/// The end of a chain: all that the next line needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the last line, from 1; 0 when there is none.
    pub seq: u64,
    /// Its hash.
    pub hash: Hash,
}

impl Head {
    /// The end of an empty chain.
    pub(super) const EMPTY: Self = Self { seq: 0, hash: Hash::NONE };

    /// Writes the next line, given the inside of its object, and returns the
    /// new end.
    pub(super) fn extend(self, out: &mut Vec<u8>, fields: &[u8]) -> Self {
        let start = out.len();
        self.write_next_start(out);
        out.extend_from_slice(fields);
        out.extend_from_slice(PREV);
        out.extend_from_slice(&self.hash.to_hex());
        out.push(b'"');
        let hash = Hash::of(self.hash, &out[start..]);
        out.extend_from_slice(&ending(hash));
        out.push(b'\n');
        Self { seq: self.seq + 1, hash }
    }

    /// Checks that a line, without its line end, is the next one.
    pub(super) fn follow(self, line: &[u8]) -> Result<Self, Fault> {
        let Parts { seq, covered, prev, ending: found } = Parts::of(line)?;
        let next = self.seq + 1;
        // Comparing the bytes and not the number leaves no second spelling.
        let mut start = Vec::with_capacity(32);
        self.write_next_start(&mut start);
        if !line.starts_with(&start) {
            return Err(Fault::Misnumbered { expected: next, found: seq });
        }
        if prev != self.hash.to_hex() {
            return Err(Fault::Unlinked);
        }
        let hash = Hash::of(self.hash, covered);
        if found != ending(hash) {
            return Err(Fault::Changed);
        }
        Ok(Self { seq: next, hash })
    }

    /// Takes a line's own word for what it follows, and checks the rest.
    pub(super) fn from_last_line(line: &[u8]) -> Result<Self, Fault> {
        let Parts { seq, prev, .. } = Parts::of(line)?;
        let before = Self {
            seq: seq.checked_sub(1).ok_or(Fault::NotAnEntry)?,
            hash: Hash::from_hex(prev).ok_or(Fault::NotAnEntry)?,
        };
        before.follow(line)
    }

    fn write_next_start(self, out: &mut Vec<u8>) {
        out.extend_from_slice(SEQ);
        // Writing to a `Vec` cannot fail.
        let _ = write!(out, "{},", self.seq + 1);
    }
}

/// Every file starts with these bytes.
pub(super) const FIRST_BYTES: &[u8] = b"{\"seq\":1,";

const SEQ: &[u8] = b"{\"seq\":";
const PREV: &[u8] = b",\"prev\":\"";
const HASH: &[u8] = b",\"hash\":\"";
const ENDING_BYTES: usize = HASH.len() + 64 + 2;

fn ending(hash: Hash) -> [u8; ENDING_BYTES] {
    let mut ending = [0; ENDING_BYTES];
    ending[..HASH.len()].copy_from_slice(HASH);
    ending[HASH.len()..HASH.len() + 64].copy_from_slice(&hash.to_hex());
    ending[HASH.len() + 64..].copy_from_slice(b"\"}");
    ending
}

/// A line by its fixed places, not yet checked.
struct Parts<'a> {
    seq: u64,
    covered: &'a [u8],
    prev: &'a [u8],
    ending: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(line: &'a [u8]) -> Result<Self, Fault> {
        let parse = || {
            let digits = line.strip_prefix(SEQ)?.split(|b| *b == b',').next()?;
            let seq = std::str::from_utf8(digits).ok()?.parse().ok()?;
            let (covered, ending) = line.split_at_checked(line.len().checked_sub(ENDING_BYTES)?)?;
            let (before, prev) = covered.strip_suffix(b"\"")?.split_last_chunk::<64>()?;
            before.ends_with(PREV).then_some(Self { seq, covered, prev, ending })
        };
        parse().ok_or(Fault::NotAnEntry)
    }
}

/// What is wrong with a line, as the end of a sentence about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not in the form of an entry.
    NotAnEntry,
    /// It has another number than its place.
    Misnumbered {
        /// The number of its place.
        expected: u64,
        /// The number it has.
        found: u64,
    },
    /// It names another line than the one before it.
    Unlinked,
    /// Its hash is not that of its bytes.
    Changed,
    /// It has no line end.
    Unfinished,
    /// It is longer than an entry can be.
    TooLong,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnEntry => f.write_str("is not in the form of an entry"),
            Self::Misnumbered { expected, found } => write!(
                f,
                "has the number {found} where {expected} is due: entries were removed, repeated or moved"
            ),
            Self::Unlinked => f.write_str("does not follow the entry before it"),
            Self::Changed => f.write_str("was changed: its hash does not fit"),
            Self::Unfinished => f.write_str("was cut off, or is still being written"),
            Self::TooLong => f.write_str("is longer than an entry can be"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_stays_as_it_is() {
        // A known answer, computed independently with Python's hashlib: old
        // files must stay verifiable.
        let mut out = Vec::new();
        let head = Head::EMPTY.extend(&mut out, b"\"at\":\"2023-11-14T22:13:20.123Z\",\"kind\":\"event\"");
        let head = head.extend(&mut out, b"\"kind\":\"request\"");
        assert_eq!(head.seq, 2);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            concat!(
                r#"{"seq":1,"at":"2023-11-14T22:13:20.123Z","kind":"event","#,
                r#""prev":"0000000000000000000000000000000000000000000000000000000000000000","#,
                r#""hash":"0218eb351a7fb21aab52a97d7afe60f83352f357a6f0d13e80889ca49adf0095"}"#,
                "\n",
                r#"{"seq":2,"kind":"request","prev":"0218eb351a7fb21aab52a97d7afe60f83352f357a6f0d13e80889ca49adf0095","#,
                r#""hash":"779af036a1afdec31af2047e355c0b33f82ea94cab30d526392cb4947f530dd4"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn a_hash_has_one_spelling() {
        let hash = Hash::of(Hash::NONE, b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!(hash.to_string().to_uppercase().parse::<Hash>(), Err(NotAHash));
        assert_eq!("00".parse::<Hash>(), Err(NotAHash));
    }
}
