//! What every back-end of `store` must do, as one suite over `&dyn Store` and
//! `&dyn KeyStore`.
//!
//! A case is a function over a [`Make`], which gives it an empty back-end of its
//! own; the macro at the end makes one test of each case for each back-end. A
//! new back-end implements [`Backend`] and gets one line there. A case that is
//! missing in the list is unused code, and the build says so.
//!
//! - `tenants`: their states, and which change leads where;
//! - `attempts`: claim, answer, and every end;
//! - `enrolments`: the same for a grant the vault does not have yet;
//! - `listing`: pages, batches of due work, re-sealing;
//! - `runs`: rotation runs, the deployment's identity;
//! - `keys`: the key store.

#![expect(clippy::unwrap_used, reason = "the cases are tests, by the macro below")]

#[path = "store_contract/attempts.rs"]
mod attempts;
#[path = "store_contract/enrolments.rs"]
mod enrolments;
#[path = "store_contract/keys.rs"]
mod keys;
#[path = "store_contract/listing.rs"]
mod listing;
#[path = "store_contract/pending.rs"]
mod pending;
#[path = "store_contract/runs.rs"]
mod runs;
#[path = "store_contract/tenants.rs"]
mod tenants;
#[path = "store_contract/world.rs"]
mod world;

use obo_vault::store::sqlite::{SqliteKeyStore, SqliteStore};
use obo_vault::store::{KeyStore, Store};
use tempfile::TempDir;

/// A back-end under test, empty at first.
trait Backend: Send {
    /// Its tenants and grants.
    fn store(&self) -> &dyn Store;
    /// Its keys.
    fn keys(&self) -> &dyn KeyStore;
    /// Closes it and opens it again, as a new process would.
    fn reopen(&mut self);
}

/// Gives a case a back-end of its own.
type Make = fn() -> Box<dyn Backend>;

struct Sqlite {
    directory: TempDir,
    open: Option<(SqliteStore, SqliteKeyStore)>,
}

impl Sqlite {
    fn make() -> Box<dyn Backend> {
        let mut backend = Self { directory: tempfile::tempdir().unwrap(), open: None };
        backend.reopen();
        Box::new(backend)
    }
}

impl Backend for Sqlite {
    fn store(&self) -> &dyn Store {
        &self.open.as_ref().unwrap().0
    }

    fn keys(&self) -> &dyn KeyStore {
        &self.open.as_ref().unwrap().1
    }

    fn reopen(&mut self) {
        self.open = None;
        let store = SqliteStore::open(&self.directory.path().join("vault.db")).unwrap();
        let keys = SqliteKeyStore::open(&self.directory.path().join("keys.db")).unwrap();
        self.open = Some((store, keys));
    }
}

macro_rules! contract {
    ($($backend:ident = $make:expr;)+) => {
        $(mod $backend {
            cases! {
                $make;
                tenants: a_name_is_given_once, changes_lead_where_they_may_and_nowhere_else,
                    a_change_told_twice_is_one_change,
                    every_change_of_service_starts_an_epoch, a_version_advances_from_the_newest_alone,
                    only_a_tombstone_lets_grants_be_deleted, due_purges_are_those_at_their_time,
                    a_due_purge_that_was_taken_back_or_put_off_is_refused,
                    tenants_come_in_the_order_of_their_names, the_census_counts_tokens_and_answers;
                pending: a_name_is_taken_in_every_spelling, a_first_grant_ends_the_wait,
                    an_operator_ends_the_wait, what_nobody_enrols_in_is_dropped_and_its_name_is_free,
                    unused_keys_go_and_may_come_again;
                attempts: a_claim_is_for_the_grant_as_it_was_seen, a_claim_told_twice_is_one_claim,
                    a_claim_needs_a_tenant_in_service,
                    an_unknown_outcome_is_probed_once_and_by_the_grants_own_request,
                    a_commit_told_again_is_done_and_changes_nothing, an_end_told_twice_is_one_end,
                    a_commit_without_a_new_token_keeps_the_old, a_commit_is_sealed_under_the_newest_version,
                    a_commit_of_a_purged_tenant_is_refused_and_of_a_scheduled_one_taken,
                    an_unknown_outcome_still_takes_its_answer, an_attempt_ends_in_every_state,
                    every_word_of_a_state_survives_the_store,
                    an_answer_is_recorded_under_the_newest_version_alone,
                    open_attempts_are_found_after_reopening, probes_are_due_after_their_time,
                    a_deleted_grant_takes_its_attempt_along;
                enrolments: an_enrolment_makes_a_grant, an_enrolment_told_twice_is_one_enrolment,
                    an_enrolment_replaces_a_grant_in_any_state, an_enrolment_learns_where_its_token_belongs,
                    an_enrolment_needs_a_tenant_in_service, an_enrolment_is_sealed_under_the_newest_version,
                    an_abandoned_enrolment_commits_nothing, open_enrolments_are_found_after_reopening,
                    an_open_import_is_found_by_its_mark, an_import_takes_the_place_of_what_it_left_before,
                    a_finished_import_is_found_by_its_mark;
                listing: grants_page_by_client_and_subject, due_refreshes_page_without_loss_or_repetition,
                    refreshes_are_due_where_they_can_be_done, stale_grants_page_without_loss_or_repetition,
                    all_sealed_grants_page_without_loss_or_repetition,
                    a_reseal_moves_what_did_not_move_itself;
                runs: the_newest_run_is_found_and_kept_up_to_date, the_deployment_keeps_its_first_identity,
                    an_idle_store_is_erased_and_writable, the_counter_only_grows;
                keys: a_version_is_inserted_once, one_version_is_active, seals_are_reserved_for_good,
                    a_destroyed_version_has_no_bytes, a_purged_tenant_gets_no_key_again,
                    the_unused_are_noted_until_something_names_them, tombstones_are_listed,
                    a_mark_never_goes_back;
            }
        })+
    };
}

macro_rules! cases {
    ($make:expr; $($area:ident: $($case:ident),+;)+) => {
        $(mod $area {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
                async fn $case() {
                    crate::$area::$case($make).await;
                }
            )+
        })+
    };
}

contract! {
    sqlite = crate::Sqlite::make;
}
