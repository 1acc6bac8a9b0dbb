//! One of the databases comes back from a backup, or does not come back: who is
//! served, who is not and why, and what an operator does. The procedure is that of
//! docs/OPERATIONS.md, "Restore a backup".

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use obo_vault::demo::provider::{Options, UserClaims};
use obo_vault::demo::stand::Settings;
use obo_vault::proto;
use obo_vault::proto::{KeyState, TenantState};
use tonic::{Code, Status};

use crate::harness::{Stand, TENANT, TOKENS_EXPIRED, reason, token_request};
use crate::log;

const DAY: Duration = Duration::from_secs(86_400);

/// Tenants and the one user of each.
const USERS: [(&str, &str); 3] = [(TENANT, "ada"), ("fabrikam", "fay"), ("initech", "ivy")];

/// A stand with all of [`USERS`].
async fn three_tenants(key_retention_days: u32) -> Stand {
    let settings = Settings { key_retention_days, ..Settings::default() };
    let stand = Stand::with(Options::default(), settings).await;
    for (tenant, user) in USERS {
        stand.create(tenant).await.unwrap();
        stand.consent(tenant, user).await.unwrap();
    }
    stand
}

impl Stand {
    async fn consent(&self, tenant: &str, user: &str) -> Result<proto::ExchangeOnBehalfOfResponse, Status> {
        let claims = UserClaims { tenant: Some(tenant.to_owned()), ..UserClaims::default() };
        let user_access_token = self.provider.user_token_with(user, claims);
        self.exchange(proto::ExchangeOnBehalfOfRequest { user_access_token, ..self.exchange_request(user) })
            .await
    }

    /// The user's token; an error's code and reason.
    async fn served(&self, tenant: &str, user: &str) -> Result<(), (Code, String)> {
        let request = proto::GetAccessTokenRequest { tenant: tenant.into(), ..token_request(user) };
        let answer = self.client("mail").await.tokens.get_access_token(request).await;
        answer.map(drop).map_err(|status| (status.code(), reason(&status)))
    }

    async fn state_of(&self, tenant: &str) -> proto::Tenant {
        let (tenants, _) = self.tenants(0, "").await;
        tenants.into_iter().find(|found| found.tenant == tenant).unwrap()
    }

    async fn purge(&self, tenant: &str) {
        let request = proto::PurgeTenantNowRequest { tenant: tenant.into(), confirm: tenant.into() };
        self.client("purger").await.tenants.purge_tenant_now(request).await.unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.directory().join(name)
    }

    /// Copies a database of the stopped vault aside.
    fn back_up(&self, name: &str) -> PathBuf {
        let copy = self.path(&format!("{name}.backup"));
        fs::copy(self.path(name), &copy).unwrap();
        copy
    }

    /// Removes a database, as a volume that is not mounted does.
    fn lose(&self, name: &str) {
        for end in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(self.path(&format!("{name}{end}")));
        }
    }

    /// Puts a backup in place.
    fn put_back(&self, name: &str) {
        self.lose(name);
        fs::copy(self.path(&format!("{name}.backup")), self.path(name)).unwrap();
    }

    /// `obo-vault store …`, as an operator types it.
    fn store_command(&self, verb: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_obo-vault"));
        command.args(["store", verb, "--config"]).arg(self.files.config()).env_clear();
        command.output().unwrap()
    }

    fn decide(&self, verb: &str) {
        let output = self.store_command(verb);
        assert!(output.status.success(), "{output:?}");
    }
}

