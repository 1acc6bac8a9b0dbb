//! A deployment of every released version is opened, brought up to date and
//! served by this one. Its files are in `tests/fixtures`, one directory for each
//! version; the README there says what is in them and how they are made.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![expect(clippy::disallowed_types, reason = "callers see statuses")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use obo_vault::audit;
use obo_vault::client::interaction;
use obo_vault::proto::{self, GrantState, KeyState, TenantState};
use tonic::Code;

mod upgrade {
    pub(crate) mod deployment;
    pub(crate) mod make;
    pub(crate) mod manifest;
}

use upgrade::deployment::{Deployment, eventually, reason};
use upgrade::manifest::{Kept, Manifest};

/// More than the time after which a strict provider may be asked again about a
/// request whose answer never came.
const PROBED: Duration = Duration::from_secs(200);

/// How long a key version is kept that nothing names, where nothing is set.
const RETENTION: Duration = Duration::from_secs(35 * 86_400);

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_version_kept_is_there() {
    for fixture in fixtures() {
        let deployment = Deployment::of(&fixture).await;
        let vault = deployment.start().await;
        for tenant in ["contoso", "fabrikam"] {
            let found = vault.grants(tenant).await;
            for kept in grants_of(&deployment, tenant) {
                let found = &found[&kept.subject];
                let (state, generation) = after_recovery(kept);
                let was = (found.state().as_str_name(), found.generation, found.key_version);
                assert_eq!(was, (state.as_str_name(), generation, kept.key_version), "{kept:?}");
            }
        }
        nothing_came_of(&["exchange-open", "import-open"], &vault.grants("contoso").await);
        let run = vault.rotation().await.run.unwrap();
        assert_eq!(
            (run.run_id.as_str(), run.phase()),
            (deployment.manifest.run.as_str(), proto::RotationPhase::Done)
        );
        vault.stop().await;
        deployment.check_audit();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sealed_token_reaches_the_provider_as_it_was() {
    for fixture in fixtures() {
        let deployment = Deployment::of(&fixture).await;
        let vault = deployment.start().await;
        let newest = vault.keys("contoso").await.iter().map(|key| key.version).max();
        assert_eq!(newest, Some(3));
        let mut redeemed = 0;
        for kept in grants_of(&deployment, "contoso") {
            let (state, generation) = after_recovery(kept);
            if state == GrantState::Active {
                vault.token("contoso", &kept.subject).await.unwrap();
                let sent = deployment.provider.last_token_request();
                assert_eq!(sent["refresh_token"], kept.refresh_token, "{kept:?}");
                let now = &vault.grants("contoso").await[&kept.subject];
                assert_eq!((now.generation, Some(now.key_version)), (generation + 1, newest), "{kept:?}");
                redeemed += 1;
            }
        }
        assert_eq!(redeemed, 6, "tokens under three versions, and three that came with a recorded answer");

        // What was sent without an answer is asked about when its time has come.
        for user in ["sending", "in-doubt"] {
            let refused = vault.token("contoso", user).await.unwrap_err();
            assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unavailable, "GRANT_IN_DOUBT"));
        }
        deployment.advance(PROBED);
        for user in ["sending", "in-doubt"] {
            eventually(async || {
                let grant = vault.grants("contoso").await.remove(user).unwrap();
                (grant.state() == GrantState::Active && grant.generation == 2).then_some(())
            })
            .await;
        }

        for (user, expected) in
            [("revoked", "GRANT_REVOKED"), ("lost", "GRANT_LOST"), ("reauth", "INTERACTION_REQUIRED")]
        {
            assert_eq!(reason(&vault.token("contoso", user).await.unwrap_err()), expected);
        }
        let refused = vault.token("contoso", "reauth").await.unwrap_err();
        let claims = interaction(refused.details()).unwrap().claims;
        assert!(claims.contains("second-factor"), "{claims}");
        assert_eq!(deployment.provider.stats().reuse_detected, 0);
        vault.stop().await;
        deployment.check_audit();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_as_they_were_and_their_keys_turn() {
    for fixture in fixtures() {
        let deployment = Deployment::of(&fixture).await;
        let vault = deployment.start().await;
        let states: BTreeMap<String, TenantState> =
            vault.tenants().await.into_iter().map(|tenant| (tenant.tenant.clone(), tenant.state())).collect();
        let expected = [
            ("contoso", TenantState::Active),
            ("fabrikam", TenantState::PurgeScheduled),
            ("initech", TenantState::Purged),
        ];
        assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)).into());

        // The tombstone holds, in both files.
        assert_eq!(reason(&vault.create_tenant("initech").await.unwrap_err()), "TENANT_PURGED");
        assert_eq!(reason(&vault.token("initech", "peter").await.unwrap_err()), "TENANT_PURGED");
        let destroyed = vault.keys("initech").await;
        assert!(!destroyed.is_empty() && destroyed.iter().all(|key| key.state() == KeyState::Destroyed));

        // A purge can be taken back.
        assert_eq!(reason(&vault.token("fabrikam", "dora").await.unwrap_err()), "TENANT_PURGE_SCHEDULED");
        vault.restore("fabrikam").await.unwrap();
        vault.token("fabrikam", "dora").await.unwrap();

        // Values under all three versions are re-sealed under a fourth.
        let run = vault.rotate().await;
        assert_eq!((run.versions_created, run.reseal_failed), (2, 0), "{run:?}");
        assert!(run.resealed >= 8, "{run:?}");
        let keys = vault.keys("contoso").await;
        let sealed = |key: &&proto::KeyVersion| key.sealed_values > 0;
        assert_eq!(keys.iter().filter(sealed).map(|key| key.version).collect::<Vec<_>>(), [4], "{keys:?}");
        // The older ones stay for the backups that name them, and for no longer.
        assert_eq!(live(&keys), [1, 2, 3, 4], "{keys:?}");
        deployment.advance(RETENTION);
        vault.rotate().await;
        assert_eq!(live(&vault.keys("contoso").await), [4, 5], "{keys:?}");
        vault.stop().await;

        // Now everything is this version's own work.
        let vault = deployment.start().await;
        vault.token("contoso", "v1").await.unwrap();
        vault.stop().await;
        assert_eq!(deployment.provider.stats().reuse_detected, 0);
        deployment.check_audit();
    }
}

