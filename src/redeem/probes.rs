//! Which probes are under way, and which are postponed. A look at what is due waits
//! for none of them: a provider that hangs, or a grant that is being used, holds
//! no other up, and what cannot be probed keeps no place from what can.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Instant;
use crate::domain::grant::GrantKey;
use crate::domain::id::ClientId;
use crate::store::DueCursor;

/// Most probes of one client at once.
const PER_CLIENT: usize = 64;

/// How long a grant is postponed whose probe failed before it claimed anything:
/// its token does not open, its tenant or a file of the vault is out of reach.
const POSTPONED_FOR: Duration = Duration::from_secs(60);

/// The probes of this process; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Probes {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    under_way: HashSet<GrantKey>,
    per_client: HashMap<ClientId, usize>,
    postponed: HashMap<GrantKey, Instant>,
    /// Where the next look goes on, when the last one did not see the end.
    after: Option<DueCursor>,
}

/// A probe under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Probing {
    key: GrantKey,
    probes: Probes,
}

impl Probes {
    /// `None`: it is under way already, it is postponed, or its client has as many
    /// as it may.
    pub(super) fn begin(&self, key: &GrantKey, now: Instant) -> Option<Probing> {
        let mut known = self.known();
        let count = known.per_client.get(&key.client).copied().unwrap_or(0);
        if count >= PER_CLIENT
            || known.postponed.get(key).is_some_and(|until| *until > now)
            || !known.under_way.insert(key.clone())
        {
            return None;
        }
        known.per_client.insert(key.client.clone(), count + 1);
        Some(Probing { key: key.clone(), probes: self.clone() })
    }

    /// Where the next look begins.
    pub(super) fn after(&self) -> Option<DueCursor> {
        self.known().after
    }

    /// Where the one after this begins; `None`: at the oldest again.
    pub(super) fn go_on_after(&self, after: Option<DueCursor>, now: Instant) {
        let mut known = self.known();
        known.after = after;
        known.postponed.retain(|_, until| *until > now);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probing {
    /// It failed and changed nothing, and would do the same again at once.
    pub(super) fn postpone(self, now: Instant) {
        self.probes.known().postponed.insert(self.key.clone(), now.plus(POSTPONED_FOR));
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        let mut known = self.probes.known();
        known.under_way.remove(&self.key);
        let left = known.per_client.get(&self.key.client).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            known.per_client.remove(&self.key.client);
        } else {
            known.per_client.insert(self.key.client.clone(), left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::{SubjectId, TenantId};

    const NOW: Instant = Instant::ZERO;

    fn key(client: &str, n: usize) -> GrantKey {
        GrantKey {
            tenant: TenantId::new("t").unwrap(),
            client: ClientId::new(client).unwrap(),
            subject: SubjectId::new(&format!("u{n}")).unwrap(),
        }
    }

    #[test]
    fn one_clients_probes_leave_another_its_own() {
        let probes = Probes::default();
        let mut held: Vec<_> = (0..PER_CLIENT).map(|n| probes.begin(&key("slow", n), NOW).unwrap()).collect();
        assert!(probes.begin(&key("slow", PER_CLIENT), NOW).is_none());
        let other = probes.begin(&key("other", 0), NOW).unwrap();
        assert!(probes.begin(&key("other", 0), NOW).is_none(), "it is under way");
        drop(held.pop());
        assert!(probes.begin(&key("slow", PER_CLIENT), NOW).is_some());
        drop((held, other));
        let known = probes.known();
        assert!(known.under_way.is_empty() && known.per_client.is_empty());
    }

    #[test]
    fn what_fails_before_its_claim_is_postponed_for_a_while() {
        let probes = Probes::default();
        probes.begin(&key("c", 1), NOW).unwrap().postpone(NOW);
        assert!(probes.begin(&key("c", 1), NOW).is_none());
        assert!(probes.begin(&key("c", 2), NOW).is_some(), "its place is free");
        assert!(probes.begin(&key("c", 1), NOW.plus(POSTPONED_FOR)).is_some());
        probes.go_on_after(None, NOW.plus(POSTPONED_FOR));
        assert!(probes.known().postponed.is_empty());
    }
}
