//! `[providers.<name>]`: where tokens come from, and how the place behaves.

use std::path::PathBuf;
use std::time::Duration;

use crate::domain::id::TenantId;
use crate::domain::profile::{IdleClock, Profile};
use crate::idp::{Budget, ProviderSpec, TenantRule};

use super::parse;
use super::table::Table;

/// A provider as read: its settings, and the file of its authorities.
pub(super) struct Read {
    pub(super) spec: ProviderSpec,
    pub(super) ca_file: Option<PathBuf>,
}

pub(super) fn read(name: Option<String>, table: &mut Table<'_>) -> Option<Read> {
    let issuer = table.required("issuer", parse::issuer);
    let token_endpoint = table.required("token_endpoint", parse::endpoint);
    let jwks_uri = table.required("jwks_uri", parse::endpoint);
    let revocation_endpoint = table.optional("revocation_endpoint", parse::endpoint);
    let audience = table.required("audience", parse::list);
    let other_issuers = table.or("other_issuers", Vec::new(), parse::issuers);
    if other_issuers.is_empty() {
        table.refuse("other_audience", "is for tokens of other_issuers only");
    }
    let other_audience = table.optional("other_audience", parse::list);
    let tenant = read_tenant(table);
    let subject_claims = table.or("subject_claims", vec!["oid".into(), "sub".into()], parse::list);
    let profile = read_profile(table);
    let budget = Budget {
        requests_per_second: table.or("requests_per_second", 20_u32, parse::whole(1..=10_000)).into(),
        concurrency: table.or("concurrency", 8, parse::whole(1..=1000)),
    };
    let ca_file = table.peek_path("ca_file");
    let ca_file_pem = table.public_text("ca_file").map(String::into_bytes);
    let spec = ProviderSpec {
        name: name?,
        issuer: issuer?,
        other_issuers,
        token_endpoint: token_endpoint?,
        jwks_uri: jwks_uri?,
        revocation_endpoint,
        other_audience: other_audience.or_else(|| audience.clone()).unwrap_or_default(),
        audience: audience?,
        tenant: tenant?,
        subject_claims,
        profile: profile?,
        budget,
        ca_file_pem,
    };
    Some(Read { spec, ca_file })
}

fn read_tenant(table: &mut Table<'_>) -> Option<TenantRule> {
    match (table.has("tenant_claim"), table.has("tenant")) {
        (true, false) => table.optional("tenant_claim", parse::text).map(TenantRule::Claim),
        (false, true) => table.optional("tenant", parse::checked(TenantId::new)).map(TenantRule::Fixed),
        (both, _) => {
            table.refuse("tenant_claim", "cannot stand beside tenant: choose one");
            table.refuse("tenant", "cannot stand beside tenant_claim: choose one");
            if !both {
                table.fault("", "needs tenant_claim, or tenant where all its users belong to one");
            }
            None
        }
    }
}

/// The profile named, with what the settings say otherwise.
fn read_profile(table: &mut Table<'_>) -> Option<Profile> {
    #[derive(Clone, Copy, PartialEq)]
    enum Base {
        Strict,
        Grace,
        Tolerant,
    }
    let words = [("strict", Base::Strict), ("grace", Base::Grace), ("tolerant", Base::Tolerant)];
    let base = table.required("profile", parse::word(&words));
    let window = match base {
        Some(Base::Grace) => table.required("grace_seconds", parse::seconds(1..=3600)),
        Some(Base::Strict | Base::Tolerant) => {
            table.refuse("grace_seconds", "is for the profile \"grace\" only");
            None
        }
        None => table.optional("grace_seconds", parse::seconds(1..=3600)),
    };
    let usual = match base? {
        Base::Strict => Profile::strict(),
        Base::Tolerant => Profile::tolerant(),
        Base::Grace => Profile::grace(window?),
    };
    let ten_years = 1..=315_360_000;
    Some(Profile {
        reuse: usual.reuse,
        client_error_proves_unused: table.or(
            "client_error_proves_unused",
            usual.client_error_proves_unused,
            parse::flag,
        ),
        throttle_proves_unused: table.or("throttle_proves_unused", usual.throttle_proves_unused, parse::flag),
        assertion_tolerance: table.or(
            "assertion_tolerance_seconds",
            usual.assertion_tolerance,
            parse::seconds(0..=3600),
        ),
        idle_lifetime: lifetime(table, "idle_lifetime_seconds", &ten_years).or(usual.idle_lifetime),
        absolute_lifetime: lifetime(table, "absolute_lifetime_seconds", &ten_years)
            .or(usual.absolute_lifetime),
        multi_resource: table.or("multi_resource", usual.multi_resource, parse::flag),
        protocol_scopes_in_refresh: table.or(
            "protocol_scopes_in_refresh",
            usual.protocol_scopes_in_refresh,
            parse::flag,
        ),
        idle_clock: table.or(
            "idle_clock",
            usual.idle_clock,
            parse::word(&[("issue", IdleClock::Issue), ("use", IdleClock::Use)]),
        ),
        grants_all_consented: table.or("grants_all_consented", usual.grants_all_consented, parse::flag),
        revocation_ends_consent: table.or(
            "revocation_ends_consent",
            usual.revocation_ends_consent,
            parse::flag,
        ),
    })
}

fn lifetime(table: &mut Table<'_>, key: &str, bounds: &std::ops::RangeInclusive<u64>) -> Option<Duration> {
    table.optional(key, parse::seconds(bounds.clone()))
}
