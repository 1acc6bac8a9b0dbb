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
//! - [`listen`]: connections: TLS, and who is at the other end.

use std::sync::Arc;

use tonic::transport::Server;
use tonic::transport::server::Router;
use tower::layer::util::{Identity, Stack};

use crate::proto;

mod context;
pub mod convert;
pub mod deadline;
pub mod grants;
pub mod listen;
pub mod page;
pub mod rotations;
pub mod status;
pub mod tenants;
pub mod tokens;

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

type Layers = Stack<status::DescribeLayer, Stack<deadline::DeadlineLayer, Identity>>;

/// The API as a router, and the switch of its health service.
///
/// # Errors
///
/// When the embedded descriptors cannot be served; a defect.
pub fn router(
    pipeline: &Arc<Pipeline>,
    services: Services,
    pages: &Pages,
    options: Options,
) -> Result<(Router<Layers>, tonic_health::server::HealthReporter), tonic_reflection::server::Error> {
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

    let (reflection, reflection_alpha) = if options.reflection {
        let v1 = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let alpha = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1alpha()?;
        (Some(v1), Some(alpha))
    } else {
        (None, None)
    };

    let router = Server::builder()
        .layer(deadline::DeadlineLayer)
        .layer(status::DescribeLayer)
        .add_service(health_service)
        .add_optional_service(reflection)
        .add_optional_service(reflection_alpha)
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
    Ok((router, health))
}
