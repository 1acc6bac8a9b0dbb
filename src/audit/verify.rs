//! The check of a whole file: that no entry was edited, removed, repeated or
//! moved since it was written.
//!
//! The end of a file is the one place that the file cannot vouch for: cut whole
//! lines off and what remains is a shorter log in order. A head that was noted
//! elsewhere tells; see [`verify`]. So does the next file, where the log was
//! rotated: its first entry names the last one of the file before; see
//! [`verify_all`].

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};

use super::chain::{Fault, Hash, Head, MAX_LINE_BYTES};
use super::entry::{FOLLOWS_HASH, FOLLOWS_SEQ};

/// A file that is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// How many entries it has.
    pub entries: u64,
    /// Its end, to be noted elsewhere for a later check.
    pub head: Head,
    /// The last entry of the file before, as this one's first entry names it.
    pub follows: Option<Head>,
}

/// Checks every entry of a log, in one pass and a fixed amount of memory.
///
/// With `known`, the hash of an entry that is known to have been in the log,
/// the file must still have it.
///
/// # Errors
///
/// The first line that is not in order, or that the known entry is missing.
pub fn verify(path: &Path, known: Option<Hash>) -> Result<Verified, VerifyError> {
    verify_all(&[path], known)
}

/// Checks the files of a log that was rotated, the oldest first: each by itself,
/// and that each goes on from the one before. What is returned counts the entries
/// of all, and links to what came before the first.
///
/// # Errors
///
/// As [`verify`], or a file does not follow the one before.
pub fn verify_all<P: AsRef<Path>>(paths: &[P], known: Option<Hash>) -> Result<Verified, VerifyError> {
    let mut so_far: Option<Verified> = None;
    let mut known_seen = known.is_none();
    for path in paths {
        let path = path.as_ref();
        let in_file = |error| VerifyError::In { path: path.to_owned(), error: Box::new(error) };
        let file = File::open(path).map_err(|error| in_file(VerifyError::Unreadable(error)))?;
        let lines = BufReader::with_capacity(256 * 1024, file);
        let (found, seen) = verify_lines(lines, known).map_err(in_file)?;
        known_seen |= seen;
        so_far = Some(match so_far {
            None => found,
            Some(before) if found.follows == Some(before.head) => Verified {
                entries: before.entries + found.entries,
                head: found.head,
                follows: before.follows,
            },
            Some(before) => {
                let named = found.follows.map(|head| head.hash);
                return Err(in_file(VerifyError::NotTheNext { before: before.head.hash, named }));
            }
        });
    }
    match (so_far, known) {
        (Some(verified), Some(known)) if !known_seen => {
            Err(VerifyError::KnownEntryMissing { known, entries: verified.entries })
        }
        (Some(verified), _) => Ok(verified),
        (None, _) => Err(VerifyError::Unreadable(io::ErrorKind::NotFound.into())),
    }
}

/// Checks one file, and says whether the known entry is in it.
fn verify_lines(mut lines: impl BufRead, known: Option<Hash>) -> Result<(Verified, bool), VerifyError> {
    let limit = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX) + 1;
    let mut head = Head::EMPTY;
    let mut known_seen = false;
    let mut follows = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut lines).take(limit).read_until(b'\n', &mut line).map_err(VerifyError::Unreadable)?;
        if read == 0 {
            break;
        }
        let next = match line.split_last() {
            Some((b'\n', entry)) => head.follow(entry),
            _ if line.len() > MAX_LINE_BYTES => Err(Fault::TooLong),
            _ => Err(Fault::Unfinished),
        };
        head = next.map_err(|fault| VerifyError::Broken { line: head.seq + 1, fault })?;
        known_seen |= known == Some(head.hash);
        if head.seq == 1 {
            follows = link(&line);
        }
    }
    if head == Head::EMPTY {
        // Opening a log writes its first entry.
        return Err(VerifyError::Broken { line: 1, fault: Fault::Unfinished });
    }
    Ok((Verified { entries: head.seq, head, follows }, known_seen))
}

/// The entry of the file before that a file's first entry names, if it does.
fn link(first_line: &[u8]) -> Option<Head> {
    let entry: serde_json::Value = serde_json::from_slice(first_line).ok()?;
    let seq = entry.get(FOLLOWS_SEQ)?.as_u64()?;
    let hash = entry.get(FOLLOWS_HASH)?.as_str()?.parse().ok()?;
    Some(Head { seq, hash })
}

/// Why a log is not in order, or cannot be checked.
#[derive(Debug)]
pub enum VerifyError {
    /// The file cannot be read.
    Unreadable(io::Error),
    /// A line is not in order. Those before it are.
    Broken {
        /// Which, from 1.
        line: u64,
        /// What is wrong with it.
        fault: Fault,
    },
    /// It does not go on from the file before.
    NotTheNext {
        /// The last entry of the file before.
        before: Hash,
        /// The entry that it goes on from by its own word, if from any.
        named: Option<Hash>,
    },
    /// What is wrong with one file.
    In {
        /// Which.
        path: PathBuf,
        /// What.
        error: Box<VerifyError>,
    },
    /// All lines are in order, but the known entry is not among them: the end
    /// was cut off, or the whole log was written anew.
    KnownEntryMissing {
        /// The hash that was looked for.
        known: Hash,
        /// How many entries there are.
        entries: u64,
    },
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(_) => f.write_str("the audit log cannot be read"),
            Self::Broken { line, fault } => write!(f, "line {line} of the audit log {fault}"),
            Self::NotTheNext { before, named: Some(named) } => {
                write!(
                    f,
                    "the audit log goes on from the entry {named}, and the file before ends in {before}"
                )
            }
            Self::NotTheNext { before, named: None } => {
                write!(f, "the audit log begins a chain of its own, and the file before ends in {before}")
            }
            Self::In { path, error } => write!(f, "{}: {error}", path.display()),
            Self::KnownEntryMissing { known, entries } => write!(
                f,
                "the audit log has {entries} entries in order, but not the known one with the hash {known}: \
                 its end was cut off, or it was written anew"
            ),
        }
    }
}

