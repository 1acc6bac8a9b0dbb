//! What is renewed while the vault serves: everything that comes from a file of
//! its own.
//!
//! A [`Reloadable`] is read again when one of its files has changed, of which
//! there is a look each second, and on SIGHUP. Where the new cannot be used the
//! old stays in force, loudly: a log line, a counter and a gauge say so until it
//! is corrected. The vault goes on serving.
//!
//! The looks compare what the path leads to (its real path, device, inode, times
//! and length), so it makes no difference whether a file was written in place,
//! exchanged, or is behind a link that was, as Kubernetes does it. A file that
//! changes is left alone until it has rested for one look: half of a policy can
//! be a valid policy.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::audit::{AuditLog, Entry};
use crate::clock::{SharedClock, Timestamp};
use crate::metrics::Counters;
use crate::shutdown::Shutdown;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The signals that ask for a reload. From here on they end the process no more.
pub(super) fn hangups() -> Option<Signal> {
    let handled = signal(SignalKind::hangup()).inspect_err(|error| {
        tracing::error!(%error, "SIGHUP cannot be handled; changed files are noticed all the same");
    });
    handled.ok()
}

/// Something in force that comes from files.
pub trait Reloadable: Send + Sync {
    /// What it is, for the log.
    fn name(&self) -> &'static str;

    /// The files it comes from. What names none is reloaded on SIGHUP alone.
    fn files(&self) -> Vec<PathBuf>;

    /// Reads the files again and takes what they say into force.
    ///
    /// # Errors
    ///
    /// What is wrong with the new, without any secret; the old stays in force.
    fn reload(&self, now: Timestamp) -> Result<Reloaded, String>;
}

/// What came of reading files again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reloaded {
    /// They say what they said before.
    Unchanged,
    /// Something new is in force.
    Changed,
}

/// Reloads what changes, until the shutdown.
pub(super) struct Reloader {
    watched: Vec<Watched>,
    clock: SharedClock,
    metrics: Arc<Counters>,
    /// `None` in tests without a log.
    audit: Option<Arc<AuditLog>>,
}

struct Watched {
    item: Box<dyn Reloadable>,
    /// The files at the last look.
    seen: Vec<Stamp>,
    /// The files when they were read last.
    read: Option<Vec<Stamp>>,
    failing: bool,
}

impl Reloader {
    pub(super) fn new(
        items: Vec<Box<dyn Reloadable>>,
        clock: SharedClock,
        metrics: Arc<Counters>,
        audit: Option<Arc<AuditLog>>,
    ) -> Self {
        let watch = |item| Watched { item, seen: Vec::new(), read: None, failing: false };
        Self { watched: items.into_iter().map(watch).collect(), clock, metrics, audit }
    }

