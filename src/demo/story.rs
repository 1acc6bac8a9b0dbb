//! `obo-vault demo`: the vault at work, told on the terminal step by step, over
//! the real API and real sockets.
//!
//! [`tell`] is the story; a step that does not go as it should ends it with an
//! error. [`invite`] says what can be tried afterwards.
//!
//! In reading order:
//!
//! - `daily`: a tenant, a user, services that ask for tokens;
//! - `turning`: keys rotate while tokens refresh;
//! - `trouble`: a thief, a provider that wants more of the user;
//! - `end`: a purge, and the audit log of it all;
//! - `invitation`: commands to paste;
//! - `stage`: provider, vault and callers; `narrator`: what is printed.

use std::fmt;
use std::path::Path;

use crate::clock::{Clock as _, SystemClock};

mod daily;
mod end;
mod invitation;
mod narrator;
mod stage;
mod trouble;
mod turning;

pub use invitation::invite;
pub use stage::Stage;

use narrator::{Narrator, TITLE, good, say, wrapped};

/// Tells the story with all its files in `directory`. The stage is still up
/// afterwards.
///
/// # Errors
///
/// A step did not go as it should.
pub async fn tell(directory: &Path) -> Result<Stage, Broken> {
    let clock = SystemClock::new();
    let begun = clock.instant();
    let stage = Stage::open(directory).await?;
    open(&stage);

    let mut narrator = Narrator::new();
    narrator.step("An operator makes a tenant, contoso", daily::tenant(&stage)).await?;
    narrator
        .step("The web front end hands in ada's access token, on her behalf", daily::user(&stage))
        .await?;
    narrator.step("Two services ask for access tokens, each for its resource", daily::ask(&stage)).await?;
    narrator.step("They ask again: from memory, without the provider", daily::ask_again(&stage)).await?;
    narrator.step("A caller without the right is refused", daily::no_right(&stage)).await?;
    narrator.step("Forty more users are enrolled", turning::crowd(&stage)).await?;
    narrator.step("Keys rotate while tokens refresh", turning::rotate(&stage)).await?;
    narrator.step("A stolen copy of the databases opens nothing", trouble::thief(&stage)).await?;
    narrator.step("The provider wants MFA of ada: mail gets the claims", trouble::mfa(&stage)).await?;
    narrator.step("Ada signs in with MFA, and the front end exchanges again", trouble::back(&stage)).await?;
    narrator.step("The tenant is purged", end::purge(&stage)).await?;
    narrator.step("Nothing of contoso opens any more", end::nothing_opens(&stage)).await?;
    narrator.step("A new tenant, fabrikam, with a user, grace", end::new_tenant(&stage)).await?;
    narrator.step("The audit log of all this is verified", end::audit(&stage)).await?;

    let took = clock.instant().since(begun).as_secs_f64();
    good(&format!("All {} steps went as they should, in {took:.1} s.", narrator.steps()));
    Ok(stage)
}

fn open(stage: &Stage) {
    say("");
    wrapped(TITLE, "obo-vault at work, on loopback, with a provider and certificates of its own");
    say("");
    say(&format!("    provider  {}   each refresh token works once", stage.provider.issuer()));
    say(&format!("    vault     https://{}  gRPC with mutual TLS", stage.vault.address()));
    say(&format!("    files     {}, its log in vault.log", stage.files.directory().display()));
    say("");
}

/// A step did not go as it should.
#[derive(Debug)]
pub struct Broken(String);

impl Broken {
    fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }

    /// For errors that say why something failed, but not what.
    fn because<E: fmt::Display>(what: &str) -> impl FnOnce(E) -> Self {
        move |why| Self(format!("{what}: {why}"))
    }

    fn at(self, step: usize, title: &str) -> Self {
        Self(format!("step {step} ({title}): {}", self.0))
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// What must hold, in words for the case that it does not.
fn expect(holds: bool, what: impl Into<String>) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken::new(what)) }
}
