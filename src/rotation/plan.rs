//! What is due, decided from what is known and nothing else.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::grant::Grant;
use crate::domain::key::{KeyState, KeyVersion, KeyVersionInfo};
use crate::domain::rotation::Run;
use crate::domain::tenant::Tenant;
use crate::keyring::needs_rotation;

/// Why a tenant gets a new key version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewVersion {
    /// The run was asked to.
    Forced,
    /// The newest is older than the configuration allows.
    Age,
    /// The newest has made as many seals as it should.
    Seals,
}

/// Whether the tenant gets a new key version in this run.
#[must_use]
pub fn new_version(
    run: &Run,
    tenant: &Tenant,
    newest: Option<&KeyVersionInfo>,
    max_age: Duration,
    now: Timestamp,
) -> Option<NewVersion> {
    tenant.sealing_version()?;
    if tenant.rotated_at >= run.started_at {
        // This run has done it, before a crash; or an operator meanwhile.
        return None;
    }
    if run.options.force_new_versions {
        Some(NewVersion::Forced)
    } else if newest.is_some_and(needs_rotation) {
        Some(NewVersion::Seals)
    } else if now.since(tenant.rotated_at) >= max_age {
        Some(NewVersion::Age)
    } else {
        None
    }
}

/// Whether the grant is still to be refreshed in this run.
#[must_use]
pub fn still_to_refresh(run: &Run, grant: &Grant, now: Timestamp) -> bool {
    let refreshed_by_this_run = grant.refreshed_at >= run.started_at;
    let paused = grant.not_before.is_some_and(|until| now < until);
    !refreshed_by_this_run && !paused
}

/// What becomes of an older key version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// Nothing names it any more: its retention begins.
    Begin(KeyVersion),
    /// Something names it again, as after a restore: its retention is over when
    /// that has been so for all of it once more.
    Withdraw(KeyVersion),
    /// Nothing has named it for all of its retention.
    Destroy(KeyVersion),
}

