//! Generated types to checked ones and back. Every message is destructured, so
//! that a new field breaks the build until somebody has thought about it.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::domain::failure::Failure;
use crate::domain::grant::{Grant, GrantState};
use crate::domain::id::{ClientId, InvalidName, SubjectId, TenantId};
use crate::domain::key::{KeyState, KeyVersionInfo};
use crate::domain::reason::Reason;
use crate::domain::rotation::{Phase, Run};
use crate::domain::scope::{Claims, Resource, ScopeSet, Target};
use crate::domain::tenant::TenantState;
use crate::proto;
use crate::redeem::cache::IssuedToken;
use crate::tenant::{CensusLine, Counted};

/// Most items of a page, and how many when none are named.
const LARGEST_PAGE: u32 = 1000;
const DEFAULT_PAGE: u32 = 100;

pub(super) fn tenant_id(name: &str) -> Result<TenantId, Failure> {
    TenantId::new(name).map_err(|e| invalid(&e))
}

pub(super) fn client_id(name: &str) -> Result<ClientId, Failure> {
    ClientId::new(name).map_err(|e| invalid(&e))
}

pub(super) fn subject_id(name: &str) -> Result<SubjectId, Failure> {
    SubjectId::new(name).map_err(|e| invalid(&e))
}

pub(super) fn target(scopes: &[String], resource: &str, claims: &str) -> Result<Target, Failure> {
    let scopes = ScopeSet::new(scopes).map_err(|e| invalid(&e))?;
    let resource = match resource {
        "" => None,
        uri => Some(Resource::new(uri).map_err(|e| invalid(&e))?),
    };
    let claims = match claims {
        "" => None,
        json => {
            let claims = Claims::new(json).map_err(|e| invalid(&e))?;
            let parsed: Result<serde_json::Map<String, serde_json::Value>, _> =
                serde_json::from_str(claims.as_str());
            parsed.map_err(|_| invalid_request("claims_challenge is not a JSON object"))?;
            Some(claims)
        }
    };
    Ok(Target { scopes, resource, claims })
}

pub(super) fn min_life(duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    match duration {
        None => Ok(None),
        Some(span) => match Duration::try_from(span) {
            Ok(span) if span <= crate::token::MAX_MIN_LIFE => Ok(Some(span)),
            Ok(_) | Err(_) => Err(invalid_request("min_remaining_life must be 0 to 10 minutes")),
        },
    }
}

pub(super) fn window(duration: Option<prost_types::Duration>) -> Result<Duration, Failure> {
    let wrong = || Failure::new(Reason::WindowInvalid, "the window is missing or negative");
    duration.ok_or_else(wrong).and_then(|span| Duration::try_from(span).map_err(|_| wrong()))
}

pub(super) fn page_size(size: u32) -> Result<u32, Failure> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=LARGEST_PAGE => Ok(size),
        _ => Err(invalid_request("page_size must be at most 1000")),
    }
}

pub(super) fn invalid_request(what: &str) -> Failure {
    Failure::new(Reason::InvalidRequest, what)
}

pub(super) fn invalid(error: &InvalidName) -> Failure {
    invalid_request(&error.to_string())
}

pub(super) fn token_answer(token: &IssuedToken, from_cache: bool) -> proto::GetAccessTokenResponse {
    let IssuedToken {
        token,
        token_type,
        expires_at,
        scopes,
        life: _,
        refresh_at: _,
        generation: _,
        tenant_epoch: _,
    } = token;
    proto::GetAccessTokenResponse {
        access_token: token.expose().to_owned(),
        token_type: token_type.clone(),
        expire_time: Some(time(*expires_at)),
        scopes: words(scopes),
        from_cache,
    }
}

pub(super) fn grant(grant: Grant) -> proto::Grant {
    let Grant {
        id,
        key,
        issuer,
        state,
        generation,
        key_version,
        scopes,
        resource: _,
        created_at,
        refreshed_at,
        idle_expires_at,
        absolute_expires_at,
        next_refresh_at: _,
        not_before: _,
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
    }
}

pub(super) fn tenant(counted: Counted) -> proto::Tenant {
    let Counted { tenant, grants } = counted;
    let (state, version, purge_at) = match tenant.state {
        TenantState::Active { active_version } => (proto::TenantState::Active, active_version.0, None),
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

pub(super) fn key_version(line: CensusLine) -> proto::KeyVersion {
    let CensusLine { info, sealed_values } = line;
    let KeyVersionInfo { version, key_id, state, created_at, seals_reserved } = info;
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

pub(super) fn time(at: Timestamp) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.0.rem_euclid(1000) * 1_000_000).unwrap_or(0);
    prost_types::Timestamp { seconds: at.0.div_euclid(1000), nanos }
}

fn words(scopes: &ScopeSet) -> Vec<String> {
    scopes.iter().map(str::to_owned).collect()
}
