//! The key store: wrapped tenant keys in a file of their own.

use std::path::Path;

use async_trait::async_trait;
use rusqlite::{OptionalExtension as _, Result, Row};
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::domain::id::TenantId;
use crate::domain::key::{KeyId, KeyState, KeyVersion, KeyVersionInfo};
use crate::store::{KeyRecord, KeyStanding, KeyStore, Mark, StoreError};

use super::db::{Connection, Db};
use super::{rows, schema};

/// Wrapped tenant keys in one SQLite file.
#[derive(Debug)]
pub struct SqliteKeyStore {
    pub(super) db: Db,
}

impl SqliteKeyStore {
    /// Opens the file, makes it when it is not there (mode 0600), and locks out
    /// other processes.
    ///
    /// # Errors
    ///
    /// As [`super::SqliteStore::open`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { db: Db::open(path, &schema::KEYS, None)? })
    }
}

#[async_trait]
impl KeyStore for SqliteKeyStore {
    async fn insert(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        key_id: KeyId,
        wrapped: &[u8],
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        let (tenant, wrapped) = (tenant.clone(), wrapped.to_owned());
        let insert = move |c: &Connection| {
            // A purged tenant gets no key again, whatever a caller believes.
            c.prepare_cached(
                "INSERT OR IGNORE INTO tenant_key (tenant, version, key_id, state, created_at, seals_reserved, wrapped)
                 SELECT ?1, ?2, ?3, 'PRE_ACTIVE', ?4, 0, ?5
                 WHERE NOT EXISTS (SELECT 1 FROM tombstone WHERE tenant = ?1)",
            )?
            .execute((tenant.as_str(), version.0, key_id.0, at.0, &wrapped))?;
            // Also when it was there before: its acknowledgement was lost.
            c.prepare_cached(
                "SELECT 1 FROM tenant_key WHERE tenant = ?1 AND version = ?2 AND key_id = ?3 AND wrapped = ?4",
            )?
            .exists((tenant.as_str(), version.0, key_id.0, &wrapped))
        };
        self.db.write("insert key", insert).await
    }

    async fn keys(&self, tenant: &TenantId) -> Result<Vec<KeyRecord>, StoreError> {
        let tenant = tenant.clone();
        self.db
            .read("list keys", move |c| {
                c.prepare_cached("SELECT * FROM tenant_key WHERE tenant = ?1 ORDER BY version")?
                    .query_map([tenant.as_str()], record)?
                    .collect()
            })
            .await
    }

    async fn key(&self, tenant: &TenantId, version: KeyVersion) -> Result<Option<KeyRecord>, StoreError> {
        let tenant = tenant.clone();
        self.db
            .read("find key", move |c| {
                c.prepare_cached("SELECT * FROM tenant_key WHERE tenant = ?1 AND version = ?2")?
                    .query_row((tenant.as_str(), version.0), record)
                    .optional()
            })
            .await
    }

    async fn activate(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("activate key", move |c| {
                c.prepare_cached(
                    "UPDATE tenant_key SET state = 'DEACTIVATED'
                     WHERE tenant = ?1 AND version < ?2 AND state IN ('ACTIVE', 'PRE_ACTIVE')",
                )?
                .execute((tenant.as_str(), version.0))?;
                c.prepare_cached(
                    "UPDATE tenant_key SET state = 'ACTIVE'
                     WHERE tenant = ?1 AND version = ?2 AND state = 'PRE_ACTIVE'",
                )?
                .execute((tenant.as_str(), version.0))?;
                Ok(())
            })
            .await
    }