/// What becomes of the versions older than the newest. One that nothing names is
/// kept for `retention`, so that the backups that name it can be restored.
#[must_use]
pub fn retire(
    versions: &[KeyVersionInfo],
    newest: KeyVersion,
    usage: &[(KeyVersion, u64)],
    retention: Duration,
    now: Timestamp,
) -> Vec<Retirement> {
    let older = versions.iter().filter(|info| info.version < newest && info.state != KeyState::Destroyed);
    let next = |info: &KeyVersionInfo| {
        let named = usage.iter().any(|(version, count)| *version == info.version && *count > 0);
        match (named, info.unused_since) {
            (true, None) => None,
            (true, Some(_)) => Some(Retirement::Withdraw(info.version)),
            (false, since) if now.since(since.unwrap_or(now)) >= retention => {
                Some(Retirement::Destroy(info.version))
            }
            (false, None) => Some(Retirement::Begin(info.version)),
            (false, Some(_)) => None,
        }
    };
    older.filter_map(next).collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::grant::{Generation, GrantId, GrantKey, GrantState, Lineage};
    use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};
    use crate::domain::key::KeyId;
    use crate::domain::rotation::{Counts, Phase, RunOptions, Trigger};
    use crate::domain::scope::ScopeSet;
    use crate::domain::tenant::TenantState;

    const START: Timestamp = Timestamp(1_000_000_000);
    const DAY: Duration = Duration::from_secs(86_400);

    fn run(options: RunOptions) -> Run {
        Run {
            id: Uuid::nil(),
            phase: Phase::NewVersions,
            trigger: Trigger::Schedule,
            options,
            started_at: START,
            ended_at: None,
            counts: Counts::default(),
        }
    }

    fn tenant(rotated_at: Timestamp) -> Tenant {
        Tenant {
            id: TenantId::new("acme").unwrap(),
            state: TenantState::Active { active_version: KeyVersion(3) },
            epoch: 1,
            created_at: Timestamp(0),
            rotated_at,
        }
    }

    fn info(version: u32, seals_reserved: u64) -> KeyVersionInfo {
        KeyVersionInfo {
            version: KeyVersion(version),
            key_id: KeyId([0; 16]),
            state: KeyState::Active,
            created_at: Timestamp(0),
            seals_reserved,
            unused_since: None,
        }
    }

    #[test]
    fn a_key_is_replaced_for_its_age_its_seals_or_by_order_and_once_per_run() {
        let calm = run(RunOptions::default());
        let forced = run(RunOptions { force_new_versions: true, ..RunOptions::default() });
        let young = tenant(START.minus(DAY));
        let decide = |run: &Run, tenant: &Tenant, seals| {
            new_version(run, tenant, Some(&info(3, seals)), DAY * 90, START)
        };
        assert_eq!(decide(&calm, &young, 5), None);
        assert_eq!(decide(&forced, &young, 5), Some(NewVersion::Forced));
        assert_eq!(decide(&calm, &young, 1 << 31), Some(NewVersion::Seals));
        assert_eq!(decide(&calm, &tenant(START.minus(DAY * 90)), 5), Some(NewVersion::Age));
        assert_eq!(decide(&forced, &tenant(START), 5), None, "a resumed run would rotate twice");
        let gone = Tenant { state: TenantState::Purging, ..young };
        assert_eq!(decide(&forced, &gone, 5), None);
    }

    #[test]
    fn a_grant_is_refreshed_once_in_a_run_and_not_while_it_pauses() {
        let run = run(RunOptions::default());
        let later = START.plus(Duration::from_secs(60));
        let refreshed =
            |at: Timestamp, not_before: Option<Timestamp>| Grant { refreshed_at: at, not_before, ..grant() };
        let before = START.minus(Duration::from_millis(1));
        assert!(still_to_refresh(&run, &refreshed(before, None), later));
        assert!(!still_to_refresh(&run, &refreshed(START, None), later), "it would be refreshed twice");
        assert!(!still_to_refresh(&run, &refreshed(later, None), later), "somebody else was faster");
        let pause_until = |until| still_to_refresh(&run, &refreshed(before, Some(until)), later);
        assert!(!pause_until(later.plus(Duration::from_millis(1))), "a provider's pause was not kept");
        assert!(pause_until(later), "a pause that is over");
    }

    fn grant() -> Grant {
        Grant {
            id: GrantId(uuid::Uuid::nil()),
            key: GrantKey {
                tenant: TenantId::new("acme").unwrap(),
                client: ClientId::new("portal").unwrap(),
                subject: SubjectId::new("ada").unwrap(),
            },
            issuer: Issuer::new("https://login.example").unwrap(),
            lineage: Lineage(uuid::Uuid::nil()),
            state: GrantState::Active,
            last_attempt: None,
            unhelpful: 0,
            generation: Generation(1),
            key_version: KeyVersion(3),
            scopes: ScopeSet::new(["mail.read"]).unwrap(),
            asked: ScopeSet::default(),
            resource: None,
            created_at: Timestamp(0),
            refreshed_at: Timestamp(0),
            idle_expires_at: None,
            absolute_expires_at: None,
            next_refresh_at: START,
            not_before: None,
        }
    }

    #[test]
    fn only_a_version_that_nothing_names_is_retired() {
        let versions = [info(1, 9), info(2, 9), info(3, 9)];
        let usage = [(KeyVersion(2), 1), (KeyVersion(3), 8)];
        let retired =
            |newest, usage: &[_], retention| retire(&versions, KeyVersion(newest), usage, retention, START);
        assert_eq!(retired(3, &usage, DAY), [Retirement::Begin(KeyVersion(1))]);
        assert_eq!(retired(3, &usage, Duration::ZERO), [Retirement::Destroy(KeyVersion(1))]);
        assert_eq!(retired(1, &[], Duration::ZERO), []);
    }

    #[test]
    fn a_version_is_destroyed_when_nothing_has_named_it_for_all_of_its_retention() {
        let unused = |since: Timestamp| KeyVersionInfo { unused_since: Some(since), ..info(1, 9) };
        let decide = |version: KeyVersionInfo, usage: &[_], now| {
            retire(&[version, info(2, 9)], KeyVersion(2), usage, DAY * 35, now)
        };
        let over = START.plus(DAY * 35);
        let nearly = over.minus(Duration::from_millis(1));
        assert_eq!(decide(unused(START), &[], nearly), []);
        assert_eq!(decide(unused(START), &[], over), [Retirement::Destroy(KeyVersion(1))]);
        // A backup that was restored names it: from then on everything counts anew.
        let named = [(KeyVersion(1), 1)];
        assert_eq!(decide(unused(START), &named, over), [Retirement::Withdraw(KeyVersion(1))]);
        assert_eq!(decide(info(1, 9), &named, over), []);
        let destroyed = KeyVersionInfo { state: KeyState::Destroyed, ..unused(START) };
        assert_eq!(decide(destroyed, &[], over), []);
    }
}
