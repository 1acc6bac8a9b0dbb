//! Whether the two stores and the audit log belong together, and whether one of
//! them is an older copy.
//!
//! Both stores carry the vault's random identity from their first start on. A file
//! that was lost, or put there from another vault, is refused: serving from an
//! empty one would be a new vault that looks like the old. A token store that is
//! behind the mark in the key store is an older copy; the vault serves from it and
//! redeems nothing, until an operator confirms it.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

use crate::keyring::Keyring;
use crate::store::{KeyStanding, KeyStore, Standing, Store};

use super::{StartError, because};

/// How far the counter may be ahead of the mark: each is moved every few seconds,
/// the counter first. Further, and the key store is the older one.
const AHEAD: u64 = 12;

/// Files that do not belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Apart {
    /// The two stores are of two vaults.
    TwoVaults {
        /// Of the token store.
        tokens: Uuid,
        /// Of the key store.
        keys: Uuid,
    },
    /// The token store is empty and the key store is not.
    NoTokens,
    /// The key store is empty and the token store is not.
    NoKeys,
    /// Both stores are new and the audit log is not.
    OnlyAudit,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TwoVaults { tokens, keys } => {
                write!(f, "the token store is of vault {tokens} and the key store of vault {keys}")
            }
            Self::NoTokens => f.write_str("the token store is empty, and the key store beside it has keys"),
            Self::NoKeys => f.write_str("the key store is empty, and the token store beside it has tenants"),
            Self::OnlyAudit => f.write_str("both stores are new, and the audit log beside them has entries"),
        }?;
        f.write_str(
            "; look whether the paths in [store] and [audit] and the volumes are the right ones, and put the missing \
             file back; where it is lost for good, `obo-vault store adopt` accepts the files as they are",
        )
    }
}

impl std::error::Error for Apart {}

/// The vault that the stores belong to; `fresh` where there was none.
pub(super) fn judge(
    tokens: &Standing,
    keys: &KeyStanding,
    audit_has_entries: bool,
    fresh: Uuid,
) -> Result<Uuid, Apart> {
    match (tokens.vault, keys.vault) {
        (Some(tokens), Some(keys)) if tokens == keys => return Ok(tokens),
        (Some(tokens), Some(keys)) => return Err(Apart::TwoVaults { tokens, keys }),
        (None, None) if tokens.is_empty && keys.is_empty && audit_has_entries => {
            return Err(Apart::OnlyAudit);
        }
        _ => {}
    }
    // One of them was not served from since vaults have an identity in both.
    match (tokens.is_empty, keys.is_empty) {
        (false, true) => Err(Apart::NoKeys),
        // With an identity of its own, it is a vault whose last tenant is gone.
        (true, false) if tokens.vault.is_none() => Err(Apart::NoTokens),
        _ => Ok(tokens.vault.or(keys.vault).unwrap_or(fresh)),
    }
}

/// Which of the two stores is an older copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Older {
    /// Neither, as far as can be seen.
    Neither,
    /// The token store: its tokens may have been redeemed since.
    Tokens,
    /// The key store: keys may be missing, and seals are not counted.
    Keys,
}

/// Compares the token store's counter with the mark.
pub(super) fn older(counter: u64, mark: Option<u64>) -> Older {
    match mark {
        Some(mark) if counter < mark => Older::Tokens,
        Some(mark) if counter - mark > AHEAD => Older::Keys,
        Some(_) | None => Older::Neither,
    }
}

/// Makes both stores those of the vault.
pub(super) async fn settle(
    store: &dyn Store,
    keys: &dyn KeyStore,
    audit_has_entries: bool,
    fresh: Uuid,
) -> Result<Uuid, StartError> {
    let doing = "looking whether the stores belong together";
    let tokens = store.standing().await.map_err(because(doing))?;
    let standing = keys.standing().await.map_err(because(doing))?;
    let vault = judge(&tokens, &standing, audit_has_entries, fresh).map_err(because(doing))?;
    claim(store, keys, vault).await
}

