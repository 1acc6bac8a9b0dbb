//! What a full memory of access tokens takes.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use obo_vault::clock::{Clock as _, SystemClock};
use obo_vault::domain::grant::{Generation, GrantKey};
use obo_vault::domain::id::{CallerId, ClientId, SubjectId, TenantId};
use obo_vault::domain::scope::{ScopeSet, Target};
use obo_vault::redeem::cache::{IssuedToken, Limits, TokenCache};
use obo_vault::secret::AccessToken;

use crate::bed::TOKEN_BYTES;
use crate::{Scale, print_table};

pub(crate) fn run(scale: Scale) {
    let limits = Limits::default();
    let cache = TokenCache::new(limits);
    let before = resident_bytes();
    let (now, caller) = (SystemClock::new().both(), CallerId::new("spiffe://acme/mail").unwrap());
    let (tenant, client) = (TenantId::new("contoso").unwrap(), ClientId::new("portal").unwrap());
    for n in 0..scale.remembered {
        let subject = SubjectId::new(&format!("8d2c51c6-0000-4000-8000-{n:012}")).unwrap();
        let key = GrantKey { tenant: tenant.clone(), client: client.clone(), subject };
        let scopes = ScopeSet::new(["mail.read"]).unwrap();
        let token = IssuedToken {
            token: AccessToken::new("a".repeat(TOKEN_BYTES)),
            token_type: "Bearer".to_owned(),
            expires: now.deadline(Duration::from_secs(3600)),
            lifetime: Duration::from_secs(3600),
            refresh: now.deadline(Duration::from_secs(1800)),
            scopes: scopes.clone(),
            generation: Generation(1),
            tenant_epoch: 1,
        };
        cache.insert(&key, Target { scopes, ..Target::default() }, &caller, Arc::new(token), now);
    }
    let counted = cache.bytes();
    assert!(counted <= limits.max_bytes, "the memory is larger than configured");
    let grown = before.zip(resident_bytes()).map(|(before, after)| after.saturating_sub(before));
    let mebibytes = |bytes: u64| format!("{}", bytes >> 20);
    print_table(
        &format!("Memory: {} access tokens of {TOKEN_BYTES} bytes", scale.remembered),
        &["MiB"],
        &[
            ("configured bound".to_owned(), vec![mebibytes(limits.max_bytes)]),
            ("as the vault counts it".to_owned(), vec![mebibytes(counted)]),
            ("growth of the process".to_owned(), vec![grown.map_or_else(|| "-".to_owned(), mebibytes)]),
        ],
    );
}

/// Bytes of this process in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok().map(|kib| kib * 1024)
}
