//! The request pipeline over gRPC. Generated types, connections and statuses stay
//! here; what a request goes through is [`crate::pipeline`].
//!
//! In reading order:
//!
//! - [`tokens`], [`grants`], [`tenants`], [`rotations`]: one file per service,
//!   a few lines per RPC;
//! - `context`: who is at the other end of a call;
//! - [`convert`]: generated types to checked ones and back;
//! - [`status`]: reasons to statuses, the only place that makes one;
//! - [`deadline`]: calls whose deadline passes;
//! - [`page`]: page tokens;
//! - [`listen`]: connections: TLS, and who is at the other end; `places`: who
//!   has one; `serve`: its calls and its end; `unfinished`: requests that have
//!   not arrived; [`limits`]: their bounds.

use std::sync::Arc;

use tonic::service::Routes;
use tower::Layer as _;

use crate::proto;

mod context;
pub mod convert;
pub mod deadline;
pub mod grants;
pub mod limits;
pub mod listen;
pub mod page;
mod places;
pub mod rotations;
mod serve;
pub mod status;
pub mod tenants;
pub mod tokens;
mod unfinished;

use crate::pipeline::Pipeline;
use page::Pages;

/// What is served.
#[derive(Debug, Clone)]
pub struct Services {
    /// Access tokens.
    pub token: crate::token::TokenService,
    /// Grants.
    pub grant: crate::grant::GrantService,
    /// Tenants and keys.
    pub tenant: crate::tenant::TenantService,
    /// The rotation job.
    pub rotation: crate::rotation::RotationService,
}

/// How the API is served.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Largest request taken, in bytes.
    pub max_message_bytes: usize,
    /// Whether reflection is served.
    pub reflection: bool,
    /// Whether a tenant is made at the first enrolment of one of its users.
    pub create_tenant_at_enrolment: bool,
}

/// The API as one service.
pub type Api = deadline::Deadline<status::Describe<Routes>>;

/// The API, and the switch of its health service.
///
/// # Errors
///
/// When the embedded descriptors cannot be served; a defect.
pub fn api(
    pipeline: &Arc<Pipeline>,
    services: Services,
    pages: &Pages,
    options: Options,
) -> Result<(Api, tonic_health::server::HealthReporter), tonic_reflection::server::Error> {
    let Services { token, grant, tenant, rotation } = services;
    let limit = options.max_message_bytes;
    let tokens = tokens::Tokens { pipeline: Arc::clone(pipeline), service: token };
    let grants = grants::Grants {
        pipeline: Arc::clone(pipeline),
        pages: pages.clone(),
        service: grant,
        tenants: options.create_tenant_at_enrolment.then(|| tenant.clone()),
    };
    let tenants = tenants::Tenants { pipeline: Arc::clone(pipeline), pages: pages.clone(), service: tenant };
    let rotations = rotations::Rotations { pipeline: Arc::clone(pipeline), service: rotation };
    let (health, health_service) = tonic_health::server::health_reporter();

    let mut routes = Routes::new(health_service.max_decoding_message_size(limit))
        .add_service(
            proto::token_service_server::TokenServiceServer::new(tokens).max_decoding_message_size(limit),
        )
        .add_service(
            proto::grant_service_server::GrantServiceServer::new(grants).max_decoding_message_size(limit),
        )
        .add_service(
            proto::tenant_service_server::TenantServiceServer::new(tenants).max_decoding_message_size(limit),
        )
        .add_service(
            proto::rotation_service_server::RotationServiceServer::new(rotations)
                .max_decoding_message_size(limit),
        );
    if options.reflection {
        let described = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        routes = routes
            .add_service(described().build_v1()?.max_decoding_message_size(limit))
            .add_service(described().build_v1alpha()?.max_decoding_message_size(limit));
    }
    let api = deadline::DeadlineLayer.layer(status::DescribeLayer.layer(routes.prepare()));
    Ok((api, health))
}
