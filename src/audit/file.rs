//! The log's file: opened by one writer at a time, continued where it ends,
//! repaired where a crash left a line without its end, and looked at while it is
//! open: an open file goes on taking entries when it has no name any more.

use std::cmp::Ordering;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use crate::place::Place;

use super::AuditError;
use super::chain::{FIRST_BYTES, Fault, Head, MAX_LINE_BYTES};
use super::writer::{Sink, Successor};

/// A file ready to be continued.
pub(super) struct Opened {
    pub(super) sink: FileSink,
    pub(super) head: Head,
    pub(super) length: u64,
    /// Bytes that were cut off since they had no line end.
    pub(super) cut_bytes: u64,
}

/// Opens or creates the file and locks it for as long as it is open.
pub(super) fn open(path: &Path) -> Result<Opened, AuditError> {
    let io = |doing| move |source| AuditError::Io { doing, source };
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(io("opening the file"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(AuditError::Locked),
        Err(TryLockError::Error(source)) => return Err(AuditError::Io { doing: "locking the file", source }),
    }
    let opened = file.metadata().map_err(io("reading the file"))?;
    let (place, length) = (Place::of(path, &opened), opened.len());
    let (head, good_length) = if length == 0 {
        sync_directory_of(path).map_err(io("writing the directory"))?;
        (Head::EMPTY, 0)
    } else {
        find_end(&mut file, length)?
    };
    if good_length < length {
        file.set_len(good_length).and_then(|()| file.sync_all()).map_err(io("cutting a torn line off"))?;
    }
    Ok(Opened { sink: FileSink { file, place }, head, length: good_length, cut_bytes: length - good_length })
}

/// Reads the end of the file as [`open`] does, and changes nothing.
pub(super) fn check(path: &Path) -> Result<(), AuditError> {
    let io = |source| AuditError::Io { doing: "reading the file", source };
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(io)?,
    };
    let length = file.metadata().map_err(io)?.len();
    if length == 0 { Ok(()) } else { find_end(&mut file, length).map(drop) }
}

pub(super) struct FileSink {
    // The lock is on the open file and goes with it.
    file: File,
    place: Place,
}

impl Sink for FileSink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        // Setting the length of a shorter file would fill it with zeros.
        if self.file.metadata()?.len() > length { self.file.set_len(length) } else { Ok(()) }
    }

    fn check_intact(&self, length: u64) -> io::Result<()> {
        let found = self.file.metadata()?;
        // A device or a pipe has neither a name to lose nor a length.
        if !found.is_file() {
            return Ok(());
        }
        let why = match found.len().cmp(&length) {
            _ if found.nlink() == 0 => "was removed",
            Ordering::Less => "was cut short",
            Ordering::Greater => "was written to by another",
            Ordering::Equal => return Ok(()),
        };
        let path = self.place.path().display();
        Err(io::Error::other(format!("{path} {why} while the vault had it open; {WHAT_TO_DO}")))
    }

    fn check_place(&self) -> io::Result<()> {
        let looked = self.place.look();
        looked.map(drop).map_err(|displaced| io::Error::other(format!("{displaced}; {WHAT_TO_DO}")))
    }

    fn successor(&self, head: Head) -> Result<Successor, AuditError> {
        // The same file, which another has emptied or spoilt: it is locked
        // already, by this very process.
        if let Ok(found) = self.place.look() {
            if found.len() > 0 {
                return Err(AuditError::NotTheSame);
            }
            let file = self.file.try_clone();
            let file = file.map_err(|source| AuditError::Io { doing: "opening the file again", source })?;
            let sink = Self { file, place: self.place.clone() };
            return Ok(Successor { sink: Box::new(sink), continued: None });
        }
        let Opened { sink, head: end, length, cut_bytes: _ } = open(self.place.path())?;
        match length {
            0 => Ok(Successor { sink: Box::new(sink), continued: None }),
            length if end == head => Ok(Successor { sink: Box::new(sink), continued: Some(length) }),
            _ => Err(AuditError::NotTheSame),
        }
    }
}

const WHAT_TO_DO: &str =
    "put the file back, or move away what is at its path and send SIGHUP to start a new one";

/// The end of the chain and the file's length up to there. Only the last whole
/// line is checked; all of them is what `verify` is for.
fn find_end(file: &mut File, length: u64) -> Result<(Head, u64), AuditError> {
    let io = |source| AuditError::Io { doing: "reading the file", source };
    // Before anything is cut: whose file is it?
    let mut first = Vec::new();
    file.rewind().map_err(io)?;
    file.take(u64::try_from(FIRST_BYTES.len()).unwrap_or(u64::MAX)).read_to_end(&mut first).map_err(io)?;
    if !FIRST_BYTES.starts_with(&first) {
        return Err(AuditError::Broken(Fault::NotAnEntry));
    }

    let Some(end) = line_end_before(file, length).map_err(io)? else {
        return Ok((Head::EMPTY, 0));
    };
    let start = line_end_before(file, end - 1).map_err(io)?.unwrap_or(0);
    let line_bytes = usize::try_from(end - 1 - start).unwrap_or(usize::MAX);
    if line_bytes > MAX_LINE_BYTES {
        return Err(AuditError::Broken(Fault::TooLong));
    }
    let mut line = vec![0; line_bytes];
    file.seek(SeekFrom::Start(start)).and_then(|_| file.read_exact(&mut line)).map_err(io)?;
    let head = Head::from_last_line(&line).map_err(AuditError::Broken)?;
    Ok((head, end))
}

/// The position after the last line end before `before`, found from behind.
fn line_end_before(file: &mut File, before: u64) -> io::Result<Option<u64>> {
    const CHUNK: u64 = 64 * 1024;
    let mut end = before;
    let mut chunk = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(CHUNK);
        chunk.clear();
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut chunk)?;
        if let Some(at) = chunk.iter().rposition(|b| *b == b'\n') {
            return Ok(Some(start + u64::try_from(at).unwrap_or(u64::MAX) + 1));
        }
        end = start;
    }
    Ok(None)
}

/// A new file's name is in its directory, which has to reach the disk too.
fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