    async fn reserve_seals(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        count: u64,
    ) -> Result<u64, StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("reserve seals", move |c| {
                c.prepare_cached(
                    "UPDATE tenant_key SET seals_reserved = seals_reserved + ?3
                     WHERE tenant = ?1 AND version = ?2 RETURNING seals_reserved",
                )?
                .query_row((tenant.as_str(), version.0, count), |row| row.get(0))
            })
            .await
    }

    async fn destroy(&self, tenant: &TenantId, version: KeyVersion) -> Result<(), StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("destroy key", move |c| {
                overwrite(c, "tenant = ?1 AND version = ?2", (tenant.as_str(), version.0))
            })
            .await
    }

    async fn destroy_tenant(&self, tenant: &TenantId, at: Timestamp) -> Result<u32, StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("destroy tenant's keys", move |c| {
                c.prepare_cached("INSERT OR IGNORE INTO tombstone VALUES (?1, ?2)")?
                    .execute((tenant.as_str(), at.0))?;
                overwrite(c, "tenant = ?1", [tenant.as_str()])?;
                c.prepare_cached("SELECT count(*) FROM tenant_key WHERE tenant = ?1")?
                    .query_row([tenant.as_str()], |row| row.get(0))
            })
            .await
    }

    async fn remove_unused(&self, tenant: &TenantId) -> Result<(), StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("remove unused keys", move |c| {
                overwrite(c, "tenant = ?1", [tenant.as_str()])?;
                c.prepare_cached(
                    "DELETE FROM tenant_key WHERE tenant = ?1
                     AND NOT EXISTS (SELECT 1 FROM tombstone WHERE tombstone.tenant = tenant_key.tenant)",
                )?
                .execute([tenant.as_str()])
                .map(drop)
            })
            .await
    }

    async fn tombstones(&self) -> Result<Vec<TenantId>, StoreError> {
        self.db
            .read("list tombstones", |c| {
                c.prepare_cached("SELECT tenant FROM tombstone ORDER BY tenant")?
                    .query_map([], |row| rows::name(row, "tenant", TenantId::new))?
                    .collect()
            })
            .await
    }

    async fn note_unused(
        &self,
        tenant: &TenantId,
        version: KeyVersion,
        since: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let tenant = tenant.clone();
        self.db
            .write("note the use of a key", move |c| {
                c.prepare_cached(
                    "UPDATE tenant_key SET unused_since = ?3 WHERE tenant = ?1 AND version = ?2",
                )?
                .execute((tenant.as_str(), version.0, since.map(|at| at.0)))
                .map(drop)
            })
            .await
    }

    async fn standing(&self) -> Result<KeyStanding, StoreError> {
        self.db.read("read the vault's identity", standing).await
    }

    async fn adopt(&self, vault: Uuid) -> Result<(), StoreError> {
        self.db
            .write("adopt the key store", move |c| {
                c.prepare_cached(
                    "INSERT INTO vault (only, id) VALUES (1, ?1)
                     ON CONFLICT (only) DO UPDATE SET id = ?1, mark = NULL, proof = NULL WHERE id <> ?1",
                )?
                .execute([vault.as_bytes()])
                .map(drop)
            })
            .await
    }

    async fn set_mark(&self, mark: Mark) -> Result<(), StoreError> {
        self.db
            .write("set the mark", move |c| {
                c.prepare_cached("UPDATE vault SET mark = ?1, proof = ?2 WHERE mark IS NULL OR mark <= ?1")?
                    .execute((mark.counter, mark.proof))
                    .map(drop)
            })
            .await
    }

    async fn erase_deleted(&self) -> Result<bool, StoreError> {
        self.db.truncate_log().await
    }
}

fn standing(c: &Connection) -> Result<KeyStanding> {
    let known = c
        .prepare_cached("SELECT id, mark, proof FROM vault")?
        .query_row([], |row| {
            let (counter, proof) =
                (row.get::<_, Option<u64>>("mark")?, row.get::<_, Option<[u8; 32]>>("proof")?);
            let mark = counter.zip(proof).map(|(counter, proof)| Mark { counter, proof });
            Ok((rows::uuid(row, "id")?, mark))
        })
        .optional()?;
    let has_any =
        c.prepare_cached("SELECT 1 FROM tenant_key UNION ALL SELECT 1 FROM tombstone")?.exists([])?;
    let (vault, mark) = known.map_or((None, None), |(id, mark)| (Some(id), mark));
    Ok(KeyStanding { vault, is_empty: !has_any, mark })
}

/// Zeroes the wrapped bytes in place, then drops them. `secure_delete` zeroes
/// the freed cells as well; the log keeps both until it is truncated.
fn overwrite(c: &Connection, which: &'static str, params: impl rusqlite::Params + Copy) -> Result<()> {
    c.prepare_cached(&format!(
        "UPDATE tenant_key SET wrapped = zeroblob(length(wrapped)) WHERE {which} AND wrapped IS NOT NULL"
    ))?
    .execute(params)?;
    c.prepare_cached(&format!("UPDATE tenant_key SET wrapped = NULL, state = 'DESTROYED' WHERE {which}"))?
        .execute(params)
        .map(drop)
}

fn record(row: &Row<'_>) -> Result<KeyRecord> {
    let state: String = row.get("state")?;
    Ok(KeyRecord {
        info: KeyVersionInfo {
            version: rows::version(row, "version")?,
            key_id: KeyId(row.get("key_id")?),
            state: match state.as_str() {
                "PRE_ACTIVE" => KeyState::PreActive,
                "ACTIVE" => KeyState::Active,
                "DEACTIVATED" => KeyState::Deactivated,
                "DESTROYED" => KeyState::Destroyed,
                "COMPROMISED" => KeyState::Compromised,
                _ => return Err(rows::broken("state", "is unknown")),
            },
            created_at: rows::time(row, "created_at")?,
            seals_reserved: row.get("seals_reserved")?,
            unused_since: rows::optional_time(row, "unused_since")?,
        },
        wrapped: row.get("wrapped")?,
    })
}
