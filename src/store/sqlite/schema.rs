//! The tables. A migration that was released is never changed; a new one is
//! added at the end.

use rusqlite_migration::{M, Migrations};

/// Tenants, grants, attempts, enrolments and rotation runs.
pub(super) static TOKENS: Migrations<'static> = Migrations::from_slice(TOKEN_STEPS);
const TOKEN_STEPS: &[M<'static>] = &[
    M::up(
        "
    CREATE TABLE tenant (
        id             TEXT    PRIMARY KEY NOT NULL,
        state          TEXT    NOT NULL CHECK (state IN ('ACTIVE', 'PURGE_SCHEDULED', 'PURGING', 'PURGED')),
        epoch          INTEGER NOT NULL,
        active_version INTEGER NOT NULL,
        purge_at       INTEGER,
        erased_at      INTEGER,
        created_at     INTEGER NOT NULL,
        rotated_at     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX tenant_purges ON tenant (state, purge_at) WHERE state IN ('PURGE_SCHEDULED', 'PURGING');

    CREATE TABLE grants (
        id                  BLOB    PRIMARY KEY NOT NULL,
        tenant              TEXT    NOT NULL REFERENCES tenant (id),
        client              TEXT    NOT NULL,
        subject             TEXT    NOT NULL,
        issuer              TEXT    NOT NULL,
        status              TEXT    NOT NULL
            CHECK (status IN ('ACTIVE', 'SENDING', 'IN_DOUBT', 'REVOKED', 'LOST', 'REAUTH')),
        cause               TEXT,
        claims              TEXT,
        error               TEXT,
        suberror            TEXT,
        generation          INTEGER NOT NULL,
        key_version         INTEGER NOT NULL,
        sealed              BLOB    NOT NULL,
        scopes              TEXT    NOT NULL,
        resource            TEXT,
        created_at          INTEGER NOT NULL,
        refreshed_at        INTEGER NOT NULL,
        idle_expires_at     INTEGER,
        absolute_expires_at INTEGER,
        next_refresh_at     INTEGER NOT NULL,
        not_before          INTEGER,
        UNIQUE (tenant, client, subject)
    ) STRICT;
    CREATE INDEX grants_due ON grants (next_refresh_at, id) WHERE status = 'ACTIVE';
    CREATE INDEX grants_version ON grants (tenant, key_version, id);

    -- Present exactly while its grant is SENDING or IN_DOUBT.
    CREATE TABLE attempt (
        grant_id       BLOB    PRIMARY KEY NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
        id             BLOB    NOT NULL UNIQUE,
        epoch          INTEGER NOT NULL,
        started_at     INTEGER NOT NULL,
        fenced_at      INTEGER,
        follows        TEXT,
        probe_after    INTEGER,
        answer         BLOB,
        answer_version INTEGER
    ) STRICT;
    CREATE INDEX attempt_probe ON attempt (probe_after) WHERE probe_after IS NOT NULL;

    CREATE TABLE intake (
        id             BLOB    PRIMARY KEY NOT NULL,
        tenant         TEXT    NOT NULL REFERENCES tenant (id),
        client         TEXT    NOT NULL,
        subject        TEXT    NOT NULL,
        grant_id       BLOB    NOT NULL,
        generation     INTEGER NOT NULL,
        issuer         TEXT    NOT NULL,
        prove_identity INTEGER NOT NULL,
        scopes         TEXT    NOT NULL,
        resource       TEXT,
        started_at     INTEGER NOT NULL,
        answer         BLOB,
        answer_version INTEGER
    ) STRICT;
    CREATE INDEX intake_tenant ON intake (tenant);

    CREATE TABLE rotation_run (
        id                 BLOB    PRIMARY KEY NOT NULL,
        phase              TEXT    NOT NULL,
        cause              TEXT    NOT NULL,
        force_new_versions INTEGER NOT NULL,
        refresh_all        INTEGER NOT NULL,
        started_at         INTEGER NOT NULL,
        ended_at           INTEGER,
        versions_created   INTEGER NOT NULL,
        refresh_total      INTEGER NOT NULL,
        refreshed          INTEGER NOT NULL,
        refresh_failed     INTEGER NOT NULL,
        reseal_total       INTEGER NOT NULL,
        resealed           INTEGER NOT NULL,
        reseal_failed      INTEGER NOT NULL,
        versions_destroyed INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX rotation_run_start ON rotation_run (started_at);

    -- Which deployment the file belongs to; restore safety will compare it.
    CREATE TABLE deployment (only INTEGER PRIMARY KEY NOT NULL CHECK (only = 1), id BLOB NOT NULL) STRICT;

    CREATE TABLE health (checked INTEGER NOT NULL) STRICT;
    INSERT INTO health VALUES (0);
    ",
    ),
    M::up(LINEAGES),
    M::up(
        "
    -- 1: an enrolment made the tenant, and it has no grant yet.
    ALTER TABLE tenant ADD COLUMN pending INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX tenant_pending ON tenant (id) WHERE pending = 1;
    -- Names that differ in case only are found by it.
    CREATE INDEX tenant_name ON tenant (id COLLATE NOCASE);
    ",
    ),
    M::up(
        "
    -- The mark of the import that made the grant or replaced it last: the same
    -- import, repeated, finds it done.
    ALTER TABLE grants ADD COLUMN imported BLOB;
    CREATE INDEX grants_imported ON grants (imported) WHERE imported IS NOT NULL;
    ",
    ),
    M::up(
        "
    -- The first of the attempts with unknown outcomes; of an older one only the
    -- last is known.
    ALTER TABLE attempt ADD COLUMN in_use_since INTEGER NOT NULL DEFAULT 0;
    UPDATE attempt SET in_use_since = CASE WHEN epoch = 0 THEN started_at ELSE 0 END;
    ",
    ),
    M::up(
        "
    -- An enrolment is called one everywhere.
    ALTER TABLE intake RENAME TO enrolment;
    DROP INDEX intake_tenant;
    CREATE INDEX enrolment_tenant ON enrolment (tenant);
    DROP INDEX intake_mark;
    CREATE INDEX enrolment_mark ON enrolment (mark) WHERE mark IS NOT NULL;
    ",
    ),
    M::up(
        "
    -- Only ever grows. The key store's mark is compared with it, so that an older
    -- copy of this file is recognised.
    ALTER TABLE deployment ADD COLUMN counter INTEGER NOT NULL DEFAULT 0;
    ",
    ),
];

/// Consents have an identity and attempts an owner; a grant remembers how its last
/// attempt ended, and what the user was asked for. A grant that was there before
/// is the first of its lineage. Its scopes were asked for, as far as is known.
const LINEAGES: &str = "
    ALTER TABLE grants ADD COLUMN lineage BLOB NOT NULL DEFAULT x'00';
    UPDATE grants SET lineage = id;
    ALTER TABLE grants ADD COLUMN last_attempt BLOB;
    ALTER TABLE grants ADD COLUMN unhelpful INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE grants ADD COLUMN asked TEXT NOT NULL DEFAULT '';
    UPDATE grants SET asked = scopes;

    ALTER TABLE attempt ADD COLUMN owner BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
    ALTER TABLE attempt ADD COLUMN overtakes INTEGER;
    ALTER TABLE attempt ADD COLUMN asks TEXT NOT NULL DEFAULT 'GRANT' CHECK (asks IN ('GRANT', 'TARGET'));

    ALTER TABLE intake ADD COLUMN lineage BLOB NOT NULL DEFAULT x'00';
    UPDATE intake SET lineage = id;
    ALTER TABLE intake ADD COLUMN owner BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
    ALTER TABLE intake ADD COLUMN kind TEXT NOT NULL DEFAULT 'EXCHANGE' CHECK (kind IN ('EXCHANGE', 'IMPORT'));
    UPDATE intake SET kind = 'IMPORT' WHERE prove_identity;
    ALTER TABLE intake DROP COLUMN prove_identity;
    ALTER TABLE intake ADD COLUMN mark BLOB;
    ALTER TABLE intake ADD COLUMN stage TEXT NOT NULL DEFAULT 'SENDING'
        CHECK (stage IN ('SENDING', 'IN_DOUBT', 'HELD'));
    ALTER TABLE intake ADD COLUMN until INTEGER;
    CREATE INDEX intake_mark ON intake (mark) WHERE mark IS NOT NULL;
";

/// Wrapped tenant keys and the tombstones of purged tenants.
pub(super) static KEYS: Migrations<'static> = Migrations::from_slice(KEY_STEPS);
const KEY_STEPS: &[M<'static>] = &[M::up(WRAPPED_KEYS), M::up(BELONGING)];

const WRAPPED_KEYS: &str = "
    CREATE TABLE tenant_key (
        tenant         TEXT    NOT NULL,
        version        INTEGER NOT NULL,
        key_id         BLOB    NOT NULL,
        state          TEXT    NOT NULL
            CHECK (state IN ('PRE_ACTIVE', 'ACTIVE', 'DEACTIVATED', 'DESTROYED', 'COMPROMISED')),
        created_at     INTEGER NOT NULL,
        seals_reserved INTEGER NOT NULL,
        wrapped        BLOB,
        PRIMARY KEY (tenant, version)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE tombstone (
        tenant     TEXT    PRIMARY KEY NOT NULL,
        created_at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Since when nothing names a key version; and which vault the file belongs to,
/// with the mark of how far the token store has come.
const BELONGING: &str = "
    ALTER TABLE tenant_key ADD COLUMN unused_since INTEGER;

    CREATE TABLE vault (
        only  INTEGER PRIMARY KEY NOT NULL CHECK (only = 1),
        id    BLOB NOT NULL,
        mark  INTEGER,
        proof BLOB
    ) STRICT;
";

#[cfg(test)]
mod tests {
    #[test]
    fn the_migrations_are_valid() {
        super::TOKENS.validate().unwrap();
        super::KEYS.validate().unwrap();
    }
}
