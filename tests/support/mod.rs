//! What several test binaries share. Each of them uses a part only, so unused
//! items are expected here.

#[expect(clippy::allow_attributes, reason = "which items are unused differs from binary to binary")]
#[allow(dead_code, reason = "which items are unused differs from binary to binary")]
pub(crate) mod oidc_provider;
