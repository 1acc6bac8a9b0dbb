//! What a connection has shown of its peer, asked again at every call.
//!
//! A handshake proves who the peer was when it was made. A call is answered for
//! who the peer is now: the chain has to be valid at this time, and the
//! authorities are those that the configuration names at this time.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls_pki_types::CertificateDer;

use crate::clock::Timestamp;

use super::{Caller, Trust, Unidentified, Verified};

/// The authorities of now: they can be replaced while connections stand.
#[derive(Debug)]
pub struct PresentTrust(RwLock<Generation>);

#[derive(Debug, Clone)]
struct Generation {
    number: u64,
    trust: Arc<Trust>,
}

impl PresentTrust {
    /// These, until they are replaced.
    #[must_use]
    pub fn new(trust: Arc<Trust>) -> Self {
        Self(RwLock::new(Generation { number: 0, trust }))
    }

    /// Puts others in their place, for all connections that share this.
    pub fn replace(&self, trust: Arc<Trust>) {
        let mut present = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *present = Generation { number: present.number + 1, trust };
    }

    fn generation(&self) -> Generation {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The certificates that the peer of a connection has proven to hold.
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    trust: Arc<PresentTrust>,
    /// What the authorities of that number said of the chain.
    known: Mutex<(u64, Verified)>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

impl Credential {
    /// The peer's chain, leaf first, as its handshake has shown it.
    ///
    /// # Errors
    ///
    /// Why it proves no caller at this time.
    pub fn new(
        chain: &[CertificateDer<'_>],
        trust: Arc<PresentTrust>,
        now: Timestamp,
    ) -> Result<Self, Unidentified> {
        let chain: Vec<_> = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let Generation { number, trust: authorities } = trust.generation();
        let verified = authorities.verify(&chain, now)?;
        Ok(Self { chain, trust, known: Mutex::new((number, verified)) })
    }

    /// Who the peer is at this time.
    ///
    /// # Errors
    ///
    /// Why it is nobody any more.
    pub fn caller(&self, now: Timestamp) -> Result<Caller, Unidentified> {
        let present = self.trust.generation();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set, or a root that was renewed, may make valid what
        // was not: what was verified is believed only while nothing has changed.
        if known.0 != present.number || known.1.validity.check(now).is_err() {
            *known = (present.number, present.trust.verify(&self.chain, now)?);
        }
        Ok(known.1.caller.clone())
    }
}

#[cfg(all(test, feature = "demo"))]
mod tests {
    use super::super::trust::tests::{Ca, HOUR, NO_LIMIT, NOW, any, trust};
    use super::*;

    #[test]
    fn a_caller_is_who_it_is_at_each_call_and_not_at_the_handshake() {
        let ca = Ca::new("ours", NO_LIMIT);
        let chain = [ca.caller("spiffe://a/mail", (NOW.minus(HOUR), NOW.plus(HOUR)))];
        let present = Arc::new(PresentTrust::new(trust([(&ca, any())])));
        let credential = Credential::new(&chain, Arc::clone(&present), NOW).unwrap();
        let asked = |now| credential.caller(now).map(|caller| caller.id().to_string());
        assert_eq!(asked(NOW), Ok("spiffe://a/mail".into()));
        assert_eq!(asked(NOW.plus(HOUR)), Ok("spiffe://a/mail".into()));
        assert_eq!(asked(NOW.plus(2 * HOUR)), Err(Unidentified::Expired));
        assert_eq!(asked(NOW.minus(2 * HOUR)), Err(Unidentified::NotYetValid));
        assert_eq!(asked(NOW), Ok("spiffe://a/mail".into()), "no refusal sticks to it");
    }

    #[test]
    fn an_authority_that_is_taken_away_vouches_for_no_connection_that_stands() {
        let (ca, other) = (Ca::new("ours", NO_LIMIT), Ca::new("other", NO_LIMIT));
        let chain = [ca.caller("spiffe://a/mail", NO_LIMIT)];
        let present = Arc::new(PresentTrust::new(trust([(&ca, any())])));
        let credential = Credential::new(&chain, Arc::clone(&present), NOW).unwrap();
        assert!(credential.caller(NOW).is_ok());
        present.replace(trust([(&other, any())]));
        assert_eq!(credential.caller(NOW), Err(Unidentified::Untrusted));
        present.replace(trust([(&other, any()), (&ca, any())]));
        assert!(credential.caller(NOW).is_ok());
    }
}
