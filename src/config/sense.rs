//! Settings that are well-formed each, and cannot work, alone or together.

use std::net::SocketAddr;
use std::time::Duration;

use url::Url;

use super::Config;
use super::table::Faults;
use crate::clock::Timestamp;
use crate::idp::{self, ClientSpec, ProviderSpec, TenantRule};

/// How long an exchange with a provider may take.
const EXCHANGE: Duration = Duration::from_secs(120);
/// How long before its end a certificate is spoken of.
const SOON: Duration = Duration::from_secs(14 * 86_400);

/// Claims that name neither a tenant nor a user: each token has another, or all
/// have the same.
const NO_NAMES: [&str; 13] = [
    "iss",
    "aud",
    "exp",
    "iat",
    "nbf",
    "jti",
    "nonce",
    "scp",
    "scope",
    "ver",
    "idtyp",
    "at_hash",
    "auth_time",
];

/// Finds them all.
pub(super) fn check(config: &Config, now: Timestamp, faults: &Faults) {
    if let Some(metrics) = config.server.metrics_listen
        && collide(config.server.listen, metrics)
    {
        faults.add("server.metrics_listen", "takes the port of server.listen: choose another");
    }
    if config.server.drain < EXCHANGE {
        faults.warn(
            "server.drain_seconds",
            "is shorter than an exchange with a provider may take (120 s): a shutdown can lose a token",
        );
    }
    check_schedule(config, now, faults);
    for (name, provider) in &config.providers {
        let path = format!("providers.{name}");
        check_provider(&path, provider, now, faults);
        if !config.clients.values().any(|client| client.provider == *name) {
            faults.warn(path, "has no client: nobody can use it");
        }
    }
    for (id, client) in &config.clients {
        check_client(&format!("clients.{id}"), client, now, faults);
    }
}

/// Whether both cannot be listened on. An address of all interfaces takes the
/// port on each.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let same = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same
}

fn check_schedule(config: &Config, now: Timestamp, faults: &Faults) {
    let rotation = &config.rotation;
    let Some(pause) = rotation.longest_pause(now) else {
        let what = if rotation.next_run(now).is_none() {
            "never fires: there is no such date, or it is over"
        } else {
            "fires a few times and then never again"
        };
        faults.add("rotation.schedule", what);
        return;
    };
    if pause < Duration::from_secs(60) {
        faults.warn(
            "rotation.schedule",
            "fires more often than once a minute: is the first field the seconds?",
        );
    }
    if pause > rotation.key_max_age {
        faults.warn("rotation.schedule", "fires more rarely than keys are to be renewed (key_max_age_days)");
    }
    for (name, provider) in &config.providers {
        let path = format!("providers.{name}");
        let (idle, absolute) = (provider.profile.idle_lifetime, provider.profile.absolute_lifetime);
        // A grant is refreshed from half of its idle lifetime on.
        if idle.is_some_and(|idle| pause > idle / 2) {
            faults.warn(
                format!("{path}.idle_lifetime_seconds"),
                "is too short for rotation.schedule: tokens that nobody uses die between two runs",
            );
        }
        if let (Some(idle), Some(absolute)) = (idle, absolute)
            && idle > absolute
        {
            let what = "is longer than absolute_lifetime_seconds, so it never counts";
            faults.warn(format!("{path}.idle_lifetime_seconds"), what);
        }
    }
}

fn check_provider(path: &str, provider: &ProviderSpec, now: Timestamp, faults: &Faults) {
    let fault = |key: &str, what: String| faults.add(format!("{path}.{key}"), what);
    if let Err(what) = issuer_of_tokens(&provider.issuer) {
        fault("issuer", what);
    }
    if provider.jwks_uri.contains("/.well-known/openid-configuration") {
        fault("jwks_uri", "is the address of the metadata: give the jwks_uri that stands in it".into());
    }
    if provider.jwks_uri == provider.token_endpoint {
        fault("jwks_uri", "is the same as token_endpoint".into());
    }
    if provider.revocation_endpoint.as_ref() == Some(&provider.token_endpoint) {
        fault("revocation_endpoint", "is the same as token_endpoint".into());
    }
    if provider.audience.iter().any(|audience| audience.contains(['{', '}', '<', '>'])) {
        fault("audience", "has a placeholder in it, which no token has: write out what tokens carry".into());
    }
    if let TenantRule::Claim(claim) = &provider.tenant
        && NO_NAMES.contains(&claim.as_str())
    {
        fault("tenant_claim", format!("cannot be `{claim}`: it names no tenant"));
    }
    if let Some(claim) = provider.subject_claims.iter().find(|claim| NO_NAMES.contains(&claim.as_str())) {
        fault("subject_claims", format!("cannot have `{claim}`: it names no user"));
    }
    check_authorities(path, provider, now, faults);
}

