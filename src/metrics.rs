//! Counters: what the vault did since its start, as plain numbers that any
//! module may add to. [`Counters::render`] writes them in the text format of
//! Prometheus; serving them is somebody else's business.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::domain::action::Action;
use crate::domain::reason::Reason;

/// How a redemption of a refresh token ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RedemptionOutcome {
    /// With a new token, or with the old one confirmed.
    Renewed,
    /// Proven not to have used the token.
    Unused,
    /// Not known.
    InDoubt,
    /// The provider refused the token on its first use.
    Revoked,
    /// The provider refused the token after an unknown outcome.
    Lost,
    /// The provider wants the user to act.
    Reauth,
    /// The provider refused what a caller chose; of the grant it says nothing.
    TargetRefused,
}

impl RedemptionOutcome {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Renewed, "renewed"),
        (Self::Unused, "unused"),
        (Self::InDoubt, "in_doubt"),
        (Self::Revoked, "revoked"),
        (Self::Lost, "lost"),
        (Self::Reauth, "reauth"),
        (Self::TargetRefused, "target_refused"),
    ];
}

/// The counters of one process. Times are seconds since 1970; 0: never.
#[derive(Debug, Default)]
pub struct Counters {
    redemptions: [AtomicU64; RedemptionOutcome::ALL.len()],
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
    grants_lost: AtomicU64,
    grants_revoked: AtomicU64,
    grants_reauth: AtomicU64,
    grants_in_doubt: AtomicU64,
    grants_stalled: AtomicU64,
    imports_held: AtomicU64,
    audit_failures: AtomicU64,
    store_failures: AtomicU64,
    scheduler_ticks: AtomicU64,
    scheduler_last_tick: AtomicI64,
    rotations_failed: AtomicU64,
    clients_rejected: AtomicU64,
    handshakes_failed: AtomicU64,
    handshakes_evicted: AtomicU64,
    connections_refused: AtomicU64,
    requests_unfinished: AtomicU64,
    connections_open: AtomicI64,
    server_certificate_ends: AtomicI64,
    calls: Calls,
    rotation_last_success: AtomicI64,
    reloads_failed: AtomicU64,
    reloads_failing: AtomicI64,
    reload_last_success: AtomicI64,
    tenants_without_keys: AtomicI64,
    restore_unconfirmed: AtomicI64,
}

impl Counters {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A redemption ended.
    pub fn redemption(&self, outcome: RedemptionOutcome) {
        for ((known, _), counter) in RedemptionOutcome::ALL.iter().zip(&self.redemptions) {
            if *known == outcome {
                add_one(counter);
            }
        }
    }

    /// An access token came from memory.
    pub fn cache_hit(&self) {
        add_one(&self.cache_hits);
    }

    /// An access token had to be fetched.
    pub fn cache_miss(&self) {
        add_one(&self.cache_misses);
    }

    /// A grant became LOST.
    pub fn grant_lost(&self) {
        add_one(&self.grants_lost);
    }

    /// A grant became REVOKED.
    pub fn grant_revoked(&self) {
        add_one(&self.grants_revoked);
    }

    /// A grant became REAUTH: its user has to act.
    pub fn grant_reauth(&self) {
        add_one(&self.grants_reauth);
    }

    /// A grant became IN_DOUBT, or a probe left it there.
    pub fn grant_in_doubt(&self) {
        add_one(&self.grants_in_doubt);
    }

    /// A provider has answered a grant's requests with nothing that helps, often
    /// enough for an alert.
    pub fn grant_stalled(&self) {
        add_one(&self.grants_stalled);
    }

    /// An import is held, since whose it is could not be understood.
    pub fn import_held(&self) {
        add_one(&self.imports_held);
    }

    /// A look, of which there is one a second, found the audit log unwritable,
    /// or another file than it at its path.
    pub fn audit_failure(&self) {
        add_one(&self.audit_failures);
    }

    /// A look, of which there is one a second, found the stores unwritable, or
    /// other files than theirs at their paths.
    pub fn store_failure(&self) {
        add_one(&self.store_failures);
    }