fn refused(code: Code, reason: &str) -> Result<(), (Code, String)> {
    Err((code, reason.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_the_token_store_is_restored_by_the_book() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    stand.back_up("vault.db");
    stand.start().await;
    // What happens on the day of the backup: one tenant's key is replaced, one is
    // purged.
    stand.rotate_key().await.unwrap();
    stand.rotate(false, false).await;
    assert_eq!(stand.usage().await, [(1, KeyState::Deactivated, 0), (2, KeyState::Active, 1)]);
    stand.purge("fabrikam").await;
    stand.stop().await;

    stand.put_back("vault.db");
    stand.start().await;
    // Nothing is redeemed yet; what does not redeem works, the purge first of all.
    let before = stand.provider.stats().token_requests;
    assert_eq!(stand.state_of("fabrikam").await.state(), TenantState::Purged);
    let unconfirmed = refused(Code::FailedPrecondition, "RESTORE_UNCONFIRMED");
    for (tenant, user) in [(TENANT, "ada"), ("initech", "ivy")] {
        assert_eq!(stand.served(tenant, user).await, unconfirmed);
        let refusal = stand.consent(tenant, user).await.unwrap_err();
        assert_eq!(reason(&refusal), "RESTORE_UNCONFIRMED");
    }
    let run = proto::RunRotationRequest { force_new_versions: true, refresh_all: true };
    let refusal = stand.client("rotator").await.rotation.run_rotation(run).await.unwrap_err();
    assert_eq!(reason(&refusal), "RESTORE_UNCONFIRMED");
    assert_eq!(stand.provider.stats().token_requests, before, "something was sent");
    assert_eq!(stand.describe("ada").await.generation, 1);
    stand.stop().await;

    stand.decide("confirm-restore");
    stand.start().await;
    for (tenant, user) in [(TENANT, "ada"), ("initech", "ivy")] {
        assert_eq!(stand.served(tenant, user).await, Ok(()), "{user}");
    }
    assert_eq!(stand.served("fabrikam", "fay").await, refused(Code::FailedPrecondition, "TENANT_PURGED"));
    assert_eq!(reason(&stand.create("fabrikam").await.unwrap_err()), "TENANT_PURGED");
    assert_eq!(stand.state_of(TENANT).await.active_key_version, 2, "it follows its keys");
    // The rotated tenant's token was sealed under the older version until now.
    let run = stand.rotate(false, false).await.pop().unwrap();
    assert_eq!((run.reseal_failed, run.versions_destroyed), (0, 0));
    // The same backup once more is as old as it was.
    stand.stop().await;
    stand.put_back("vault.db");
    stand.start().await;
    assert_eq!(stand.served("initech", "ivy").await, unconfirmed);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_redeemed_from_an_older_copy_and_the_newest_needs_no_word() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    stand.back_up("vault.db");
    stand.start().await;
    stand.advance(TOKENS_EXPIRED);
    stand.served(TENANT, "ada").await.unwrap();
    stand.stop().await;
    let newest = stand.path("vault.db.newest");
    fs::copy(stand.path("vault.db"), &newest).unwrap();

    stand.put_back("vault.db");
    stand.start().await;
    let unconfirmed = refused(Code::FailedPrecondition, "RESTORE_UNCONFIRMED");
    for _ in 0..2 {
        assert_eq!(stand.served(TENANT, "ada").await, unconfirmed);
        stand.restart().await;
    }
    stand.stop().await;

    // It was the wrong file: nothing is lost.
    stand.lose("vault.db");
    fs::copy(newest, stand.path("vault.db")).unwrap();
    stand.start().await;
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.served(TENANT, "ada").await, Ok(()));
    assert_eq!(stand.describe("ada").await.generation, 3);
    assert_eq!(stand.provider.stats().reuse_detected, 0);
}

/// Without retention, the version that the backup names is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_grant_whose_key_version_is_gone_is_healed_by_a_new_consent() {
    let mut stand = three_tenants(0).await;
    stand.stop().await;
    stand.back_up("vault.db");
    stand.start().await;
    stand.rotate_key().await.unwrap();
    stand.rotate(false, false).await;
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0), (2, KeyState::Active, 1)]);
    stand.stop().await;
    stand.put_back("vault.db");
    stand.decide("confirm-restore");
    stand.start().await;

    assert_eq!(stand.served("initech", "ivy").await, Ok(()));
    assert_eq!(stand.served(TENANT, "ada").await, refused(Code::DataLoss, "GRANT_UNREADABLE"));
    stand.consent(TENANT, "ada").await.unwrap();
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.served(TENANT, "ada").await, Ok(()));
    assert_eq!(stand.usage().await, [(1, KeyState::Destroyed, 0), (2, KeyState::Active, 1)]);
}

