//! File descriptors: every connection is one, and so are databases and requests
//! to providers. A vault that has none left refuses good callers first, so the
//! bounds of connections are made to fit what the system gives.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::grpc::limits::Limits;

/// What the vault needs besides connections.
const RESERVE: usize = 256;

/// Takes as many descriptors as the limits ask for and the system allows; where
/// that is less, the limits become smaller.
pub(super) fn fit(limits: &Limits) -> Limits {
    let wanted = needed(limits);
    let system = getrlimit(Resource::Nofile);
    let wished = raised(&system, wanted);
    let granted = match setrlimit(Resource::Nofile, wished) {
        Ok(()) => wished.current,
        Err(error) => {
            tracing::warn!(%error, "cannot raise the limit of open files");
            system.current
        }
    };
    let granted = granted.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
    if granted < wanted {
        tracing::warn!(
            granted,
            wanted,
            "the limit of open files is below what server.limits needs: fewer connections are \
             accepted; raise it (ulimit -n, LimitNOFILE)"
        );
    }
    within(limits, granted)
}

fn needed(limits: &Limits) -> usize {
    limits.connections.saturating_add(limits.handshakes).saturating_add(RESERVE)
}

/// Never lowered, and never above what the system allows.
fn raised(system: &Rlimit, wanted: usize) -> Rlimit {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let current = system.current.map(|now| now.max(system.maximum.map_or(wanted, |most| wanted.min(most))));
    Rlimit { current, maximum: system.maximum }
}

fn within(limits: &Limits, granted: usize) -> Limits {
    let wanted = needed(limits);
    if granted >= wanted {
        return limits.clone();
    }
    // Handshakes and connections give way alike.
    let (rest, asked) = (granted.saturating_sub(RESERVE).max(2), wanted - RESERVE);
    let share = |n: usize| (n.saturating_mul(rest) / asked).max(1);
    Limits { connections: share(limits.connections), handshakes: share(limits.handshakes), ..limits.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_fit_the_descriptors_there_are() {
        let limits = Limits { connections: 2048, handshakes: 512, ..Limits::default() };
        assert_eq!(within(&limits, 2816), limits);
        for granted in [2815, 1024, 512, 300] {
            let fitted = within(&limits, granted);
            assert!(needed(&fitted) <= granted, "{granted}: {fitted:?}");
            assert!(fitted.connections > fitted.handshakes);
        }
        let least = within(&limits, 10);
        assert!(least.connections >= 1 && least.handshakes >= 1);
    }

    #[test]
    fn the_systems_limit_is_raised_as_far_as_it_goes_and_never_lowered() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(raised(&limit(Some(1024), Some(4096)), 2816).current, Some(2816));
        assert_eq!(raised(&limit(Some(1024), Some(2000)), 2816).current, Some(2000));
        assert_eq!(raised(&limit(Some(9000), Some(9000)), 2816).current, Some(9000));
        assert_eq!(raised(&limit(Some(1024), None), 2816).current, Some(2816));
        assert_eq!(raised(&limit(None, None), 2816).current, None);
    }
}
