//! What a refusal tells its caller, and what every refusal must tell.

use std::time::Duration;

use obo_vault::domain::reason::Reason;
use obo_vault::grpc::status::{DOMAIN, meaning};
use obo_vault::proto::InteractionRequired;
use prost::Message as _;
use tonic::Code;
use tonic_types::StatusExt as _;

/// A refusal, taken apart.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub(crate) code: Code,
    pub(crate) reason: String,
    /// The RetryInfo.
    pub(crate) retry: Option<Duration>,
    pub(crate) request_id: String,
    /// The claims for the user's way back, where the user has to act.
    pub(crate) interaction: Option<InteractionRequired>,
    /// All that the caller can see of it.
    pub(crate) shown: String,
}

pub(crate) trait Refused {
    /// The refusal; panics when the call went well or its error lacks what
    /// every error has.
    fn refused(self) -> Refusal;
}

impl<T> Refused for Result<T, tonic::Status> {
    fn refused(self) -> Refusal {
        let Err(status) = self else { panic!("the call was not refused") };
        let info = status.get_details_error_info();
        let info = info.unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
        assert_eq!(info.domain, DOMAIN);
        let reason = Reason::ALL.into_iter().find(|reason| reason.as_str() == info.reason);
        let reason = reason.unwrap_or_else(|| panic!("{:?} is no stable reason", info.reason));
        // One reason, one code, one constant text.
        assert_eq!((status.code(), status.message()), meaning(reason));

        let details = tonic_types::pb::Status::decode(status.details()).unwrap().details;
        let interaction =
            details.iter().find(|any| any.type_url.ends_with("/obovault.v1.InteractionRequired"));
        Refusal {
            code: status.code(),
            reason: info.reason,
            retry: status.get_details_retry_info().and_then(|info| info.retry_delay),
            request_id: info.metadata.get("request_id").cloned().unwrap_or_default(),
            interaction: interaction.map(|any| InteractionRequired::decode(any.value.as_slice()).unwrap()),
            shown: format!("{status:?} {status} {}", String::from_utf8_lossy(status.details())),
        }
    }
}