/// Today's token store beside yesterday's keys.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_key_store_takes_out_of_service_whose_keys_are_missing_and_nobody_else() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    stand.back_up("keys.db");
    stand.start().await;
    stand.rotate_key().await.unwrap();
    stand.rotate(false, false).await;
    stand.purge("fabrikam").await;
    stand.create("newco").await.unwrap();
    stand.consent("newco", "nia").await.unwrap();
    stand.stop().await;
    stand.put_back("keys.db");
    stand.start().await;

    assert_eq!(stand.served("initech", "ivy").await, Ok(()));
    let unavailable = refused(Code::Unavailable, "KEY_UNAVAILABLE");
    for (tenant, user) in [(TENANT, "ada"), ("newco", "nia")] {
        assert_eq!(stand.served(tenant, user).await, unavailable);
        assert_eq!(reason(&stand.consent(tenant, user).await.unwrap_err()), "KEY_UNAVAILABLE");
    }
    let said = log::captured();
    assert!(
        said.contains("the newest key of tenant newco is unavailable") && said.contains("rotate-key newco")
    );
    // The purge is one in both stores again.
    assert_eq!(stand.served("fabrikam", "fay").await, refused(Code::FailedPrecondition, "TENANT_PURGED"));
    let request = proto::DescribeTenantKeysRequest { tenant: "fabrikam".into() };
    let keys = stand.client("auditor").await.tenants.describe_tenant_keys(request).await.unwrap();
    let states: Vec<_> = keys.into_inner().key_versions.iter().map(proto::KeyVersion::state).collect();
    assert_eq!(states, [KeyState::Destroyed]);
    // The rotation decides nothing for their operators.
    let run = stand.rotate(true, false).await.pop().unwrap();
    assert_eq!((run.versions_created, run.reseal_failed), (1, 0), "{run:?}");
    assert_eq!(stand.served(TENANT, "ada").await, unavailable);

    // Their operator does: a version that never was, and a new consent.
    assert_eq!(stand.rotate_key().await.unwrap().version, 3);
    assert_eq!(stand.served(TENANT, "ada").await, refused(Code::DataLoss, "GRANT_UNREADABLE"));
    stand.consent(TENANT, "ada").await.unwrap();
    stand.restart().await;
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.served(TENANT, "ada").await, Ok(()));
    assert_eq!(stand.served("newco", "nia").await, unavailable, "the other waits for its own operator");
}

/// A purge that is scheduled in the backup has happened since.
#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_wins_over_a_purge_that_could_still_be_taken_back() {
    let mut stand = three_tenants(35).await;
    stand.schedule_purge(DAY).await;
    stand.stop().await;
    stand.back_up("vault.db");
    stand.start().await;
    stand.purge_now(TENANT).await.unwrap();
    stand.stop().await;
    stand.put_back("vault.db");
    stand.start().await;
    assert_eq!(stand.contoso().await.state(), TenantState::Purged);
    assert_eq!(reason(&stand.restore().await.unwrap_err()), "TENANT_PURGED");
    stand.stop().await;
    assert_eq!(stand.sealed_tokens().len(), 2, "the tokens of the purged tenant came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_missing_or_of_another_vault_is_refused_with_what_to_do() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    let mut other = three_tenants(35).await;
    other.stop().await;
    for name in ["vault.db", "keys.db"] {
        stand.back_up(name);
    }
    for name in ["vault.db", "keys.db"] {
        stand.lose(name);
        let missing = stand.try_start().await.unwrap_err().to_string();
        assert!(missing.contains("is empty") && missing.contains("store adopt"), "{missing}");
        // Twice: the first try may have made a new file.
        assert!(stand.try_start().await.is_err(), "{name}");
        assert!(!stand.store_command("confirm-restore").status.success(), "{name}");

        stand.lose(name);
        fs::copy(other.path(name), stand.path(name)).unwrap();
        let foreign = stand.try_start().await.unwrap_err().to_string();
        assert!(foreign.contains("of vault") && foreign.contains("store adopt"), "{foreign}");
        stand.put_back(name);
        stand.start().await;
        assert_eq!(stand.served(TENANT, "ada").await, Ok(()), "{name}");
        stand.stop().await;
        stand.back_up(name);
    }
    // Everything but the audit log is gone: another vault, as far as can be seen.
    stand.lose("vault.db");
    stand.lose("keys.db");
    let new = stand.try_start().await.unwrap_err().to_string();
    assert!(new.contains("audit log") && new.contains("store adopt"), "{new}");
    stand.decide("adopt");
    stand.start().await;
    assert!(stand.tenants(0, "").await.0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_given_up_by_an_operator_who_says_so() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    stand.lose("keys.db");
    stand.decide("adopt");
    stand.start().await;
    for (tenant, user) in USERS {
        assert_eq!(stand.served(tenant, user).await, refused(Code::Unavailable, "KEY_UNAVAILABLE"));
    }
    stand.rotate_key().await.unwrap();
    stand.consent(TENANT, "ada").await.unwrap();
    stand.advance(TOKENS_EXPIRED);
    assert_eq!(stand.served(TENANT, "ada").await, Ok(()));
    stand.stop().await;
    assert!(stand.audited("the stores are accepted as they are") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_was_moved_by_hand_is_no_mark() {
    let mut stand = three_tenants(35).await;
    stand.stop().await;
    stand.reader("keys.db").execute("UPDATE vault SET mark = mark - 1", []).unwrap();
    let moved = stand.try_start().await.unwrap_err().to_string();
    assert!(moved.contains("root key"), "{moved}");
    assert!(!stand.store_command("confirm-restore").status.success());
}