impl std::error::Error for VerifyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(source) => Some(source),
            Self::In { error, .. } => error.source(),
            Self::Broken { .. } | Self::KnownEntryMissing { .. } | Self::NotTheNext { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// A log of `n` entries, as lines with their ends.
    fn log(n: usize) -> Vec<Vec<u8>> {
        let mut head = Head::EMPTY;
        (0..n)
            .map(|i| {
                let mut line = Vec::new();
                let fields = format!(r#""at":"2023-11-14T22:13:20.{i:03}Z","kind":"event","action":"x""#);
                head = head.extend(&mut line, fields.as_bytes());
                line
            })
            .collect()
    }

    fn check(lines: &[Vec<u8>]) -> Result<u64, (u64, Fault)> {
        match verify_lines(lines.concat().as_slice(), None) {
            Ok((verified, _)) => Ok(verified.entries),
            Err(VerifyError::Broken { line, fault }) => Err((line, fault)),
            Err(other) => panic!("{other}"),
        }
    }

    fn hash_in(line: &[u8]) -> Hash {
        Head::from_last_line(line.strip_suffix(b"\n").unwrap()).unwrap().hash
    }

    #[test]
    fn a_log_in_order_passes() {
        assert_eq!(check(&log(20)), Ok(20));
    }

    #[test]
    fn each_kind_of_damage_has_its_name() {
        let whole = log(5);
        let damaged = |damage: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut lines = whole.clone();
            damage(&mut lines);
            check(&lines).unwrap_err()
        };
        let removed = damaged(&|l| drop(l.remove(2)));
        assert_eq!(removed, (3, Fault::Misnumbered { expected: 3, found: 4 }));
        assert_eq!(damaged(&|l| drop(l.remove(0))), (1, Fault::Misnumbered { expected: 1, found: 2 }));
        assert_eq!(damaged(&|l| l.swap(1, 2)), (2, Fault::Misnumbered { expected: 2, found: 3 }));
        let repeated = damaged(&|l| l.insert(3, l[2].clone()));
        assert_eq!(repeated, (4, Fault::Misnumbered { expected: 4, found: 3 }));
        assert_eq!(damaged(&|l| l[4].truncate(100)), (5, Fault::Unfinished));
        assert_eq!(damaged(&|l| l[1] = b"\n".to_vec()), (2, Fault::NotAnEntry));
        assert_eq!(damaged(&|l| l.push(vec![b'x'; MAX_LINE_BYTES + 1])), (6, Fault::TooLong));
        assert_eq!(damaged(&|l| l.clear()), (1, Fault::Unfinished));
        let event_to_egent = |line: &mut Vec<u8>| {
            let at = line.windows(5).position(|w| w == b"event").unwrap();
            line[at + 1] = b'g';
        };
        assert_eq!(damaged(&|l| event_to_egent(&mut l[3])), (4, Fault::Changed));
    }

    #[test]
    fn a_forged_entry_with_a_fitting_hash_is_found_by_the_next() {
        let mut lines = log(4);
        let before = hash_in(&lines[0]);
        lines[1].clear();
        Head { seq: 1, hash: before }.extend(&mut lines[1], br#""kind":"forged""#);
        assert_eq!(check(&lines), Err((3, Fault::Unlinked)));
    }

    #[test]
    fn a_cut_end_is_found_by_who_knows_an_entry() {
        let lines = log(5);
        let whole = lines.concat();
        for known in &lines {
            let (verified, seen) = verify_lines(whole.as_slice(), Some(hash_in(known))).unwrap();
            assert!(seen);
            assert_eq!(verified.head.hash, hash_in(&lines[4]));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cut");
        std::fs::write(&path, lines[..4].concat()).unwrap();
        let error = verify(&path, Some(hash_in(&lines[4]))).unwrap_err();
        assert!(matches!(error, VerifyError::KnownEntryMissing { entries: 4, .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_found(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = log(6).concat();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(verify_lines(bytes.as_slice(), None).is_err());
        }

        #[test]
        fn any_removed_or_added_byte_is_found(at in any::<prop::sample::Index>(), add in any::<Option<u8>>()) {
            let whole = log(6).concat();
            let at = at.index(whole.len());
            let mut bytes = whole.clone();
            match add {
                Some(byte) => bytes.insert(at, byte),
                None => drop(bytes.remove(at)),
            }
            prop_assume!(bytes != whole);
            prop_assert!(verify_lines(bytes.as_slice(), None).is_err());
        }

        #[test]
        fn any_removed_swapped_or_repeated_line_is_found(a in 0usize..8, b in 0usize..8, what in 0..3) {
            let mut lines = log(8);
            match what {
                // The last lines are beyond what the file alone can tell.
                0 if a < 7 => drop(lines.remove(a)),
                1 if a != b => lines.swap(a, b),
                2 => lines.insert(b, lines[a].clone()),
                _ => return Ok(()),
            }
            prop_assert!(check(&lines).is_err());
        }
    }
}
