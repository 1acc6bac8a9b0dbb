//! Whose wishes a request carries, and what the grant's own request asks for.

use crate::domain::failure::Failure;
use crate::domain::grant::Grant;
use crate::domain::profile::Profile;
use crate::domain::reason::Reason;
use crate::domain::scope::Target;

/// Whether the target is what the grant itself would ask for: its scopes, all of
/// them or unnamed, and no claims. An answer to that is an answer about the
/// grant.
pub(super) fn is_own(grant: &Grant, target: &Target) -> bool {
    let scopes = target.scopes.without_protocol_scopes();
    let all = scopes.is_empty()
        || scopes == grant.scopes.without_protocol_scopes()
        || scopes == grant.asked.without_protocol_scopes();
    let resource = target.resource.is_none() || target.resource == grant.resource;
    all && resource && target.claims.is_none()
}

/// The target as it is sent. Where a provider wants every refresh to ask as the
/// first request did, one that names nothing asks for what was asked then.
pub(super) fn as_sent(grant: &Grant, profile: &Profile, target: &Target) -> Target {
    if *target != Target::default() || !profile.protocol_scopes_in_refresh {
        return target.clone();
    }
    let scopes = if grant.asked.is_empty() { &grant.scopes } else { &grant.asked };
    Target { scopes: scopes.clone(), resource: grant.resource.clone(), claims: None }
}

/// A token bound to its scopes and resource is not sent for others: the
/// provider's refusal might not prove it unused. What the user was asked for and
/// agreed to may be asked for as long as the grant lives, however the provider
/// spells what it granted.
pub(super) fn check_within(grant: &Grant, profile: &Profile, target: &Target) -> Result<(), Failure> {
    let scopes = target.scopes.without_protocol_scopes();
    let known = |scope: &str| grant.scopes.iter().chain(grant.asked.iter()).any(|known| known == scope);
    let resource = target.resource.is_none() || target.resource == grant.resource;
    if profile.multi_resource || (resource && scopes.iter().all(known)) {
        Ok(())
    } else {
        Err(Failure::new(Reason::ScopeNotGranted, "a scope or the resource is outside the grant"))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::clock::Timestamp;
    use crate::domain::grant::{Generation, GrantId, GrantKey, GrantState, Lineage};
    use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};
    use crate::domain::key::KeyVersion;
    use crate::domain::scope::{Claims, Resource, ScopeSet};

    fn grant(asked: &[&str], granted: &[&str]) -> Grant {
        Grant {
            id: GrantId(Uuid::nil()),
            key: GrantKey {
                tenant: TenantId::new("t").unwrap(),
                client: ClientId::new("c").unwrap(),
                subject: SubjectId::new("s").unwrap(),
            },
            issuer: Issuer::new("https://p.example").unwrap(),
            lineage: Lineage(Uuid::nil()),
            state: GrantState::Active,
            generation: Generation(1),
            last_attempt: None,
            unhelpful: 0,
            key_version: KeyVersion::FIRST,
            scopes: ScopeSet::new(granted).unwrap(),
            asked: ScopeSet::new(asked).unwrap(),
            resource: Some(Resource::new("https://r.example").unwrap()),
            created_at: Timestamp(0),
            refreshed_at: Timestamp(0),
            idle_expires_at: None,
            absolute_expires_at: None,
            next_refresh_at: Timestamp(0),
            not_before: None,
        }
    }

    fn target(scopes: &[&str]) -> Target {
        Target { scopes: ScopeSet::new(scopes).unwrap(), ..Target::default() }
    }

    #[test]
    fn only_what_the_grant_itself_asks_for_is_its_own_request() {
        let grant = grant(&["r/.default"], &["mail.read", "mail.send", "offline_access"]);
        for own in [&[][..], &["openid"], &["r/.default"], &["mail.send", "mail.read", "openid"]] {
            assert!(is_own(&grant, &target(own)), "{own:?}");
        }
        let resource = |uri| Target { resource: Some(Resource::new(uri).unwrap()), ..Target::default() };
        assert!(is_own(&grant, &resource("https://r.example")));
        assert!(!is_own(&grant, &resource("https://other.example")));
        let claims = Target { claims: Some(Claims::new("{}").unwrap()), ..Target::default() };
        assert!(!is_own(&grant, &claims));
        for choice in [&["mail.read"][..], &["files.read"], &["r/.default", "mail.read"]] {
            assert!(!is_own(&grant, &target(choice)), "{choice:?}");
        }
    }

    #[test]
    fn what_was_asked_for_stays_askable_beside_what_was_granted() {
        let grant = grant(&["r/.default"], &["mail.read"]);
        let strict = Profile::strict();
        for good in [&["r/.default"][..], &["mail.read", "openid"], &[]] {
            assert!(check_within(&grant, &strict, &target(good)).is_ok(), "{good:?}");
        }
        assert!(check_within(&grant, &strict, &target(&["mail.send"])).is_err());
        assert!(check_within(&grant, &Profile::tolerant(), &target(&["mail.send"])).is_ok());
    }

    #[test]
    fn a_refresh_asks_as_the_first_request_did_where_the_provider_wants_it() {
        let grant = grant(&["r/.default"], &["mail.read"]);
        let sent = as_sent(&grant, &Profile::tolerant(), &Target::default());
        assert_eq!((sent.scopes.to_wire().as_str(), sent.resource), ("r/.default", grant.resource.clone()));
        assert_eq!(as_sent(&grant, &Profile::strict(), &Target::default()), Target::default());
        assert_eq!(as_sent(&grant, &Profile::tolerant(), &target(&["x"])), target(&["x"]));
    }
}
