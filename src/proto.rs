//! The generated types of `proto/obovault/v1`. They stay at the border: only
//! `grpc` and `client` use them.

use std::fmt;

#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::disallowed_types,
    reason = "generated code; its documentation is in the .proto files"
)]
mod generated {
    tonic::include_proto!("obovault.v1");
}

pub use generated::*;

/// The descriptors of the whole API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/obovault.binpb"));

impl fmt::Debug for GetAccessTokenResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_token: _, token_type, expire_time, scopes, from_cache } = self;
        f.debug_struct("GetAccessTokenResponse")
            .field("token_type", token_type)
            .field("expire_time", expire_time)
            .field("scopes", scopes)
            .field("from_cache", from_cache)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ExchangeOnBehalfOfRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, user_access_token: _, scopes, resource, claims_challenge: _ } = self;
        f.debug_struct("ExchangeOnBehalfOfRequest")
            .field("client", client)
            .field("scopes", scopes)
            .field("resource", resource)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ImportGrantRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, subject, client, imported_token: _, scopes, resource } = self;
        f.debug_struct("ImportGrantRequest")
            .field("tenant", tenant)
            .field("subject", subject)
            .field("client", client)
            .field("scopes", scopes)
            .field("resource", resource)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_carry_tokens_do_not_print_them() {
        let printed = format!(
            "{:?} {:?} {:?}",
            GetAccessTokenResponse { access_token: "hunter2".into(), ..Default::default() },
            ExchangeOnBehalfOfRequest {
                user_access_token: "hunter2".into(),
                claims_challenge: "hunter2".into(),
                ..Default::default()
            },
            ImportGrantRequest { imported_token: "hunter2".into(), ..Default::default() },
        );
        assert!(!printed.contains("hunter2"), "{printed}");
    }
}
