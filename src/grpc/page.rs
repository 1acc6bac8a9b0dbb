//! Page tokens: where a listing goes on, authenticated so that a token of one
//! listing cannot be used in another, nor made up.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::domain::failure::Failure;
use crate::domain::reason::Reason;

const TAG_BYTES: usize = 16;

/// The key of page tokens.
#[derive(Clone)]
pub struct Pages {
    key: [u8; 16],
}

impl std::fmt::Debug for Pages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pages(redacted)")
    }
}

impl Pages {
    /// A key that stays the same over restarts, so that listings go on.
    #[must_use]
    pub fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The token of a listing (its kind and filters) and a place in it.
    pub(super) fn seal(&self, listing: &[&str], place: &[&str]) -> String {
        let place = place.join("\n");
        let mut token = self.mac(listing, &place).finalize().into_bytes()[..TAG_BYTES].to_vec();
        token.extend_from_slice(place.as_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// The place in the token, when it is one of this listing.
    pub(super) fn open(&self, listing: &[&str], token: &str) -> Result<Vec<String>, Failure> {
        let invalid = || Failure::new(Reason::PageTokenInvalid, "not a page token of this listing");
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| invalid())?;
        let (tag, place) = bytes.split_at_checked(TAG_BYTES).ok_or_else(invalid)?;
        let place = std::str::from_utf8(place).map_err(|_| invalid())?;
        self.mac(listing, place).verify_truncated_left(tag).map_err(|_| invalid())?;
        Ok(place.split('\n').map(str::to_owned).collect())
    }

    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    fn mac(&self, listing: &[&str], place: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).expect("HMAC takes a key of any length");
        mac.update(b"obo-vault page token\n");
        for part in listing {
            mac.update(part.as_bytes());
            mac.update(b"\n");
        }
        mac.update(b"\n");
        mac.update(place.as_bytes());
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_in_its_own_listing() {
        let pages = Pages::new([7; 16]);
        let token = pages.seal(&["grants", "acme", ""], &["mail", "user"]);
        assert_eq!(pages.open(&["grants", "acme", ""], &token).unwrap(), ["mail", "user"]);
        assert!(pages.open(&["grants", "other", ""], &token).is_err());
        assert!(pages.open(&["grants", "acme", "mail"], &token).is_err());
        assert!(Pages::new([8; 16]).open(&["grants", "acme", ""], &token).is_err());
        for bad in ["", "x", "AAAA", &"A".repeat(100), &format!("{token}A")] {
            assert!(pages.open(&["grants", "acme", ""], bad).is_err(), "{bad} was accepted");
        }
    }
}