/// Writes the identity into both, where it is not yet.
pub(super) async fn claim(store: &dyn Store, keys: &dyn KeyStore, vault: Uuid) -> Result<Uuid, StartError> {
    let doing = "writing the vault's identity";
    let vault = store.deployment(vault).await.map_err(because(doing))?;
    keys.adopt(vault).await.map_err(because(doing))?;
    Ok(vault)
}

/// Moves the token store's counter and the mark in the key store on.
#[derive(Clone)]
pub(super) struct Watermark {
    pub(super) store: Arc<dyn Store>,
    pub(super) keyring: Arc<Keyring>,
}

impl Watermark {
    /// Which store is an older copy.
    pub(super) async fn older(&self) -> Result<Older, StartError> {
        let standing = self.store.standing().await.map_err(because("reading the token store's counter"))?;
        let mark = self.keyring.mark().await.map_err(because("reading the mark in the key store"))?;
        Ok(older(standing.counter, mark))
    }

    /// Moves both on, the counter first: wherever this ends, the mark is not ahead
    /// of its own token store.
    pub(super) async fn advance(&self, beyond: u64) -> Result<(), StartError> {
        let doing = "noting how far the token store has come";
        let counter = self.store.advance_counter(beyond).await.map_err(because(doing))?;
        self.keyring.set_mark(counter).await.map_err(because(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Uuid = Uuid::from_u128(1);
    const THEIRS: Uuid = Uuid::from_u128(2);
    const FRESH: Uuid = Uuid::from_u128(3);

    fn judged(tokens: (Option<Uuid>, bool), keys: (Option<Uuid>, bool), audit: bool) -> Result<Uuid, Apart> {
        let tokens = Standing { vault: tokens.0, is_empty: !tokens.1, counter: 0 };
        let keys = KeyStanding { vault: keys.0, is_empty: !keys.1, mark: None };
        judge(&tokens, &keys, audit, FRESH)
    }

    #[test]
    fn stores_that_do_not_belong_together_are_refused() {
        let two = Apart::TwoVaults { tokens: OURS, keys: THEIRS };
        for full in [(true, true), (false, false), (true, false), (false, true)] {
            assert_eq!(judged((Some(OURS), full.0), (Some(THEIRS), full.1), true), Err(two));
            assert_eq!(judged((Some(OURS), full.0), (Some(OURS), full.1), true), Ok(OURS));
        }
        for audit in [true, false] {
            assert_eq!(judged((None, false), (Some(OURS), true), audit), Err(Apart::NoTokens));
            assert_eq!(judged((None, false), (None, true), audit), Err(Apart::NoTokens));
            assert_eq!(judged((Some(OURS), true), (None, false), audit), Err(Apart::NoKeys));
        }
        assert_eq!(judged((None, false), (None, false), true), Err(Apart::OnlyAudit));
    }

    #[test]
    fn new_stores_and_those_of_an_earlier_version_get_an_identity() {
        assert_eq!(judged((None, false), (None, false), false), Ok(FRESH));
        // As the versions before had it: in the token store alone.
        for full in [(true, true), (false, false), (false, true)] {
            assert_eq!(judged((Some(OURS), full.0), (None, full.1), true), Ok(OURS));
        }
        // A start that ended between the two writes.
        assert_eq!(judged((None, false), (Some(OURS), false), false), Ok(OURS));
    }

    #[test]
    fn a_store_that_is_behind_the_other_is_the_older() {
        assert_eq!(older(7, None), Older::Neither);
        for ahead in 0..=AHEAD {
            assert_eq!(older(7 + ahead, Some(7)), Older::Neither, "{ahead}");
        }
        assert_eq!(older(6, Some(7)), Older::Tokens);
        assert_eq!(older(7 + AHEAD + 1, Some(7)), Older::Keys);
    }
}
