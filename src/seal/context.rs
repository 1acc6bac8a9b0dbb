//! What a ciphertext is bound to. A value's place is written down as bytes
//! that every other place differs in; the cipher authenticates them (AAD), so
//! a value that was moved, swapped or relabelled does not open.
//!
//! Every text is preceded by its length, so that no two places share their
//! bytes however their texts are cut (docs/SEALED-FORMAT.md, "Place").

use crate::domain::grant::{Generation, Grant, GrantId, GrantKey};
use crate::domain::id::{ClientId, Issuer, SubjectId, TenantId};
use crate::domain::key::{KeyId, KeyVersion};

use super::envelope::{self, RootKeyId};

/// The kind of a sealed value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Label {
    /// A grant's refresh token.
    RefreshToken,
    /// A provider's raw answer, kept until its commit 2.
    ProviderAnswer,
}

impl Label {
    /// The text in the AAD. Never changed: old values would not open.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefreshToken => "obo-vault/refresh-token",
            Self::ProviderAnswer => "obo-vault/provider-answer",
        }
    }
}

/// The place of a value sealed under a tenant's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// What kind of value it is.
    pub label: Label,
    /// Who issued the grant.
    pub issuer: Issuer,
    /// Whose key seals it.
    pub tenant: TenantId,
    /// The grant's client.
    pub client: ClientId,
    /// The grant's user.
    pub subject: SubjectId,
    /// The grant.
    pub grant: GrantId,
    /// The generation of the refresh token; of an answer, the generation that
    /// was redeemed, or the one an enrolment will have.
    pub generation: Generation,
}

impl Place {
    /// The place of the grant's refresh token of this generation.
    #[must_use]
    pub fn of_token(grant: &Grant, generation: Generation) -> Self {
        Self::new(Label::RefreshToken, grant.id, &grant.key, &grant.issuer, generation)
    }

    /// The place of the raw answer to redeeming this generation.
    #[must_use]
    pub fn of_answer(grant: &Grant, generation: Generation) -> Self {
        Self::new(Label::ProviderAnswer, grant.id, &grant.key, &grant.issuer, generation)
    }

    /// A place from its parts, for an enrolment, which has no grant yet.
    #[must_use]
    pub fn new(
        label: Label,
        grant: GrantId,
        key: &GrantKey,
        issuer: &Issuer,
        generation: Generation,
    ) -> Self {
        Self {
            label,
            issuer: issuer.clone(),
            tenant: key.tenant.clone(),
            client: key.client.clone(),
            subject: key.subject.clone(),
            grant,
            generation,
        }
    }

    /// The additional authenticated data of a value sealed for this place
    /// under this key version.
    #[must_use]
    pub fn aad(&self, version: KeyVersion) -> Vec<u8> {
        // Destructured, so that a new coordinate cannot be forgotten here.
        let Self { label, issuer, tenant, client, subject, grant, generation } = self;
        let mut aad = Vec::with_capacity(256);
        push_text(&mut aad, label.as_str());
        aad.push(envelope::FORMAT);
        push_text(&mut aad, issuer.as_str());
        push_text(&mut aad, tenant.as_str());
        push_text(&mut aad, client.as_str());
        push_text(&mut aad, subject.as_str());
        aad.extend_from_slice(grant.0.as_bytes());
        aad.extend_from_slice(&generation.0.to_be_bytes());
        aad.extend_from_slice(&version.0.to_be_bytes());
        aad
    }
}

/// The place of a tenant's key wrapped under a root key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPlace {
    /// The root key that wraps it.
    pub root: RootKeyId,
    /// Whose key it is.
    pub tenant: TenantId,
    /// Which version of that tenant's key.
    pub version: KeyVersion,
    /// The key's identifier.
    pub key_id: KeyId,
}

impl KeyPlace {
    /// The text that begins the AAD of every wrapped key.
    pub const LABEL: &'static str = "obo-vault/tenant-key";

    /// The additional authenticated data of a key wrapped for this place.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        let Self { root, tenant, version, key_id } = self;
        let mut aad = Vec::with_capacity(128);
        push_text(&mut aad, Self::LABEL);
        aad.push(envelope::WRAPPED_FORMAT);
        aad.extend_from_slice(&root.0);
        push_text(&mut aad, tenant.as_str());
        aad.extend_from_slice(&version.0.to_be_bytes());
        aad.extend_from_slice(&key_id.0);
        aad
    }
}

/// Appends a text after its length in 8 bytes, which no length exceeds.
fn push_text(aad: &mut Vec<u8>, text: &str) {
    let length = u64::try_from(text.len()).unwrap_or(u64::MAX);
    aad.extend_from_slice(&length.to_be_bytes());
    aad.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn place(issuer: &str, tenant: &str, client: &str, subject: &str) -> Place {
        Place {
            label: Label::RefreshToken,
            issuer: Issuer::new(issuer).unwrap(),
            tenant: TenantId::new(tenant).unwrap(),
            client: ClientId::new(client).unwrap(),
            subject: SubjectId::new(subject).unwrap(),
            grant: GrantId(Uuid::nil()),
            generation: Generation(0),
        }
    }

    /// Moving a character over a border between two texts changes the bytes.
    /// Without the lengths each of these pairs would be one place.
    #[test]
    fn texts_cut_elsewhere_are_another_place() {
        let version = KeyVersion::FIRST;
        let pairs = [
            (place("i", "ab", "c", "s"), place("i", "a", "bc", "s")),
            (place("i", "t", "cs", "u"), place("i", "t", "c", "su")),
            (place("https://a", "b", "c", "s"), place("https://", "ab", "c", "s")),
        ];
        for (one, other) in pairs {
            let texts = |p: &Place| {
                [p.issuer.as_str(), p.tenant.as_str(), p.client.as_str(), p.subject.as_str()].concat()
            };
            assert_eq!(texts(&one), texts(&other), "the pair must be ambiguous without lengths");
            assert_ne!(one.aad(version), other.aad(version));
        }
    }

    /// A place is read back from its bytes in one way only, so two places
    /// cannot share them.
    #[test]
    fn the_bytes_of_a_place_read_back_in_one_way() {
        let place = place("https://idp.example", "contoso", "portal", "é|user");
        let aad = place.aad(KeyVersion(7));
        let mut rest = &aad[..];
        let mut text = |with_format: bool| {
            let (length, after) = rest.split_first_chunk::<8>().unwrap();
            let (text, after) = after.split_at(usize::try_from(u64::from_be_bytes(*length)).unwrap());
            rest = if with_format { after.strip_prefix(&[1]).unwrap() } else { after };
            std::str::from_utf8(text).unwrap()
        };
        assert_eq!(text(true), "obo-vault/refresh-token");
        assert_eq!(text(false), "https://idp.example");
        assert_eq!(text(false), "contoso");
        assert_eq!(text(false), "portal");
        assert_eq!(text(false), "é|user");
        assert_eq!(rest, [&[0; 16][..], &[0; 8], &[0, 0, 0, 7]].concat());
    }
}
