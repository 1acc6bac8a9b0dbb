//! Where key sets are kept: those that have verified a token by themselves, and
//! those that never did in a few places of their own. A made-up tenant gets one of
//! the few, and pushes out another made-up one at most.

use std::collections::HashMap;

use crate::clock::Instant;

/// Most sets that have verified a token.
const MOST_VERIFIED: usize = 2000;
/// Most of those that never did.
const MOST_UNVERIFIED: usize = 256;

/// Things by their address, the verified ones apart.
pub(super) struct Places<T> {
    verified: HashMap<String, Kept<T>>,
    unverified: HashMap<String, Kept<T>>,
    /// Grows with each use, so that the oldest is known.
    uses: u64,
}

struct Kept<T> {
    value: T,
    /// When it last verified a token; the start for what never did.
    verified_at: Instant,
    used: u64,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self { verified: HashMap::new(), unverified: HashMap::new(), uses: 0 }
    }
}

impl<T: Clone> Places<T> {
    /// What is kept at `uri`; something new in one of the few places else.
    pub(super) fn get_or_insert(&mut self, uri: &str, new: impl FnOnce() -> T) -> T {
        self.uses += 1;
        let used = self.uses;
        let known = self.verified.get_mut(uri).or_else(|| self.unverified.get_mut(uri));
        if let Some(kept) = known {
            kept.used = used;
            return kept.value.clone();
        }
        if self.unverified.len() >= MOST_UNVERIFIED {
            evict(&mut self.unverified, |kept| kept.used);
        }
        let value = new();
        let kept = Kept { value: value.clone(), verified_at: Instant::ZERO, used };
        self.unverified.insert(uri.to_owned(), kept);
        value
    }

    /// It has verified a token; the one that has not for longest makes room for it.
    pub(super) fn verified(&mut self, uri: &str, value: T, now: Instant) {
        self.unverified.remove(uri);
        if let Some(kept) = self.verified.get_mut(uri) {
            kept.verified_at = now;
            return;
        }
        if self.verified.len() >= MOST_VERIFIED {
            evict(&mut self.verified, |kept| kept.verified_at);
        }
        self.verified.insert(uri.to_owned(), Kept { value, verified_at: now, used: self.uses });
    }

    /// Whether it has ever verified a token, as far as is known.
    pub(super) fn has_verified(&self, uri: &str) -> bool {
        self.verified.contains_key(uri)
    }
}

fn evict<T, A: Ord>(kept: &mut HashMap<String, Kept<T>>, age: impl Fn(&Kept<T>) -> A) {
    let oldest = kept.iter().min_by_key(|(_, kept)| age(kept)).map(|(uri, _)| uri.clone());
    if let Some(uri) = oldest {
        kept.remove(&uri);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn what_has_verified_is_never_pushed_out_by_what_never_did() {
        let mut places = Places::default();
        for n in 0..50 {
            places.get_or_insert(&format!("good{n}"), || n);
            places.verified(&format!("good{n}"), n, at(n));
        }
        for n in 0..10_000_u64 {
            places.get_or_insert(&format!("made-up{n}"), || n);
        }
        assert_eq!(places.unverified.len(), MOST_UNVERIFIED);
        for n in 0..50 {
            assert_eq!(places.get_or_insert(&format!("good{n}"), || 1_000_000), n);
        }
        assert_eq!(places.get_or_insert("made-up9999", || 7), 9999, "the newest are remembered");
        assert_eq!(places.get_or_insert("made-up0", || 7), 7);
    }

    #[test]
    fn of_those_that_have_verified_the_one_of_longest_ago_makes_room() {
        let mut places = Places::default();
        for n in 0..MOST_VERIFIED as u64 {
            places.verified(&format!("good{n}"), n, at(n));
        }
        places.verified("good0", 0, at(10_000));
        places.verified("late", 7, at(10_001));
        assert!(places.has_verified("good0") && places.has_verified("late"));
        assert!(!places.has_verified("good1"));
        assert_eq!(places.verified.len(), MOST_VERIFIED);
    }

    #[test]
    fn what_was_pushed_out_while_it_was_fetched_is_kept_once_it_verifies() {
        let mut places = Places::default();
        let held = places.get_or_insert("slow", || 5);
        for n in 0..MOST_UNVERIFIED {
            places.get_or_insert(&format!("made-up{n}"), || 0);
        }
        places.verified("slow", held, at(1));
        assert_eq!(places.get_or_insert("slow", || 0), 5);
    }
}
