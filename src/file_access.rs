//! Who besides the vault can read or change a file, and what to do about it.
//!
//! A decision that rests on a file is worth no more than the file: whoever can
//! write a policy is its author. So each file that a setting names is judged
//! before it is read, the file that was opened and not the path, and so are the
//! directories in which somebody could put another in its place.
//!
//! | | everybody else | its group | its owner |
//! |---|---|---|---|
//! | root key | nothing | may read it where the vault is in that group | the vault or root |
//! | other secrets | nothing | may read it; may write it where the vault is in that group | anybody |
//! | what the vault trusts | may read it | may write it where the vault is in that group | anybody |
//! | their directory | may write it where it has the sticky bit | may write it where the vault is in that group | anybody |
//!
//! What is mounted read-only nobody can exchange, whatever its directory's mode.
//! The group of root counts as one of the vault's own. A group that may read is
//! how orchestrators mount secrets: Kubernetes gives a secret to `root` and the
//! pod's `fsGroup`, with mode 0440 whatever was asked for. A link is followed
//! and the file it leads to judged. What an access list adds shows in the
//! group's rights only, so it is not told apart from them.

use std::fmt;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a file is to the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The root key, with which everything opens.
    RootKey,
    /// Another secret.
    Secret,
    /// No secret, but the vault does what it says: policy, configuration,
    /// certificates, authorities, stores, audit log.
    Trusted,
}

/// As whom this process acts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its effective user.
    pub user: u32,
    /// Its effective group and its supplementary ones.
    pub groups: Vec<u32>,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let mut groups = vec![rustix::process::getegid().as_raw()];
        // Where the system does not tell them the vault counts as in none.
        let more = rustix::process::getgroups().unwrap_or_default();
        groups.extend(more.into_iter().map(rustix::process::Gid::as_raw));
        groups.dedup();
        Self { user: rustix::process::geteuid().as_raw(), groups }
    }

    fn is_in(&self, group: u32) -> bool {
        group == 0 || self.groups.contains(&group)
    }

    /// Whether it can change the mode of what belongs to `owner`.
    fn commands(&self, owner: u32) -> bool {
        self.user == 0 || self.user == owner
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(ToString::to_string).collect();
        write!(f, "user {}, groups {}", self.user, groups.join(" "))
    }
}

/// What the file system says of a file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    mode: u32,
    owner: u32,
    group: u32,
}

impl From<&Metadata> for Facts {
    fn from(metadata: &Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: metadata.uid(), group: metadata.gid() }
    }
}

/// A file, or the directory it is in, that others can read or change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposed {
    path: PathBuf,
    facts: Facts,
    what: Exposure,
    process: Process,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exposure {
    /// Others than owner and group have rights to a secret.
    SecretToEverybody,
    /// The group has rights to a secret that it must not have.
    SecretToGroup,
    /// Everybody can change it.
    ChangedByEverybody,
    /// A group that the vault is not in can change it.
    ChangedByGroup,
    /// Its owner, neither the vault nor root, can exchange it.
    ForeignOwner,
    /// Everybody can put another file in its place.
    DirectoryOfEverybody,
    /// A group that the vault is not in can put another file in its place.
    DirectoryOfGroup,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, facts: Facts { mode, owner, group }, what, process } = self;
        let path = path.display();
        let (fault, command) = match what {
            Exposure::SecretToEverybody => ("others than its owner and group may use it".into(), "chmod 600"),
            Exposure::SecretToGroup => (format!("group {group} may use it"), "chmod 600"),
            Exposure::ChangedByEverybody => ("everybody can change it".into(), "chmod o-w"),
            Exposure::ChangedByGroup => (format!("group {group} can change it"), "chmod g-w"),
            Exposure::ForeignOwner => (format!("its owner, user {owner}, can exchange it"), "chown"),
            Exposure::DirectoryOfEverybody => {
                ("everybody can put another file in place of the one in it".into(), "chmod o-w")
            }
            Exposure::DirectoryOfGroup => {
                (format!("group {group} can put another file in place of the one in it"), "chmod g-w")
            }
        };
        write!(f, "{path} (mode {mode:04o}, user {owner}, group {group}): {fault}; ")?;
        match what {
            Exposure::ForeignOwner => {
                write!(f, "have root run `chown {} {path}`, or give it to root", process.user)
            }
            _ if process.commands(*owner) => write!(f, "run `{command} {path}`"),
            Exposure::SecretToGroup => write!(
                f,
                "the vault runs as {process}: have user {owner}, who owns it, let a group of the vault alone read \
                 it (in Kubernetes: fsGroup, and nothing that the group may write)"
            ),
            Exposure::SecretToEverybody => write!(
                f,
                "have user {owner}, who owns it, run `chmod o= {path}` (in Kubernetes: defaultMode 0440 and \
                 fsGroup)"
            ),
            _ => write!(f, "have user {owner}, who owns it, run `{command} {path}`"),
        }?;
        match what {
            Exposure::SecretToEverybody | Exposure::SecretToGroup => {
                f.write_str(", and consider whether it has been seen")
            }
            Exposure::DirectoryOfEverybody | Exposure::DirectoryOfGroup => {
                f.write_str(", or use a directory of the vault's own")
            }
            Exposure::ChangedByEverybody | Exposure::ChangedByGroup => {
                f.write_str(", and check what it says")
            }
            Exposure::ForeignOwner => Ok(()),
        }
    }
}