fn check_authorities(path: &str, provider: &ProviderSpec, now: Timestamp, faults: &Faults) {
    let Some(pem) = &provider.ca_file_pem else { return };
    let path = format!("{path}.ca_file");
    let addresses =
        [Some(&provider.token_endpoint), Some(&provider.jwks_uri), provider.revocation_endpoint.as_ref()];
    if !addresses.into_iter().flatten().any(|address| address.starts_with("https:")) {
        faults.warn(&path, "is not used: none of the provider's addresses is https");
    }
    match idp::check_authorities(pem, now) {
        Ok(None) => {}
        Ok(Some(warning)) => faults.warn(path, warning),
        Err(what) => faults.add(path, what),
    }
}

/// Whether tokens can have the issuer. It is compared as text, so what is no
/// token's issuer rejects every user.
fn issuer_of_tokens(issuer: &str) -> Result<(), String> {
    if issuer.contains("/.well-known/") {
        return Err("is the address of the metadata: the issuer is what stands before /.well-known".into());
    }
    // The placeholder is no character of a URL's path.
    let Ok(url) = Url::parse(&issuer.replace("{tenant}", "tenant")) else { return Ok(()) };
    let entra = url.host_str().is_some_and(|host| {
        host == "sts.windows.net"
            || ["login.microsoftonline.com", "login.microsoftonline.us", "login.partner.microsoftonline.cn"]
                .contains(&host)
    });
    let first = url.path_segments().and_then(|mut segments| segments.next().map(str::to_owned));
    match first.as_deref() {
        Some(word @ ("common" | "organizations" | "consumers")) if entra => {
            Err(format!("has `{word}` where tokens carry their directory's id: write {{tenant}}, or the id"))
        }
        _ => Ok(()),
    }
}

fn check_client(path: &str, client: &ClientSpec, now: Timestamp, faults: &Faults) {
    if client.client_id.contains(['{', '}', '<', '>']) {
        faults.add(format!("{path}.client_id"), "has a placeholder in it: write the client's own id");
    }
    match idp::check_credentials(&client.auth, &client.client_id, now) {
        Ok(Some(end)) if end < now.plus(SOON) => {
            faults.warn(format!("{path}.certificate_file"), format!("ends at {end}: renew it"));
        }
        Ok(_) => {}
        Err(what) => faults.add(path, what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_all_interfaces_takes_the_port_on_each() {
        for (a, b, taken) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "[::]:1", true),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            assert_eq!(collide(a.parse().unwrap(), b.parse().unwrap()), taken, "{a} {b}");
        }
    }

    #[test]
    fn what_no_token_has_for_an_issuer_is_refused() {
        for good in [
            "https://login.microsoftonline.com/{tenant}/v2.0",
            "https://sts.windows.net/{tenant}/",
            "https://login.microsoftonline.com/72f988bf-86f1-41af-91ab-2d7cd011db47/v2.0",
            "https://id.example.com/common/",
            "https://id.example.com",
        ] {
            assert_eq!(issuer_of_tokens(good), Ok(()), "{good}");
        }
        for bad in [
            "https://login.microsoftonline.com/common/v2.0",
            "https://login.microsoftonline.us/organizations/v2.0",
            "https://id.example.com/.well-known/openid-configuration",
        ] {
            assert!(issuer_of_tokens(bad).is_err(), "{bad}");
        }
    }
}