    /// The scheduler showed that it is alive.
    pub fn scheduler_tick(&self, at: Timestamp) {
        add_one(&self.scheduler_ticks);
        self.scheduler_last_tick.store(at.unix_seconds(), Ordering::Relaxed);
    }

    /// A run of the rotation job ended well.
    pub fn rotation_succeeded(&self, at: Timestamp) {
        self.rotation_last_success.store(at.unix_seconds(), Ordering::Relaxed);
    }

    /// A step of the rotation job failed and is tried again.
    pub fn rotation_failed(&self) {
        add_one(&self.rotations_failed);
    }

    /// What a file says now could not be taken into force; the old is kept.
    pub fn reload_failed(&self) {
        add_one(&self.reloads_failed);
    }

    /// How many things are in force that are older than their files.
    pub fn reloads_failing(&self, count: usize) {
        self.reloads_failing.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Files were looked at again, and what they say is in force.
    pub fn reload_succeeded(&self, at: Timestamp) {
        self.reload_last_success.store(at.unix_seconds(), Ordering::Relaxed);
    }

    /// How many tenants are out of service for want of a key.
    pub fn tenants_without_keys(&self, count: usize) {
        self.tenants_without_keys.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Whether the token store is an older copy that no operator has confirmed.
    pub fn restore_unconfirmed(&self, is_so: bool) {
        self.restore_unconfirmed.store(is_so.into(), Ordering::Relaxed);
    }

    /// A provider rejected the vault's own client credentials.
    pub fn client_rejected(&self) {
        add_one(&self.clients_rejected);
    }

    /// A handshake failed or took too long.
    pub fn handshake_failed(&self) {
        add_one(&self.handshakes_failed);
    }

    /// A handshake was given up for a newer one, for want of places.
    pub fn handshake_evicted(&self) {
        add_one(&self.handshakes_evicted);
    }

    /// A bound of connections was reached: one was closed, or refused.
    pub fn connection_refused(&self) {
        add_one(&self.connections_refused);
    }

    /// A request was refused that had not arrived in full.
    pub fn request_unfinished(&self) {
        add_one(&self.requests_unfinished);
    }

    /// So many connections are open, those in their handshake included.
    pub fn connections_open(&self, count: usize) {
        self.connections_open.store(i64::try_from(count).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The certificate that the vault shows to callers ends then.
    pub fn server_certificate_ends(&self, at: Timestamp) {
        self.server_certificate_ends.store(at.unix_seconds(), Ordering::Relaxed);
    }

    /// A call of the API was answered: well, or with a reason.
    pub fn call(&self, action: Action, reason: Option<Reason>) {
        add_one(&self.calls.0[Calls::index(action, reason)]);
    }

    /// The counters in the text format of Prometheus, version 0.0.4.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        head(&mut text, "redemptions_total", "counter", "Redemptions of refresh tokens by how they ended.");
        for ((_, outcome), counter) in RedemptionOutcome::ALL.iter().zip(&self.redemptions) {
            let count = counter.load(Ordering::Relaxed);
            let _ = writeln!(text, "obo_vault_redemptions_total{{outcome=\"{outcome}\"}} {count}");
        }
        for (name, counter, help) in [
            ("cache_hits_total", &self.cache_hits, "Access tokens handed out from memory."),
            ("cache_misses_total", &self.cache_misses, "Access tokens that had to be fetched."),
            ("grants_lost_total", &self.grants_lost, "Grants that became LOST; each needs its user."),
            (
                "grants_revoked_total",
                &self.grants_revoked,
                "Grants that became REVOKED: the provider calls the token invalid on its first use.",
            ),
            (
                "grants_reauth_total",
                &self.grants_reauth,
                "Grants that became REAUTH: the provider wants the user to act.",
            ),
            ("grants_in_doubt_total", &self.grants_in_doubt, "Attempts that left their grant IN_DOUBT."),
            (
                "grants_stalled_total",
                &self.grants_stalled,
                "Grants whose provider answers again and again with nothing that helps.",
            ),
            (
                "imports_held_total",
                &self.imports_held,
                "Imports held since whose they are could not be understood.",
            ),
            (
                "audit_failures_total",
                &self.audit_failures,
                "Looks, one a second, that found the audit log unwritable or its file not at its path.",
            ),
            (
                "store_failures_total",
                &self.store_failures,
                "Looks, one a second, that found a store unwritable or a file of it not at its path.",
            ),
            (
                "clients_rejected_total",
                &self.clients_rejected,
                "Answers in which a provider rejects the vault's own client credentials.",
            ),
            (
                "handshakes_failed_total",
                &self.handshakes_failed,
                "Connections that failed in their handshake or took too long for it.",
            ),
            (
                "handshakes_evicted_total",
                &self.handshakes_evicted,
                "Handshakes given up for newer ones, for want of places.",
            ),
            (
                "connections_refused_total",
                &self.connections_refused,
                "Connections closed or refused since a bound of server.limits was reached.",
            ),
            (
                "requests_unfinished_total",
                &self.requests_unfinished,
                "Requests refused that had not arrived in full.",
            ),
            ("scheduler_ticks_total", &self.scheduler_ticks, "Heartbeats of the scheduler."),
            (
                "rotations_failed_total",
                &self.rotations_failed,
                "Steps of the rotation job that failed; each is tried again.",
            ),
            (
                "reloads_failed_total",
                &self.reloads_failed,
                "Changed files that could not be taken into force; the old is kept.",
            ),
        ] {
            head(&mut text, name, "counter", help);
            let _ = writeln!(text, "obo_vault_{name} {}", counter.load(Ordering::Relaxed));
        }
        head(&mut text, "calls_total", "counter", "Calls of the API by action and reason.");
        for action in Action::ALL {
            for reason in std::iter::once(None).chain(Reason::ALL.into_iter().map(Some)) {
                // Those that never happened too: an increase is seen only of what was
                // there before.
                let count = self.calls.0[Calls::index(action, reason)].load(Ordering::Relaxed);
                let (action, reason) = (action.as_str(), reason.map_or("OK", Reason::as_str));
                let _ = writeln!(
                    text,
                    "obo_vault_calls_total{{action=\"{action}\",reason=\"{reason}\"}} {count}"
                );
            }
        }
        for (name, value, help) in [
            (
                "reloads_failing",
                &self.reloads_failing,
                "Things in force that are older than their files, which cannot be used.",
            ),
            (
                "reload_last_success_timestamp_seconds",
                &self.reload_last_success,
                "Last time at which a file that was looked at again came into force; 0: none yet.",
            ),
            (
                "connections_open",
                &self.connections_open,
                "Connections that are open, those in their handshake included.",
            ),
            (
                "server_certificate_not_after_timestamp_seconds",
                &self.server_certificate_ends,
                "End of the certificate that the vault shows to callers; 0: none.",
            ),
            (
                "tenants_without_keys",
                &self.tenants_without_keys,
                "Tenants out of service since their keys do not fit their grants.",
            ),
            (
                "restore_unconfirmed",
                &self.restore_unconfirmed,
                "1: the token store is an older copy, and nothing is redeemed until an operator confirms it.",
            ),
            (
                "scheduler_last_tick_timestamp_seconds",
                &self.scheduler_last_tick,
                "Last heartbeat of the scheduler; 0: none yet.",
            ),
            (
                "rotation_last_success_timestamp_seconds",
                &self.rotation_last_success,
                "End of the last run of the rotation job that ended well, or the first start.",
            ),
        ] {
            head(&mut text, name, "gauge", help);
            let _ = writeln!(text, "obo_vault_{name} {}", value.load(Ordering::Relaxed));
        }
        text
    }
}

/// One counter for each action and reason.
#[derive(Debug)]
struct Calls([AtomicU64; Action::ALL.len() * (Reason::ALL.len() + 1)]);

impl Calls {
    fn index(action: Action, reason: Option<Reason>) -> usize {
        // Both enums are listed in the order of their declaration.
        action as usize * (Reason::ALL.len() + 1) + reason.map_or(0, |reason| reason as usize + 1)
    }
}

impl Default for Calls {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

fn add_one(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Writing to a `String` cannot fail.
fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP obo_vault_{name} {help}\n# TYPE obo_vault_{name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_shown_under_its_name() {
        let counters = Counters::new();
        // Each has a number of its own, so that no two can be exchanged.
        let mut number = 0;
        let mut count = |add: &dyn Fn(&Counters)| {
            number += 1;
            (0..number).for_each(|_| add(&counters));
        };
        for (outcome, _) in RedemptionOutcome::ALL {
            count(&|counters| counters.redemption(outcome));
        }
        count(&Counters::cache_hit);
        count(&Counters::cache_miss);
        count(&Counters::grant_lost);
        count(&Counters::grant_revoked);
        count(&Counters::grant_reauth);
        count(&Counters::grant_in_doubt);
        count(&Counters::grant_stalled);
        count(&Counters::import_held);
        count(&Counters::audit_failure);
        count(&Counters::store_failure);
        count(&Counters::client_rejected);
        count(&Counters::handshake_failed);
        count(&Counters::handshake_evicted);
        count(&Counters::connection_refused);
        count(&Counters::request_unfinished);
        count(&|counters| counters.scheduler_tick(Timestamp(1_700_000_000_999)));
        count(&Counters::rotation_failed);
        count(&|counters| counters.call(Action::GetAccessToken, None));
        count(&|counters| counters.call(Action::GetAccessToken, Some(Reason::GrantLost)));
        count(&|counters| counters.call(Action::ALL[Action::ALL.len() - 1], Some(Reason::ALL[0])));
        counters.tenants_without_keys(20);
        counters.restore_unconfirmed(true);
        counters.rotation_succeeded(Timestamp(1_700_000_060_000));
        counters.reload_failed();
        counters.reloads_failing(17);
        counters.reload_succeeded(Timestamp(1_700_000_120_000));
        counters.connections_open(4711);
        counters.server_certificate_ends(Timestamp(1_700_000_120_000));
        let text = counters.render();
        let is_idle_call = |line: &&str| line.starts_with("obo_vault_calls_total{") && line.ends_with("} 0");
        let text: Vec<_> = text.lines().filter(|line| !is_idle_call(line)).collect();
        let idle: Vec<_> = text.iter().filter(|line| line.ends_with(" 0")).collect();
        assert!(idle.is_empty(), "not counted here: {idle:?}");
        insta::assert_snapshot!(text.join("\n"));
    }

    /// The first of a kind is an increase from zero, and not a line that was not
    /// there before, of which no alert is told.
    #[test]
    fn every_line_is_there_from_the_start() {
        let counters = Counters::new();
        let fresh: Vec<String> = counters.render().lines().map(str::to_owned).collect();
        let name = |line: &str| line.rsplit_once(' ').unwrap().0.to_owned();
        let first: Vec<_> = fresh.iter().map(|line| name(line)).collect();
        let reasons = || std::iter::once(None).chain(Reason::ALL.into_iter().map(Some));
        for action in Action::ALL {
            reasons().for_each(|reason| counters.call(action, reason));
        }
        RedemptionOutcome::ALL.iter().for_each(|(outcome, _)| counters.redemption(*outcome));
        let used: Vec<_> = counters.render().lines().map(name).collect();
        assert_eq!(first, used);
        let samples = fresh.iter().filter(|line| !line.starts_with('#'));
        assert!(samples.clone().all(|line| line.ends_with(" 0")));
        assert!(samples.count() > Action::ALL.len() * Reason::ALL.len());
    }

    #[test]
    fn every_call_has_a_counter_of_its_own() {
        let counters = Counters::new();
        let reasons = || std::iter::once(None).chain(Reason::ALL.into_iter().map(Some));
        for action in Action::ALL {
            reasons().for_each(|reason| counters.call(action, reason));
        }
        let text = counters.render();
        let calls: Vec<_> = text.lines().filter(|line| line.starts_with("obo_vault_calls_total{")).collect();
        assert_eq!(calls.len(), Action::ALL.len() * reasons().count());
        assert!(calls.iter().all(|line| line.ends_with("} 1")), "{calls:?}");
    }
}
