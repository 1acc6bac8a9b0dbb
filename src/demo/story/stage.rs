//! Where the story takes place: the provider, the vault, and the callers with
//! their certificates.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::app::Ambient;
use crate::client::{self, Client};
use crate::clock::{Clock as _, ShiftedClock, SystemClock};
use crate::demo::provider::{DevProvider, Options, UserClaims};
use crate::demo::stand::{Files, ROLES, RunningVault, Settings, Upstream};
use crate::entropy::OsEntropy;
use crate::proto::{
    DescribeGrantRequest, DescribeTenantKeysRequest, DescribeTenantKeysResponse, ExchangeOnBehalfOfRequest,
    GetAccessTokenRequest, GetAccessTokenResponse, Grant, InteractionRequired,
};

use super::Broken;
use super::narrator::millis;

/// The tenant of most of the story.
pub(super) const CONTOSO: &str = "contoso";
/// The user of most of the story.
pub(super) const ADA: &str = "ada";
/// The services that use tokens, and the resources they use them at.
pub(super) const SERVICES: [Service; 2] = [
    Service { caller: "mail", resource: "https://mail.example", scope: "mail.read" },
    Service { caller: "files", resource: "https://files.example", scope: "files.read" },
];

/// Who may do what: each service gets tokens for its own resource only, and no
/// role has the rights of another.
const POLICY: &str = r#"
permit (principal == Caller::"spiffe://stand/mail", action == Action::"GetAccessToken", resource)
    when { context.client == "portal" && !context.scopes.isEmpty() && ["mail.read"].containsAll(context.scopes)
           && context has resource && context.resource == "https://mail.example" };
permit (principal == Caller::"spiffe://stand/files", action == Action::"GetAccessToken", resource)
    when { context.client == "portal" && !context.scopes.isEmpty() && ["files.read"].containsAll(context.scopes)
           && context has resource && context.resource == "https://files.example" };
permit (principal == Caller::"spiffe://stand/web", action in Action::"intake", resource);
permit (principal == Caller::"spiffe://stand/operator", action in Action::"manage", resource);
permit (principal == Caller::"spiffe://stand/auditor", action in Action::"inspect", resource);
permit (principal == Caller::"spiffe://stand/rotator", action in Action::"rotate", resource);
permit (principal == Caller::"spiffe://stand/purger", action in Action::"purge", resource);
"#;

/// A service and what it needs tokens for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Service {
    pub(super) caller: &'static str,
    pub(super) resource: &'static str,
    pub(super) scope: &'static str,
}

/// The running provider and the running vault.
#[derive(Debug)]
pub struct Stage {
    pub(super) provider: DevProvider,
    pub(super) files: Files,
    pub(super) vault: RunningVault,
    clock: Arc<ShiftedClock>,
    callers: HashMap<&'static str, Client>,
    /// Every access token handed out so far; none may turn up on the disk.
    handed_out: Mutex<Vec<String>>,
}

impl Stage {
    /// Starts the provider and the vault, with all their files in `directory`.
    pub(super) async fn open(directory: &Path) -> Result<Self, Broken> {
        let clock = Arc::new(ShiftedClock::new());
        let provider = DevProvider::start(Options::default(), clock.clone(), OsEntropy::shared()).await;
        let provider = provider.map_err(Broken::because("the provider cannot start"))?;
        let files = Files::create(directory, &Upstream::of(&provider), &settings(), 0);
        let files = files.map_err(Broken::because("the vault's files cannot be made"))?;
        let vault = start(&files, &clock).await?;
        let mut callers = HashMap::new();
        for caller in ROLES {
            callers.insert(caller, connect(&vault, &files, caller).await?);
        }
        Ok(Self { provider, files, vault, clock, callers, handed_out: Mutex::default() })
    }

    /// Stops both.
    ///
    /// # Errors
    ///
    /// The vault did not stop cleanly.
    pub async fn close(self) -> Result<(), Broken> {
        drop(self.callers);
        self.vault.stop().await.map_err(Broken::because("the vault did not stop cleanly"))?;
        self.provider.stop().await;
        Ok(())
    }

    /// The connection of a caller.
    pub(super) fn caller(&self, name: &str) -> Result<Client, Broken> {
        self.callers.get(name).cloned().ok_or_else(|| Broken::new(format!("there is no caller {name}")))
    }

    /// Moves the clock of provider and vault ahead.
    pub(super) fn pass_time(&self, span: Duration) {
        self.clock.advance(span);
    }

    /// How far that clock is ahead of the machine's.
    pub(super) fn ahead(&self) -> Duration {
        self.clock.now().since(SystemClock::new().now())
    }

    /// A second vault, over the files of somebody else.
    pub(super) async fn another_vault(&self, directory: &Path) -> Result<(Files, RunningVault), Broken> {
        let files = Files::create(directory, &Upstream::of(&self.provider), &settings(), 0);
        let files = files.map_err(Broken::because("the other vault's files cannot be made"))?;
        let vault = start(&files, &self.clock).await?;
        Ok((files, vault))
    }

    /// The front end hands in a user's access token.
    pub(super) async fn exchange(&self, tenant: &str, user: &str) -> Result<Grant, Broken> {
        let request = self.exchange_request(tenant, user);
        let answer = self.caller("web")?.grants.exchange_on_behalf_of(request).await?.into_inner();
        answer.grant.ok_or_else(|| Broken::new("the answer of the exchange has no grant"))
    }