impl std::error::Error for Exposed {}

/// Why a file is not used.
#[derive(Debug)]
pub enum AccessError {
    /// It cannot be opened; the text says what to do where that is known.
    Io(io::Error, Option<String>),
    /// It is a directory, a pipe or something else that is no regular file.
    NotAFile,
    /// Others can read or change it.
    Exposed(Exposed),
}

/// Opens a file that is there, judged.
///
/// # Errors
///
/// When it cannot be opened, is not a regular file, or is exposed.
pub fn open(path: &Path, kind: Kind) -> Result<(File, Metadata), AccessError> {
    let process = Process::current();
    let io = |error: io::Error| {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        AccessError::Io(error, denied.then(|| denial(path, &process)))
    };
    // Looked at before it is opened, since opening a pipe would wait.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(AccessError::NotAFile);
    }
    let file = File::open(path).map_err(io)?;
    // Of the opened file, not of the path, which could be exchanged between.
    let metadata = file.metadata().map_err(io)?;
    judge(path, &metadata, kind, &process).map_err(AccessError::Exposed)?;
    judge_directories(path, Some(&metadata), &process).map_err(AccessError::Exposed)?;
    Ok((file, metadata))
}

/// Judges a file that the vault writes and that need not be there yet.
///
/// # Errors
///
/// When it is there and exposed, or could be put there by others.
pub fn check_written(path: &Path) -> Result<(), Exposed> {
    let process = Process::current();
    let metadata = fs::metadata(path).ok();
    if let Some(metadata) = &metadata {
        judge(path, metadata, Kind::Trusted, &process)?;
    }
    judge_directories(path, metadata.as_ref(), &process)
}

fn judge(path: &Path, file: &Metadata, kind: Kind, process: &Process) -> Result<(), Exposed> {
    let facts = Facts::from(file);
    match exposure(facts, kind, process) {
        Some(what) => Err(Exposed { path: path.into(), facts, what, process: process.clone() }),
        None => Ok(()),
    }
}

/// The table at the top, for a file.
fn exposure(facts: Facts, kind: Kind, process: &Process) -> Option<Exposure> {
    let Facts { mode, owner, group } = facts;
    let secret = matches!(kind, Kind::RootKey | Kind::Secret);
    let (of_others, of_group) = (mode & 0o007, mode >> 3 & 0o007);
    let ours = process.is_in(group);
    if secret && of_others != 0 {
        Some(Exposure::SecretToEverybody)
    } else if of_others & 0o002 != 0 {
        Some(Exposure::ChangedByEverybody)
    } else if kind == Kind::RootKey && (of_group & 0o003 != 0 || of_group != 0 && !ours) {
        Some(Exposure::SecretToGroup)
    } else if of_group & 0o002 != 0 && !ours {
        Some(Exposure::ChangedByGroup)
    } else if kind == Kind::RootKey && owner != 0 && owner != process.user {
        Some(Exposure::ForeignOwner)
    } else {
        None
    }
}

/// Judges the directories that a path leads through: those in which the path
/// itself stands, and those of the file it leads to.
fn judge_directories(path: &Path, file: Option<&Metadata>, process: &Process) -> Result<(), Exposed> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let real = fs::canonicalize(path).ok().and_then(|real| real.parent().map(Path::to_owned));
    for start in fs::canonicalize(parent).into_iter().chain(real) {
        for (distance, directory) in start.ancestors().enumerate() {
            // What cannot be looked at cannot be gone through either.
            let Ok(metadata) = fs::metadata(directory) else { continue };
            let facts = Facts::from(&metadata);
            let owner = file.map(MetadataExt::uid);
            let exposure = directory_exposure(facts, distance == 0, owner, process);
            if let Some(what) = exposure.filter(|_| !is_read_only(directory)) {
                return Err(Exposed { path: directory.into(), facts, what, process: process.clone() });
            }
        }
    }
    Ok(())
}

