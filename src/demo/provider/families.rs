//! Refresh tokens by family: the descendants of one consent. One of a family
//! is current; seeing another again is reuse (RFC 9700 section 4.14.2).

use std::collections::{BTreeSet, HashMap};

use crate::clock::Timestamp;
use crate::domain::profile::Reuse;

/// All refresh tokens that were ever issued, used ones included.
#[derive(Debug, Default)]
pub(super) struct Families {
    families: Vec<Family>,
    by_handle: HashMap<Box<str>, Place>,
}

/// The descendants of one consent.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) client: String,
    pub(super) user: String,
    pub(super) scopes: BTreeSet<String>,
    pub(super) alive: bool,
    current: Box<str>,
    generation: u64,
    rotated_at: Timestamp,
}

/// Which token of which family.
#[derive(Debug, Clone, Copy)]
struct Place {
    family: usize,
    generation: u64,
}

/// A refresh token that may be redeemed now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Redeemable {
    family: usize,
    /// Within a grace window the newer token is handed out once more.
    already_rotated: bool,
}

/// Why a refresh token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Never issued, issued to another client, or its family is revoked.
    Unknown,
    /// Spent before; its family is revoked from now on.
    Reused,
}

impl Families {
    /// Begins a family with its first token.
    pub(super) fn begin(&mut self, client: &str, user: &str, scopes: BTreeSet<String>, handle: &str) {
        let place = Place { family: self.families.len(), generation: 0 };
        self.families.push(Family {
            client: client.to_owned(),
            user: user.to_owned(),
            scopes,
            alive: true,
            current: handle.into(),
            generation: 0,
            rotated_at: Timestamp(0),
        });
        self.by_handle.insert(handle.into(), place);
    }

    /// Finds the token with this handle; reuse revokes its family here.
    pub(super) fn present(
        &mut self,
        handle: &str,
        client: &str,
        reuse: Reuse,
        now: Timestamp,
    ) -> Result<Redeemable, Refused> {
        let place = self.place(handle, client).ok_or(Refused::Unknown)?;
        let Some(family) = self.families.get_mut(place.family).filter(|f| f.alive) else {
            return Err(Refused::Unknown);
        };
        let redeemable = Redeemable { family: place.family, already_rotated: false };
        if place.generation == family.generation {
            return Ok(redeemable);
        }
        match reuse {
            Reuse::Tolerated => Ok(redeemable),
            Reuse::Grace { window }
                if place.generation + 1 == family.generation && now.since(family.rotated_at) <= window =>
            {
                Ok(Redeemable { already_rotated: true, ..redeemable })
            }
            Reuse::Strict | Reuse::Grace { .. } => {
                family.alive = false;
                Err(Refused::Reused)
            }
        }
    }

    /// Makes the token with `handle` the family's current one and returns the
    /// handle of the token to hand out.
    pub(super) fn rotate(&mut self, redeemable: Redeemable, handle: &str, now: Timestamp) -> String {
        let family = &mut self.families[redeemable.family];
        if redeemable.already_rotated {
            return family.current.to_string();
        }
        family.generation += 1;
        family.current = handle.into();
        family.rotated_at = now;
        let place = Place { family: redeemable.family, generation: family.generation };
        self.by_handle.insert(handle.into(), place);
        handle.to_owned()
    }

    pub(super) fn family(&self, redeemable: Redeemable) -> &Family {
        &self.families[redeemable.family]
    }

    /// Revokes the family of a token of this client. `false`: there is no such
    /// token.
    pub(super) fn revoke(&mut self, handle: &str, client: &str) -> Option<Revoked> {
        let place = self.place(handle, client)?;
        let was_alive = std::mem::replace(&mut self.families[place.family].alive, false);
        Some(Revoked { was_alive })
    }

    /// Revokes what a user has; returns how many families there were.
    pub(super) fn revoke_user(&mut self, user: &str) -> u64 {
        let mut revoked = 0;
        for family in self.families.iter_mut().filter(|f| f.alive && f.user == user) {
            family.alive = false;
            revoked += 1;
        }
        revoked
    }

    /// The newest family of a user, at one client or at any.
    pub(super) fn newest_of(&self, user: &str, client: Option<&str>) -> Option<&Family> {
        self.families.iter().rev().find(|f| f.user == user && client.is_none_or(|c| c == f.client))
    }

    fn place(&self, handle: &str, client: &str) -> Option<Place> {
        let place = *self.by_handle.get(handle)?;
        (self.families[place.family].client == client).then_some(place)
    }
}

/// A family was revoked on request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revoked {
    pub(super) was_alive: bool,
}

impl Family {
    pub(super) fn current_handle(&self) -> &str {
        &self.current
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn one() -> Families {
        let mut families = Families::default();
        families.begin("vault", "ada", BTreeSet::new(), "t0");
        families
    }

    fn redeem(families: &mut Families, handle: &str, new: &str, reuse: Reuse) -> Result<String, Refused> {
        let redeemable = families.present(handle, "vault", reuse, NOW)?;
        Ok(families.rotate(redeemable, new, NOW))
    }

    #[test]
    fn a_strict_provider_revokes_the_family_on_reuse() {
        let mut families = one();
        redeem(&mut families, "t0", "t1", Reuse::Strict).unwrap();
        assert_eq!(redeem(&mut families, "t0", "t2", Reuse::Strict), Err(Refused::Reused));
        assert_eq!(redeem(&mut families, "t1", "t3", Reuse::Strict), Err(Refused::Unknown));
        assert!(!families.newest_of("ada", None).unwrap().alive);
    }

    #[test]
    fn a_grace_window_covers_the_previous_token_only() {
        let grace = Reuse::Grace { window: Duration::from_secs(30) };
        let mut families = one();
        redeem(&mut families, "t0", "t1", grace).unwrap();
        assert_eq!(redeem(&mut families, "t0", "t2", grace).as_deref(), Ok("t1"));
        redeem(&mut families, "t1", "t2", grace).unwrap();
        assert_eq!(redeem(&mut families, "t0", "t3", grace), Err(Refused::Reused));
    }

    #[test]
    fn a_grace_window_ends() {
        let grace = Reuse::Grace { window: Duration::from_secs(30) };
        let mut families = one();
        redeem(&mut families, "t0", "t1", grace).unwrap();
        let late = NOW.plus(Duration::from_secs(31));
        assert_eq!(families.present("t0", "vault", grace, late).unwrap_err(), Refused::Reused);
    }

    #[test]
    fn a_tolerant_provider_accepts_old_tokens() {
        let mut families = one();
        for new in ["t1", "t2", "t3"] {
            assert_eq!(redeem(&mut families, "t0", new, Reuse::Tolerated).as_deref(), Ok(new));
        }
        assert!(redeem(&mut families, "t1", "t4", Reuse::Tolerated).is_ok());
    }

    #[test]
    fn another_client_cannot_redeem_or_revoke_a_token() {
        let mut families = one();
        assert_eq!(families.present("t0", "other", Reuse::Strict, NOW).unwrap_err(), Refused::Unknown);
        assert!(families.revoke("t0", "other").is_none());
        assert!(families.newest_of("ada", None).unwrap().alive);
    }
}