    pub(super) fn exchange_request(&self, tenant: &str, user: &str) -> ExchangeOnBehalfOfRequest {
        let claims = UserClaims { tenant: Some(tenant.to_owned()), ..UserClaims::default() };
        ExchangeOnBehalfOfRequest {
            client: "portal".into(),
            user_access_token: self.provider.user_token_with(user, claims),
            scopes: SERVICES.iter().map(|service| service.scope.to_owned()).collect(),
            ..Default::default()
        }
    }

    /// A service asks for an access token.
    pub(super) async fn token(&self, tenant: &str, user: &str, service: Service) -> Result<Asked, Broken> {
        let mut client = self.caller(service.caller)?;
        let clock = SystemClock::new();
        let begun = clock.instant();
        let answer = client.tokens.get_access_token(token_request(tenant, user, service)).await?;
        let took = clock.instant().since(begun);
        let answer = answer.into_inner();
        let mut handed_out = self.handed_out.lock().unwrap_or_else(PoisonError::into_inner);
        handed_out.push(answer.access_token.clone());
        Ok(Asked { service, answer, took })
    }

    /// The access tokens handed out so far.
    pub(super) fn handed_out(&self) -> Vec<String> {
        self.handed_out.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the vault knows of a user's grant.
    pub(super) async fn grant(&self, tenant: &str, user: &str) -> Result<Grant, Broken> {
        let request =
            DescribeGrantRequest { tenant: tenant.into(), subject: user.into(), client: "portal".into() };
        let answer = self.caller("auditor")?.grants.describe_grant(request).await?.into_inner();
        answer.grant.ok_or_else(|| Broken::new("the description has no grant"))
    }

    /// The versions of a tenant's key and what they seal.
    pub(super) async fn usage(&self, tenant: &str) -> Result<DescribeTenantKeysResponse, Broken> {
        let request = DescribeTenantKeysRequest { tenant: tenant.into() };
        Ok(self.caller("auditor")?.tenants.describe_tenant_keys(request).await?.into_inner())
    }
}

fn settings() -> Settings {
    let usual = Settings::default();
    Settings {
        policy: POLICY.to_owned(),
        // Slow enough that the rotation can be watched.
        profile: format!("{}\nrequests_per_second = 40", usual.profile),
        ..usual
    }
}

async fn start(files: &Files, clock: &Arc<ShiftedClock>) -> Result<RunningVault, Broken> {
    let ambient = Ambient { clock: clock.clone(), entropy: OsEntropy::shared() };
    RunningVault::start(files, ambient).await.map_err(Broken::because("the vault cannot start"))
}

pub(super) async fn connect(vault: &RunningVault, files: &Files, caller: &str) -> Result<Client, Broken> {
    vault.client(files, caller).await.map_err(Broken::because("the vault cannot be reached"))
}

pub(super) fn token_request(tenant: &str, user: &str, service: Service) -> GetAccessTokenRequest {
    GetAccessTokenRequest {
        tenant: tenant.into(),
        subject: user.into(),
        client: "portal".into(),
        scopes: vec![service.scope.into()],
        resource: service.resource.into(),
        ..Default::default()
    }
}

/// An access token that a service got.
#[derive(Debug)]
pub(super) struct Asked {
    service: Service,
    pub(super) answer: GetAccessTokenResponse,
    took: Duration,
}

impl Asked {
    /// One line; of the token its length and the beginning of its hash.
    pub(super) fn line(&self) -> String {
        let Service { caller, resource, scope: _ } = self.service;
        let from = if self.answer.from_cache { "memory" } else { "provider" };
        let token = &self.answer.access_token;
        let print = Sha256::digest(token.as_bytes());
        let print: String = print.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let (took, bytes) = (millis(self.took), token.len());
        format!("{caller:5}  {resource:21}  {from:8} {took:>8}  {bytes} bytes sha256:{print}…")
    }
}

/// How the vault refused.
#[derive(Debug)]
pub(super) struct Refusal {
    code: Code,
    reason: String,
    pub(super) interaction: Option<InteractionRequired>,
}

impl Refusal {
    /// The code and the stable reason, as they are on the wire.
    pub(super) fn words(&self) -> String {
        // The names of the codes as gRPC writes them.
        let code = match self.code {
            Code::PermissionDenied => "PERMISSION_DENIED",
            Code::FailedPrecondition => "FAILED_PRECONDITION",
            Code::Unavailable => "UNAVAILABLE",
            other => other.description(),
        };
        format!("{code}, {}", self.reason)
    }
}

/// What should be refused, and for that reason.
#[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
pub(super) fn refused<T>(
    answer: Result<tonic::Response<T>, tonic::Status>,
    reason: &str,
) -> Result<Refusal, Broken> {
    let Err(status) = answer else {
        return Err(Broken::new(format!("the vault should have refused with {reason} and did not")));
    };
    let found = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    if found == reason {
        let interaction = client::interaction(status.details());
        Ok(Refusal { code: status.code(), reason: found, interaction })
    } else {
        Err(Broken::new(format!(
            "the vault should have refused with {reason}, but: {}",
            Broken::from(status)
        )))
    }
}

#[expect(clippy::disallowed_types, reason = "reads the vault's answer; makes none")]
impl From<tonic::Status> for Broken {
    fn from(status: tonic::Status) -> Self {
        let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
        Self::new(format!("the vault answered {:?} {reason}: {}", status.code(), status.message()))
    }
}
