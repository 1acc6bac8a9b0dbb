//! The only place that makes randomness (invariant 7), all of it from the
//! kernel.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

/// The kernel gave no random bytes. Nothing can be sealed or sent without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntropyUnavailable;

impl fmt::Display for EntropyUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the kernel gave no random bytes")
    }
}

impl std::error::Error for EntropyUnavailable {}

/// A source of random bytes.
pub trait Entropy: Send + Sync + 'static {
    /// Fills `bytes`.
    ///
    /// # Errors
    ///
    /// When the kernel gives none; `bytes` must not be used then.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyUnavailable>;
}

/// A shared source.
pub type SharedEntropy = Arc<dyn Entropy>;

/// The kernel's random bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsEntropy;

impl OsEntropy {
    /// The kernel's random bytes, shared.
    #[must_use]
    pub fn shared() -> SharedEntropy {
        Arc::new(Self)
    }
}

impl Entropy for OsEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one home of ambient randomness")]
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyUnavailable> {
        getrandom::fill(bytes).map_err(|_| EntropyUnavailable)
    }
}

/// `N` random bytes.
///
/// # Errors
///
/// When the kernel gives none.
pub fn bytes<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N], EntropyUnavailable> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

/// A random UUID (RFC 9562 version 4).
///
/// # Errors
///
/// When the kernel gives no random bytes.
pub fn uuid(entropy: &dyn Entropy) -> Result<Uuid, EntropyUnavailable> {
    Ok(uuid::Builder::from_random_bytes(bytes(entropy)?).into_uuid())
}

/// A span between `low` and `high`, evenly spread.
///
/// # Errors
///
/// When the kernel gives no random bytes.
pub fn between(entropy: &dyn Entropy, low: Duration, high: Duration) -> Result<Duration, EntropyUnavailable> {
    let width = high.saturating_sub(low);
    let share = f64::from(u32::from_be_bytes(bytes(entropy)?)) / f64::from(u32::MAX);
    Ok(low + width.mul_f64(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same four bytes again and again.
    struct Same([u8; 4]);

    impl Entropy for Same {
        fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyUnavailable> {
            for (byte, same) in bytes.iter_mut().zip(self.0.iter().cycle()) {
                *byte = *same;
            }
            Ok(())
        }
    }

    struct Nothing;

    impl Entropy for Nothing {
        fn fill(&self, _bytes: &mut [u8]) -> Result<(), EntropyUnavailable> {
            Err(EntropyUnavailable)
        }
    }

    #[test]
    fn jitter_reaches_from_one_bound_to_the_other_and_no_further() {
        let (low, high) = (Duration::from_secs(3), Duration::from_secs(5));
        let drawn = |bytes: u32| between(&Same(bytes.to_be_bytes()), low, high).unwrap();
        assert_eq!((drawn(0), drawn(u32::MAX)), (low, high));
        let middle = drawn(u32::MAX / 2);
        assert!((Duration::from_millis(3999)..Duration::from_millis(4001)).contains(&middle), "{middle:?}");
        // Bounds that are one, or the wrong way round, leave nothing to draw.
        assert_eq!(between(&Same([9; 4]), low, low), Ok(low));
        assert_eq!(between(&Same([9; 4]), high, low), Ok(high));
        assert_eq!(between(&Nothing, low, high), Err(EntropyUnavailable));
    }

    #[test]
    fn what_the_kernel_gives_differs_from_draw_to_draw() {
        let draw = || between(&OsEntropy, Duration::ZERO, Duration::from_secs(3600)).unwrap();
        let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| draw()).collect();
        // Two of a hundred draws out of 2^32 are the same once in a million times.
        assert!(drawn.len() >= 98, "{} of 100 draws differ", drawn.len());
    }
}
