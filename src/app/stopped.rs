//! What an operator decides about the stores of a vault that is stopped. A running
//! vault has them locked.

use std::sync::Arc;

use uuid::Uuid;

use crate::audit::Entry;
use crate::authn::Caller;
use crate::config::Config;
use crate::entropy;
use crate::keyring::{FileRootKey, Keyring};

use super::belonging::{Watermark, claim, judge};
use super::{Ambient, StartError, Stores, because, foundations};

/// The stores as they are accepted now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// The vault they belong to.
    pub vault: Uuid,
    /// Whether a token store that was older than the mark was confirmed.
    pub was_older: bool,
}

/// Confirms that the token store in place is the one to go on with, although it is
/// older than the mark: redemptions begin again at the next start.
///
/// # Errors
///
/// The vault runs, the stores do not belong together, the root key is another, or
/// a file cannot be written.
pub async fn confirm_restore(config: &Config) -> Result<Accepted, StartError> {
    accept(config, Decision::ConfirmRestore).await
}

/// Accepts two stores that do not belong together: the identity of the token store
/// is written into the key store, or the other way where the token store is new.
///
/// # Errors
///
/// The vault runs, the root key cannot be read, or a file cannot be written.
pub async fn adopt(config: &Config) -> Result<Accepted, StartError> {
    accept(config, Decision::Adopt).await
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decision {
    ConfirmRestore,
    Adopt,
}

async fn accept(config: &Config, decision: Decision) -> Result<Accepted, StartError> {
    let doing = "looking at the stores";
    let ambient = Ambient::default();
    let root = FileRootKey::load(&config.root_key_file).map_err(because("reading the root key"))?;
    let audit = foundations::open_audit(&config.audit, &ambient.clock)?;
    let Stores { tokens: store, keys } = Stores::open(&config.store)?;
    let fresh = entropy::uuid(&*ambient.entropy).map_err(because(doing))?;
    let tokens = store.standing().await.map_err(because(doing))?;
    let standing = keys.standing().await.map_err(because(doing))?;
    let limits = Default::default();
    let keyring =
        Arc::new(Keyring::new(Arc::new(root), Arc::clone(&keys), ambient.clock, ambient.entropy, limits));
    let (note, vault) = match decision {
        Decision::ConfirmRestore => {
            let vault = judge(&tokens, &standing, false, fresh).map_err(because(doing))?;
            // Another root key is another fault, and not confirmed along the way.
            keyring.mark().await.map_err(because(doing))?;
            ("the restored token store is confirmed", vault)
        }
        Decision::Adopt => {
            ("the stores are accepted as they are", tokens.vault.or(standing.vault).unwrap_or(fresh))
        }
    };
    // On record before anything changes.
    let caller = Caller::system("system:operator");
    audit
        .record(Entry::event("store").caller(caller.id()).note(note))
        .await
        .map_err(because("recording it"))?;

    let vault = claim(&*store, &*keys, vault).await?;
    // Beyond the mark, so that the copies from before are recognised all the same.
    let mark = standing.mark.map_or(0, |mark| mark.counter);
    Watermark { store, keyring }.advance(mark).await?;
    Ok(Accepted { vault, was_older: tokens.counter < mark })
}