/// The last line of the table. Where the sticky bit is set nobody can exchange
/// what belongs to another, but can have made it. Of the directories above, many
/// belong to a group of the system's own, such as `/var/log`; those are for the
/// system to keep.
fn directory_exposure(
    facts: Facts,
    holds_the_file: bool,
    file_owner: Option<u32>,
    process: &Process,
) -> Option<Exposure> {
    let Facts { mode, group, .. } = facts;
    let by_everybody = mode & 0o002 != 0;
    let by_group = mode & 0o020 != 0 && !process.is_in(group);
    if mode & 0o1000 != 0 {
        let made_by_another = file_owner.is_some_and(|owner| owner != 0 && owner != process.user);
        return (holds_the_file && by_everybody && made_by_another).then_some(Exposure::DirectoryOfEverybody);
    }
    if by_everybody {
        Some(Exposure::DirectoryOfEverybody)
    } else {
        (holds_the_file && by_group).then_some(Exposure::DirectoryOfGroup)
    }
}

/// Whether the directory is mounted read-only, so that its mode permits nothing:
/// Kubernetes mounts a ConfigMap as a directory of mode 0777.
fn is_read_only(directory: &Path) -> bool {
    let flags = rustix::fs::statvfs(directory).map(|system| system.f_flag);
    flags.is_ok_and(|flags| flags.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Why a file cannot be opened, and who can change that.
fn denial(path: &Path, process: &Process) -> String {
    match fs::metadata(path).as_ref().map(Facts::from) {
        Ok(Facts { mode, owner, group }) => format!(
            "it has mode {mode:04o}, user {owner}, group {group}, and the vault runs as {process}: have user \
             {owner}, who owns it, let the vault read it (in Kubernetes: fsGroup)"
        ),
        Err(_) => format!("the vault runs as {process}, which may not look into one of its directories"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const VAULT: u32 = 65534;

    fn vault() -> Process {
        Process { user: VAULT, groups: vec![VAULT, 2000] }
    }

    fn of(mode: u32, owner: u32, group: u32) -> Facts {
        Facts { mode, owner, group }
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn text(facts: Facts, kind: Kind) -> String {
        let what = exposure(facts, kind, &vault()).unwrap();
        Exposed { path: "/f".into(), facts, what, process: vault() }.to_string()
    }

    #[test]
    fn a_root_key_is_read_by_its_owner_and_by_a_group_of_the_vaults_alone() {
        for good in [
            of(0o600, VAULT, 0),
            of(0o400, 0, 0),
            of(0o440, 0, VAULT),
            of(0o440, 0, 2000),
            of(0o640, VAULT, 2000),
        ] {
            assert_eq!(exposure(good, Kind::RootKey, &vault()), None, "{good:?}");
        }
        for (bad, what) in [
            (of(0o440, 0, 3000), Exposure::SecretToGroup),
            (of(0o640, VAULT, 3000), Exposure::SecretToGroup),
            (of(0o460, 0, VAULT), Exposure::SecretToGroup),
            (of(0o620, VAULT, VAULT), Exposure::SecretToGroup),
            (of(0o610, VAULT, VAULT), Exposure::SecretToGroup),
            (of(0o444, 0, VAULT), Exposure::SecretToEverybody),
            (of(0o602, VAULT, VAULT), Exposure::SecretToEverybody),
            (of(0o601, VAULT, VAULT), Exposure::SecretToEverybody),
            (of(0o440, 1000, VAULT), Exposure::ForeignOwner),
        ] {
            assert_eq!(exposure(bad, Kind::RootKey, &vault()), Some(what), "{bad:?}");
        }
    }

    #[test]
    fn what_is_trusted_is_changed_by_nobody_else() {
        for kind in [Kind::Trusted, Kind::Secret] {
            for good in [of(0o640, 0, 3000), of(0o660, 1000, 2000), of(0o660, 1000, 0)] {
                assert_eq!(exposure(good, kind, &vault()), None, "{good:?}");
            }
            assert_eq!(exposure(of(0o660, 0, 3000), kind, &vault()), Some(Exposure::ChangedByGroup));
        }
        assert_eq!(exposure(of(0o644, 1000, 3000), Kind::Trusted, &vault()), None);
        assert_eq!(exposure(of(0o646, 0, 0), Kind::Trusted, &vault()), Some(Exposure::ChangedByEverybody));
        assert_eq!(exposure(of(0o644, 0, 0), Kind::Secret, &vault()), Some(Exposure::SecretToEverybody));
    }

    /// For every mode, owner and group: nothing that is accepted lets a stranger
    /// write it, or read it where it is secret.
    #[test]
    fn nothing_that_is_accepted_is_a_strangers() {
        for mode in 0..0o1000 {
            for group in [0, VAULT, 2000, 3000] {
                for owner in [0, VAULT, 1000] {
                    let facts = of(mode, owner, group);
                    let stranger_group = group == 3000;
                    for kind in [Kind::RootKey, Kind::Secret, Kind::Trusted] {
                        if exposure(facts, kind, &vault()).is_some() {
                            continue;
                        }
                        assert_eq!(mode & 0o002, 0, "{facts:?} {kind:?}");
                        assert!(!(stranger_group && mode & 0o020 != 0), "{facts:?} {kind:?}");
                        if kind != Kind::Trusted {
                            assert_eq!(mode & 0o007, 0, "{facts:?} {kind:?}");
                        }
                        if kind == Kind::RootKey {
                            assert!(!(stranger_group && mode & 0o070 != 0) && owner != 1000, "{facts:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn nobody_is_told_to_do_what_only_another_can() {
        let own = text(of(0o604, VAULT, VAULT), Kind::RootKey);
        assert!(own.contains("run `chmod 600 /f`"), "{own}");
        assert!(!own.contains("have user"), "{own}");
        let roots = text(of(0o444, 0, VAULT), Kind::RootKey);
        assert!(roots.contains("have user 0, who owns it, run `chmod o= /f`"), "{roots}");
        // Without the group's right the vault could not read it at all.
        let foreign = text(of(0o440, 0, 3000), Kind::RootKey);
        assert!(foreign.contains("let a group of the vault alone read it"), "{foreign}");
        assert!(!foreign.contains("chmod"), "{foreign}");
        let given = text(of(0o400, 1000, 0), Kind::RootKey);
        assert!(given.contains("have root run `chown 65534 /f`"), "{given}");
    }

    #[test]
    fn a_directory_in_which_others_can_exchange_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("policy.cedar");
        fs::write(&file, "x").unwrap();
        set_mode(&file, 0o644);
        for (mode, good) in [(0o755, true), (0o777, false), (0o1777, true), (0o757, false)] {
            set_mode(&inner, mode);
            assert_eq!(open(&file, Kind::Trusted).is_ok(), good, "{mode:o}");
            assert_eq!(check_written(&inner.join("new")).is_ok(), good, "{mode:o}");
        }
        // Above it, too: the inner one could be exchanged as a whole.
        set_mode(&inner, 0o755);
        set_mode(dir.path(), 0o777);
        assert!(open(&file, Kind::Trusted).is_err());
        set_mode(dir.path(), 0o700);
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(open(&link, Kind::Trusted).is_ok());
        set_mode(&inner, 0o777);
        assert!(open(&link, Kind::Trusted).is_err(), "where the link leads to is not looked at");
    }

    #[test]
    fn a_group_counts_for_the_directory_of_the_file_alone() {
        let var_log = of(0o775, 0, 104);
        assert_eq!(directory_exposure(var_log, false, None, &vault()), None);
        assert_eq!(directory_exposure(var_log, true, None, &vault()), Some(Exposure::DirectoryOfGroup));
        assert_eq!(directory_exposure(of(0o2775, 0, VAULT), true, None, &vault()), None);
        let shared = of(0o1777, 0, 0);
        assert_eq!(directory_exposure(shared, true, Some(VAULT), &vault()), None);
        assert_eq!(
            directory_exposure(shared, true, Some(1000), &vault()),
            Some(Exposure::DirectoryOfEverybody)
        );
    }

    #[test]
    fn a_secret_as_kubernetes_mounts_it_is_followed_and_the_file_judged() {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        let version = mount.join("..2026_01_01");
        fs::create_dir_all(&version).unwrap();
        set_mode(&mount, 0o3777);
        let key = version.join("root.key");
        fs::write(&key, "x").unwrap();
        set_mode(&key, 0o440);
        symlink("..2026_01_01", mount.join("..data")).unwrap();
        symlink("..data/root.key", mount.join("root.key")).unwrap();
        open(&mount.join("root.key"), Kind::RootKey).unwrap();
        set_mode(&key, 0o444);
        assert!(matches!(open(&mount.join("root.key"), Kind::RootKey), Err(AccessError::Exposed(_))));
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(open(&pipe, Kind::Secret), Err(AccessError::NotAFile)));
        assert!(matches!(open(dir.path(), Kind::Secret), Err(AccessError::NotAFile)));
    }
}
