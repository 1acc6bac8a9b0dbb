//! Whether a path still names the file that was opened under it.
//!
//! An open file says nothing of its path: it can be removed, moved away,
//! replaced, or covered by a volume, and whoever has it open reads and writes on
//! as before, into something that nobody finds after a restart. So who keeps a
//! file open for long keeps its [`Place`] too, and looks.

use std::fmt;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// A path, and which file it named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Place {
    /// Of an open file. While it is open, no other file can have its number.
    #[must_use]
    pub fn of(path: &Path, opened: &Metadata) -> Self {
        Self { path: path.to_owned(), device: opened.dev(), inode: opened.ino() }
    }

    /// Of the file that the path names now. It must stay open somewhere.
    ///
    /// # Errors
    ///
    /// The path names no file that can be seen.
    pub fn find(path: &Path) -> io::Result<Self> {
        Ok(Self::of(path, &std::fs::metadata(path)?))
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the path names now, if it is still that file.
    ///
    /// # Errors
    ///
    /// It names another file, or none.
    pub fn look(&self) -> Result<Metadata, Displaced> {
        let displaced = |how| Displaced { path: self.path.clone(), how };
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (self.device, self.inode) => Ok(found),
            Ok(_) => Err(displaced(How::Replaced)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(displaced(How::Gone)),
            Err(error) => Err(displaced(How::Unseen(error.kind()))),
        }
    }
}

/// A path no longer names the file that is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Displaced {
    path: PathBuf,
    how: How,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Gone,
    Replaced,
    Unseen(io::ErrorKind),
}

impl fmt::Display for Displaced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.how {
            How::Gone => write!(f, "{path} is not there any more: the open file was removed or moved away"),
            How::Replaced => {
                write!(f, "{path} is another file now: it was replaced, or a volume was mounted over it")
            }
            How::Unseen(kind) => write!(f, "{path} cannot be looked at: {kind}"),
        }
    }
}

impl std::error::Error for Displaced {}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};

    #[test]
    fn whatever_happens_to_a_path_is_seen() {
        type Change = fn(&Path);
        let changes: [(&str, Change); 6] = [
            ("removed", |path| fs::remove_file(path).unwrap()),
            ("moved", |path| fs::rename(path, path.with_extension("1")).unwrap()),
            ("replaced", |path| {
                fs::write(path.with_extension("new"), "x").unwrap();
                fs::rename(path.with_extension("new"), path).unwrap();
            }),
            ("removed and made again", |path| {
                fs::remove_file(path).unwrap();
                fs::write(path, "x").unwrap();
            }),
            ("its directory moved", |path| {
                let directory = path.parent().unwrap();
                fs::rename(directory, directory.with_extension("1")).unwrap();
            }),
            ("its directory exchanged", |path| {
                let directory = path.parent().unwrap();
                fs::rename(directory, directory.with_extension("1")).unwrap();
                fs::create_dir(directory).unwrap();
                fs::write(path, "x").unwrap();
            }),
        ];
        for (what, change) in changes {
            let above = tempfile::tempdir().unwrap();
            let directory = above.path().join("state");
            fs::create_dir(&directory).unwrap();
            let path = directory.join("file");
            fs::write(&path, "x").unwrap();
            let open = File::open(&path).unwrap();
            let place = Place::of(&path, &open.metadata().unwrap());
            assert_eq!(Place::find(&path).unwrap(), place);
            assert_eq!(place.look().unwrap().len(), 1);
            change(&path);
            place.look().expect_err(what);
        }
    }

    #[test]
    fn a_file_that_comes_back_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let (path, aside) = (directory.path().join("file"), directory.path().join("aside"));
        fs::write(&path, "x").unwrap();
        let _open = File::open(&path).unwrap();
        let place = Place::find(&path).unwrap();
        fs::rename(&path, &aside).unwrap();
        assert!(place.look().unwrap_err().to_string().contains("is not there any more"));
        fs::rename(&aside, &path).unwrap();
        place.look().unwrap();
    }
}
