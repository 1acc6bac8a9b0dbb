//! Secrets that cannot be printed. One type per kind; the only way in is
//! `new`, the only way out is `expose`, and memory is zeroed on drop.
//!
//! Invariant 1 of docs/ARCHITECTURE.md is kept here: none of these types has
//! `Display` or `Serialize`, and `Debug` prints the kind alone.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

macro_rules! secret {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Zeroize, ZeroizeOnDrop)]
        pub struct $type(Vec<u8>);

        impl $type {
            /// Takes the secret in.
            #[must_use]
            pub fn new(secret: String) -> Self {
                Self(secret.into_bytes())
            }

            /// Shows the secret. Every use is a place to review.
            #[must_use]
            pub fn expose(&self) -> &str {
                // Made from a `String` and never changed since.
                std::str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($type), "(redacted)"))
            }
        }
    };
}

secret!(
    /// A user's refresh token. Goes to its provider and nowhere else.
    RefreshToken
);
secret!(
    /// An access token. Leaves in one field of one answer; never on disk.
    AccessToken
);
secret!(
    /// A user's access token handed in for an exchange, not yet verified.
    UnverifiedAssertion
);
secret!(
    /// An ID token from a token endpoint, not yet verified.
    UnverifiedIdToken
);
secret!(
    /// An OAuth client's secret.
    ClientSecret
);

/// 32 bytes of an AES-256 key.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct KeyBytes([u8; 32]);

impl RefreshToken {
    /// The token in an opened value; `None` when it is no text.
    #[must_use]
    pub fn from_plain(plain: &Plaintext) -> Option<Self> {
        String::from_utf8(plain.expose().to_vec()).map(Self::new).ok()
    }
}

impl KeyBytes {
    /// Takes the bytes in.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Shows the bytes. Every use is a place to review.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(redacted)")
    }
}

/// Bytes that were opened, or are about to be sealed.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Plaintext(Vec<u8>);

impl Plaintext {
    /// Takes the bytes in.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Shows the bytes. Every use is a place to review.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_prints_itself() {
        let printed = format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            RefreshToken::new("hunter2".into()),
            AccessToken::new("hunter2".into()),
            UnverifiedAssertion::new("hunter2".into()),
            UnverifiedIdToken::new("hunter2".into()),
            ClientSecret::new("hunter2".into()),
            KeyBytes::new(*b"hunter2hunter2hunter2hunter2hunt"),
            Plaintext::new(b"hunter2".to_vec()),
        );
        assert!(!printed.contains("hunter2"), "{printed}");
        assert!(!printed.contains("104, 117"), "{printed}");
    }
}