/// What is kept of a tenant, but for enrolments that were not answered.
fn grants_of<'d>(deployment: &'d Deployment, tenant: &str) -> Vec<&'d Kept> {
    let of_tenant = deployment.manifest.grants.iter().filter(|kept| kept.tenant == tenant);
    let grants: Vec<&Kept> = of_tenant.filter(|kept| kept.answered || !kept.state.is_empty()).collect();
    assert!(!grants.is_empty());
    grants
}

/// The state and generation of a grant once the process that died has been
/// cleared up after.
fn after_recovery(kept: &Kept) -> (GrantState, u64) {
    match (kept.state.as_str(), kept.answered) {
        // The answer was durable, so it is committed.
        ("SENDING", true) => (GrantState::Active, kept.generation + 1),
        ("SENDING", false) | ("IN_DOUBT", _) => (GrantState::InDoubt, kept.generation),
        // An enrolment whose answer was durable.
        ("", true) | ("ACTIVE", _) => (GrantState::Active, kept.generation),
        ("REVOKED", _) => (GrantState::Revoked, kept.generation),
        ("LOST", _) => (GrantState::Lost, kept.generation),
        ("REAUTH", _) => (GrantState::Reauth, kept.generation),
        _ => panic!("{kept:?}"),
    }
}

fn live(keys: &[proto::KeyVersion]) -> Vec<u32> {
    keys.iter().filter(|key| key.state() != KeyState::Destroyed).map(|key| key.version).collect()
}

fn nothing_came_of(users: &[&str], grants: &BTreeMap<String, proto::Grant>) {
    for user in users {
        let state = grants.get(*user).map(proto::Grant::state);
        assert_ne!(state, Some(GrantState::Active), "{user} has a grant without an answer");
    }
}

fn fixtures() -> Vec<PathBuf> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let entries = home.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut fixtures: Vec<PathBuf> = entries.filter(|path| Manifest::is_in(path)).collect();
    fixtures.sort();
    assert!(!fixtures.is_empty());
    fixtures
}

/// The whole chain, begun by the version that made the fixture and continued by
/// this one.
impl Deployment {
    fn check_audit(&self) {
        let log = self.file("audit.jsonl");
        let verified = audit::verify(&log, Some(self.manifest.audit_head.parse().unwrap())).unwrap();
        assert!(verified.entries > self.manifest.audit_entries, "this version recorded nothing");
    }
}