    /// Looks each second, and on SIGHUP where those are the vault's to handle.
    pub(super) async fn run(self, mut hangups: Option<Signal>, shutdown: Shutdown) {
        let mut reloader = self;
        loop {
            let asked = tokio::select! {
                () = shutdown.triggered() => return,
                () = hung_up(hangups.as_mut()) => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            // A file system that hangs must not hold the vault's threads.
            let look = tokio::task::spawn_blocking(move || {
                reloader.look(asked);
                reloader
            });
            match look.await {
                Ok(back) => reloader = back,
                Err(error) => {
                    tracing::error!(%error, "changed files are no longer noticed: restart the vault");
                    return;
                }
            }
        }
    }

    /// One look at all files; `asked`: all are read, whether changed or not.
    fn look(&mut self, asked: bool) {
        let now = self.clock.now();
        let mut changed = 0;
        for watched in &mut self.watched {
            let stamps: Vec<Stamp> = watched.item.files().iter().map(|file| stamp(file)).collect();
            let rests = stamps == watched.seen;
            watched.seen.clone_from(&stamps);
            let is_new = !stamps.is_empty() && watched.read.as_ref() != Some(&stamps);
            if asked || is_new && rests {
                watched.read = Some(stamps);
                changed += usize::from(watched.reload(now, &self.metrics, self.audit.as_deref()));
            }
        }
        let failing = self.watched.iter().filter(|watched| watched.failing).count();
        self.metrics.reloads_failing(failing);
        if asked {
            tracing::info!(changed, failing, "SIGHUP: all files were read again");
        }
    }
}

impl Watched {
    /// Whether something new is in force.
    fn reload(&mut self, now: Timestamp, metrics: &Counters, audit: Option<&AuditLog>) -> bool {
        let what = self.item.name();
        let files: Vec<String> = self.item.files().iter().map(|file| file.display().to_string()).collect();
        let files = files.join(" ");
        let reloaded = self.item.reload(now);
        self.failing = reloaded.is_err();
        match reloaded {
            Ok(Reloaded::Changed) => {
                metrics.reload_succeeded(now);
                tracing::info!(what, files, "reloaded");
                // It is in force whether the log can be written or not; where it
                // cannot, nothing is handed out anyway.
                let _ = audit.map(|audit| audit.append(Entry::event("reloaded").note(what)));
                true
            }
            Ok(Reloaded::Unchanged) => {
                metrics.reload_succeeded(now);
                false
            }
            Err(why) => {
                metrics.reload_failed();
                tracing::error!(
                    what,
                    files,
                    why,
                    "cannot be reloaded: the old stays in force; correct the file"
                );
                false
            }
        }
    }
}

async fn hung_up(hangups: Option<&mut Signal>) {
    match hangups {
        Some(hangups) => {
            hangups.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// What a path leads to; `None`: nothing.
type Stamp = Option<(PathBuf, [u64; 3], [i64; 4])>;

fn stamp(path: &Path) -> Stamp {
    let real = fs::canonicalize(path).ok()?;
    let metadata = fs::metadata(&real).ok()?;
    let numbers = [metadata.dev(), metadata.ino(), metadata.len()];
    let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
    Some((real, numbers, times))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::Mutex;

    use super::*;
    use crate::clock::SystemClock;

    /// Takes each text into force but "bad".
    #[derive(Clone, Default)]
    struct Text {
        file: PathBuf,
        in_force: Arc<Mutex<Vec<String>>>,
    }

    impl Reloadable for Text {
        fn name(&self) -> &'static str {
            "a text"
        }

        fn files(&self) -> Vec<PathBuf> {
            vec![self.file.clone()]
        }

        fn reload(&self, _now: Timestamp) -> Result<Reloaded, String> {
            let text = fs::read_to_string(&self.file).map_err(|error| error.to_string())?;
            let mut in_force = self.in_force.lock().unwrap();
            if text == "bad" {
                Err("bad".into())
            } else if in_force.last() == Some(&text) {
                Ok(Reloaded::Unchanged)
            } else {
                in_force.push(text);
                Ok(Reloaded::Changed)
            }
        }
    }

    struct World {
        directory: tempfile::TempDir,
        text: Text,
        reloader: Reloader,
        metrics: Arc<Counters>,
    }

    impl World {
        fn new(first: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("file");
            fs::write(&file, first).unwrap();
            let text = Text { file, in_force: Arc::new(Mutex::new(vec![first.to_owned()])) };
            let metrics = Arc::new(Counters::new());
            let items: Vec<Box<dyn Reloadable>> = vec![Box::new(text.clone())];
            let reloader = Reloader::new(items, SystemClock::shared(), Arc::clone(&metrics), None);
            let mut world = Self { directory, text, reloader, metrics };
            world.looks(2);
            assert_eq!(world.in_force(), [first]);
            world
        }

        fn looks(&mut self, count: usize) {
            (0..count).for_each(|_| self.reloader.look(false));
        }

        fn in_force(&self) -> Vec<String> {
            self.text.in_force.lock().unwrap().clone()
        }

        fn shows(&self, line: &str) -> bool {
            self.metrics.render().lines().any(|known| known == line)
        }
    }

    #[test]
    fn a_file_is_read_again_however_it_was_changed() {
        let mut world = World::new("one");
        fs::write(&world.text.file, "two").unwrap();
        world.looks(2);
        let aside = world.directory.path().join("aside");
        fs::write(&aside, "tri").unwrap();
        fs::rename(&aside, &world.text.file).unwrap();
        world.looks(2);
        assert_eq!(world.in_force(), ["one", "two", "tri"]);
    }

    #[test]
    fn a_link_that_is_exchanged_as_kubernetes_does_is_noticed() {
        let mut world = World::new("one");
        let at = |name: &str| world.directory.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("file"), version).unwrap();
        }
        fs::remove_file(at("file")).unwrap();
        symlink("..1", at("..data")).unwrap();
        symlink("..data/file", at("file")).unwrap();
        let (new, data) = (at("..data_tmp"), at("..data"));
        world.looks(2);
        symlink("..2", &new).unwrap();
        fs::rename(&new, &data).unwrap();
        world.looks(2);
        assert_eq!(world.in_force(), ["one", "..1", "..2"]);
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone() {
        let mut world = World::new("one");
        for half in ["tw", "two", "two and"] {
            fs::write(&world.text.file, half).unwrap();
            world.looks(1);
        }
        assert_eq!(world.in_force(), ["one"]);
        world.looks(1);
        assert_eq!(world.in_force(), ["one", "two and"]);
    }

    #[test]
    fn what_cannot_be_used_leaves_the_old_in_force_and_is_said_once() {
        let mut world = World::new("one");
        fs::write(&world.text.file, "bad").unwrap();
        world.looks(5);
        assert_eq!(world.in_force(), ["one"]);
        assert!(world.shows("obo_vault_reloads_failed_total 1"));
        assert!(world.shows("obo_vault_reloads_failing 1"));
        fs::remove_file(&world.text.file).unwrap();
        world.looks(5);
        assert!(world.shows("obo_vault_reloads_failed_total 2"));
        fs::write(&world.text.file, "two").unwrap();
        world.looks(2);
        assert_eq!(world.in_force(), ["one", "two"]);
        assert!(world.shows("obo_vault_reloads_failing 0"));
    }

    #[test]
    fn sighup_reads_at_once_and_what_had_failed_again() {
        let mut world = World::new("one");
        fs::write(&world.text.file, "bad").unwrap();
        world.reloader.look(true);
        world.reloader.look(true);
        assert!(world.shows("obo_vault_reloads_failed_total 2"));
        fs::write(&world.text.file, "two").unwrap();
        world.reloader.look(true);
        assert_eq!(world.in_force(), ["one", "two"]);
    }
}
