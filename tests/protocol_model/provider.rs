//! The provider: it rotates on every use, and an old token seen again revokes
//! the family, outside a grace window.

use std::collections::BTreeSet;

use obo_vault::clock::Timestamp;
use obo_vault::domain::grant::Epoch;
use obo_vault::domain::profile::Reuse;

use super::time::{NOW, oldest};
use super::{Doing, Request, Says, Token, World};
use crate::design::Design;

/// The provider: its families, the newest last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Provider {
    pub(super) families: Vec<Family>,
    used: BTreeSet<(Token, Epoch)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Family {
    current: Token,
    pub(super) rotated_at: Timestamp,
    pub(super) is_revoked: bool,
}

impl Provider {
    /// Whether this is the newest family's current token, and good.
    pub(crate) fn accepts(&self, token: Token) -> bool {
        self.families.last().is_some_and(|family| !family.is_revoked && token == family.current)
    }

    /// A new consent.
    pub(super) fn begin_family(&mut self) -> Token {
        let family = u8::try_from(self.families.len()).unwrap_or(u8::MAX);
        let current = Token { family, rotation: 0 };
        self.families.push(Family { current, rotated_at: oldest(), is_revoked: false });
        current
    }
}

impl World {
    /// The provider's side of a request.
    pub(super) fn serve(&mut self, design: &Design, request: Request) -> Says {
        if request.expires.is_some_and(|expires| expires < NOW) {
            return Says::InvalidClient;
        }
        let newest_is_held = self.newest_token_is_held();
        let is_newest_family = usize::from(request.token.family) + 1 == self.provider.families.len();
        let family = &mut self.provider.families[usize::from(request.token.family)];
        if family.is_revoked {
            return Says::InvalidGrant;
        }
        if request.token == family.current {
            self.verdicts.used_twice |= !self.provider.used.insert((request.token, request.epoch));
            family.current.rotation += 1;
            family.rotated_at = NOW;
            return Says::NewToken(family.current);
        }
        if let Reuse::Grace { window } = design.profile.reuse {
            let previous = request.token.rotation + 1 == family.current.rotation;
            if previous && NOW <= family.rotated_at.plus(window) {
                return Says::NewToken(family.current);
            }
        }
        self.verdicts.avoidable_loss |= newest_is_held && is_newest_family;
        family.is_revoked = true;
        Says::InvalidGrant
    }

    /// Whether the newest family's newest token is in the store, in a journal,
    /// in a live process, or on its way to one.
    fn newest_token_is_held(&self) -> bool {
        let is_newest = |token: Token| self.provider.families.last().is_some_and(|f| f.current == token);
        is_newest(self.stored_token)
            || self.answers.iter().any(|a| matches!(a.says, Says::NewToken(token) if is_newest(token)))
            || self.replicas.iter().any(|r| {
                r.journal.is_some_and(|kept| is_newest(kept.new_token))
                    || matches!(r.doing, Doing::Received(_, token) if is_newest(token))
            })
    }
}
