//! Generated types to checked ones and back. Every message is destructured, so
//! that a new field breaks the build until somebody has thought about it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantState, InDoubtCause};
use crate::domain::key::{KeyState, KeyVersionInfo};
use crate::domain::protocol::bounds::UNHELPFUL_ALERT;
use crate::domain::reason::Reason;
use crate::domain::rotation::{Phase, Run};
use crate::domain::scope::ScopeSet;
use crate::domain::tenant::TenantState;
use crate::pipeline::fields;
use crate::proto;
use crate::redeem::cache::IssuedToken;
use crate::tenant::{Counted, UsageLine};

pub(super) fn min_life(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    match duration {
        None => Ok(None),
        Some(span) => {
            // A negative one is none.
            fields::min_life(Duration::try_from(span).ok()).map(Some)
        }
    }
}

pub(super) fn window(duration: Option<prost_types::Duration>) -> Result<Duration, Failure> {
    let wrong = || Failure::new(Reason::WindowInvalid, "the window is missing or negative");
    duration.ok_or_else(wrong).and_then(|span| Duration::try_from(span).map_err(|_| wrong()))
}

pub(super) fn token_answer(
    token: &IssuedToken,
    expires_at: Timestamp,
    from_cache: bool,
) -> proto::GetAccessTokenResponse {
    let IssuedToken {
        token,
        token_type,
        scopes,
        expires: _,
        lifetime: _,
        refresh: _,
        generation: _,
        tenant_epoch: _,
    } = token;
    proto::GetAccessTokenResponse {
        access_token: token.expose().to_owned(),
        token_type: token_type.clone(),
        expire_time: Some(time(expires_at)),
        scopes: words(scopes),
        from_cache,
    }
}

pub(super) fn grant(grant: Grant) -> proto::Grant {
    let Grant {
        id,
        key,
        issuer,
        lineage: _,
        state,
        generation,
        last_attempt: _,
        unhelpful,
        key_version,
        scopes,
        asked,
        resource: _,
        created_at,
        refreshed_at,
        idle_expires_at,
        absolute_expires_at,
        next_refresh_at: _,
        not_before,
    } = grant;
    let (state, cause, probe_after) = match state {
        GrantState::Active => (proto::GrantState::Active, "", None),
        GrantState::Sending(_) => (proto::GrantState::Sending, "", None),
        GrantState::InDoubt { cause, probe_after, .. } => {
            (proto::GrantState::InDoubt, cause.as_str(), Some(probe_after))
        }
        GrantState::Revoked => (proto::GrantState::Revoked, "revoked_by_provider", None),
        GrantState::Lost { cause } => (proto::GrantState::Lost, cause.as_str(), None),
        GrantState::Reauth { error, .. } => (proto::GrantState::Reauth, error, None),
    };
    let stalled = unhelpful >= UNHELPFUL_ALERT
        && matches!(state, proto::GrantState::Active | proto::GrantState::InDoubt);
    let (state, cause) = if stalled {
        (proto::GrantState::Stalled, InDoubtCause::AmbiguousAnswer.as_str())
    } else {
        (state, cause)
    };
    proto::Grant {
        tenant: key.tenant.to_string(),
        subject: key.subject.to_string(),
        client: key.client.to_string(),
        grant_id: id.to_string(),
        state: state.into(),
        generation: generation.0,
        key_version: key_version.0,
        scopes: words(&scopes),
        issuer: issuer.to_string(),
        create_time: Some(time(created_at)),
        refresh_time: Some(time(refreshed_at)),
        idle_expire_time: idle_expires_at.map(time),
        absolute_expire_time: absolute_expires_at.map(time),
        cause: cause.to_owned(),
        probe_after_time: probe_after.map(time),
        unhelpful_answers: unhelpful,
        next_attempt_time: probe_after.or(not_before).map(time),
        asked_scopes: words(&asked),
    }
}

pub(super) fn tenant(counted: Counted) -> proto::Tenant {
    let Counted { tenant, grants } = counted;
    let (state, version, purge_at) = match tenant.state {
        // One that is pending is not shown; who made it an operator's is in service.
        TenantState::Pending { active_version } | TenantState::Active { active_version } => {
            (proto::TenantState::Active, active_version.0, None)
        }
        TenantState::PurgeScheduled { active_version, purge_at } => {
            (proto::TenantState::PurgeScheduled, active_version.0, Some(purge_at))
        }
        TenantState::Purging => (proto::TenantState::Purging, 0, None),
        TenantState::Purged { .. } => (proto::TenantState::Purged, 0, None),
    };
    proto::Tenant {
        tenant: tenant.id.to_string(),
        state: state.into(),
        active_key_version: version,
        create_time: Some(time(tenant.created_at)),
        purge_time: purge_at.map(time),
        grant_count: grants,
    }
}

pub(super) fn key_version(line: UsageLine) -> proto::KeyVersion {
    let UsageLine { info, sealed_values } = line;
    let KeyVersionInfo { version, key_id, state, created_at, seals_reserved, unused_since: _ } = info;
    proto::KeyVersion {
        version: version.0,
        key_id: key_id.to_string(),
        state: match state {
            KeyState::PreActive => proto::KeyState::PreActive,
            KeyState::Active => proto::KeyState::Active,
            KeyState::Deactivated => proto::KeyState::Deactivated,
            KeyState::Destroyed => proto::KeyState::Destroyed,
            KeyState::Compromised => proto::KeyState::Compromised,
        }
        .into(),
        create_time: Some(time(created_at)),
        sealed_values,
        seals_reserved,
    }
}

pub(super) fn run(run: &Run) -> proto::RotationRun {
    let Run { id, phase, trigger, options: _, started_at, ended_at, counts } = run;
    proto::RotationRun {
        run_id: id.to_string(),
        phase: match phase {
            Phase::NewVersions => proto::RotationPhase::NewVersions,
            Phase::Refresh => proto::RotationPhase::Refresh,
            Phase::Reseal => proto::RotationPhase::Reseal,
            Phase::Retire => proto::RotationPhase::Retire,
            Phase::Done => proto::RotationPhase::Done,
        }
        .into(),
        trigger: trigger.as_str().to_owned(),
        start_time: Some(time(*started_at)),
        end_time: ended_at.map(time),
        versions_created: counts.versions_created,
        refresh_total: counts.refresh_total,
        refreshed: counts.refreshed,
        refresh_failed: counts.refresh_failed,
        reseal_total: counts.reseal_total,
        resealed: counts.resealed,
        reseal_failed: counts.reseal_failed,
        versions_destroyed: counts.versions_destroyed,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder of 1000 fits")]
pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    let millis = at.0.rem_euclid(1000) as i32;
    prost_types::Timestamp { seconds: at.0.div_euclid(1000), nanos: millis * 1_000_000 }
}

fn words(scopes: &ScopeSet) -> Vec<String> {
    scopes.iter().map(str::to_owned).collect()
}
