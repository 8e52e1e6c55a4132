"""What the tables of the accounts hold, release by release. A released migration never changes: files made by it are out there."""

from __future__ import annotations

from typing import Final

from tos_guard.stores._sql import OnlySQLite, Schema

__all__ = ["ACCOUNTS_SCHEMA"]

_FIRST: Final = (
    "CREATE TABLE issuer (issuer TEXT PRIMARY KEY, version INTEGER NOT NULL, pepper BLOB NOT NULL)",
    """CREATE TABLE account (
        issuer TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (issuer, id)) WITHOUT ROWID""",
    """CREATE TABLE api_key (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        public_id TEXT NOT NULL,
        account_id TEXT NOT NULL,
        secret_hash BLOB NOT NULL,
        label TEXT NOT NULL,
        created INTEGER NOT NULL,
        revoked INTEGER,
        UNIQUE (issuer, public_id),
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
    "CREATE INDEX api_key_account ON api_key (issuer, account_id)",
    """CREATE TABLE account_change (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        account_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL,
        reason TEXT NOT NULL,
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
    "CREATE INDEX account_change_account ON account_change (issuer, account_id)",
    """CREATE TABLE terms (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        version TEXT NOT NULL,
        uri TEXT NOT NULL,
        effective TEXT NOT NULL,
        sha256 TEXT NOT NULL,
        document BLOB NOT NULL,
        text TEXT NOT NULL,
        published INTEGER NOT NULL,
        UNIQUE (issuer, version))""",
    """CREATE TABLE public_key (
        number INTEGER PRIMARY KEY, issuer TEXT NOT NULL, kid TEXT NOT NULL, document TEXT NOT NULL,
        UNIQUE (issuer, kid))""",
)

# `changed` is the store's version at the last change: unlike an account's own version, it never comes back when an id is given anew.
_RIGHTS: Final = (
    "ALTER TABLE account ADD COLUMN changed INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE account_change ADD COLUMN actor TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE terms ADD COLUMN published_by TEXT NOT NULL DEFAULT ''",
    """CREATE TABLE account_version (
        issuer TEXT NOT NULL, account_id TEXT NOT NULL, version INTEGER NOT NULL, at INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (issuer, account_id, version),
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id)) WITHOUT ROWID""",
    # The present version holds since the step that made it, which the history tells; keys come and go under a version that was there.
    OnlySQLite("""INSERT INTO account_version (issuer, account_id, version, at, document)
        SELECT issuer, id, version, coalesce(
            (SELECT min(at) FROM account_change AS step
                WHERE step.issuer = account.issuer AND step.account_id = account.id AND step.version = account.version),
            CAST(strftime('%s', 'now') AS INTEGER) * 1000), document
        FROM account"""),
    """CREATE TABLE organization (
        issuer TEXT NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, changed INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (issuer, id)) WITHOUT ROWID""",
    """CREATE TABLE organization_version (
        issuer TEXT NOT NULL, organization_id TEXT NOT NULL, version INTEGER NOT NULL, at INTEGER NOT NULL, document TEXT NOT NULL,
        PRIMARY KEY (issuer, organization_id, version),
        FOREIGN KEY (issuer, organization_id) REFERENCES organization (issuer, id)) WITHOUT ROWID""",
    """CREATE TABLE organization_change (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        organization_id TEXT NOT NULL,
        version INTEGER NOT NULL,
        at INTEGER NOT NULL,
        what TEXT NOT NULL,
        detail TEXT NOT NULL,
        reason TEXT NOT NULL,
        actor TEXT NOT NULL,
        FOREIGN KEY (issuer, organization_id) REFERENCES organization (issuer, id))""",
    "CREATE INDEX organization_change_organization ON organization_change (issuer, organization_id)",
    # No foreign key to an account: acceptances are evidence, and outlive whoever gave them; and the host may keep the accounts.
    # `added`: since when the store knows it, whatever it says itself. `former`: the account was deleted; whoever gets its id later has
    # accepted nothing.
    """CREATE TABLE acceptance (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        id TEXT NOT NULL,
        subject_kind TEXT NOT NULL,
        subject_id TEXT NOT NULL,
        added INTEGER NOT NULL,
        added_by TEXT NOT NULL,
        document TEXT NOT NULL,
        former INTEGER NOT NULL DEFAULT 0,
        UNIQUE (issuer, id))""",
    "CREATE INDEX acceptance_subject ON acceptance (issuer, subject_kind, subject_id)",
    """CREATE TABLE withdrawal (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        acceptance_id TEXT NOT NULL,
        added INTEGER NOT NULL,
        added_by TEXT NOT NULL,
        document TEXT NOT NULL,
        UNIQUE (issuer, acceptance_id),
        FOREIGN KEY (issuer, acceptance_id) REFERENCES acceptance (issuer, id))""",
    """CREATE TABLE usage_policy (
        number INTEGER PRIMARY KEY, issuer TEXT NOT NULL, sha256 TEXT NOT NULL, document BLOB NOT NULL,
        UNIQUE (issuer, sha256))""",
    """CREATE TABLE admin_key (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        public_id TEXT NOT NULL,
        name TEXT NOT NULL,
        secret_hash BLOB NOT NULL,
        created INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        revoked INTEGER,
        revoked_by TEXT NOT NULL,
        UNIQUE (issuer, public_id))""",
)

_FLEET: Final = (
    # What the key is for (`tos_guard.rights.KeyTerms`), and which one it was rotated from.
    "ALTER TABLE api_key ADD COLUMN terms TEXT NOT NULL DEFAULT '{}'",
    "ALTER TABLE api_key ADD COLUMN replaces TEXT NOT NULL DEFAULT ''",
    # Domains of limits that an engine beside this file has counted in: one that knows nothing of such a domain has forgotten it.
    """CREATE TABLE limits_domain (
        issuer TEXT NOT NULL, domain TEXT NOT NULL, since INTEGER NOT NULL,
        PRIMARY KEY (issuer, domain)) WITHOUT ROWID""",
    """CREATE TABLE appeal (
        number INTEGER PRIMARY KEY,
        issuer TEXT NOT NULL,
        id TEXT NOT NULL,
        account_id TEXT NOT NULL,
        measure_id TEXT NOT NULL,
        text TEXT NOT NULL,
        filed INTEGER NOT NULL,
        filed_by TEXT NOT NULL,
        state TEXT NOT NULL,
        ended INTEGER,
        ended_by TEXT NOT NULL,
        answer TEXT NOT NULL,
        UNIQUE (issuer, id),
        FOREIGN KEY (issuer, account_id) REFERENCES account (issuer, id))""",
    "CREATE INDEX appeal_account ON appeal (issuer, account_id)",
    "CREATE INDEX appeal_state ON appeal (issuer, state)",
    # What a source of entitlements gave an account last, and in which version the account was then.
    """CREATE TABLE entitlement (
        issuer TEXT NOT NULL, source TEXT NOT NULL, account_id TEXT NOT NULL,
        given TEXT NOT NULL, lapsed INTEGER NOT NULL, version INTEGER NOT NULL,
        PRIMARY KEY (issuer, source, account_id)) WITHOUT ROWID""",
    # Messages that were taken, so that none is taken twice.
    """CREATE TABLE delivery (
        issuer TEXT NOT NULL, sender TEXT NOT NULL, id TEXT NOT NULL, at INTEGER NOT NULL,
        PRIMARY KEY (issuer, sender, id)) WITHOUT ROWID""",
    "CREATE INDEX delivery_at ON delivery (issuer, at)",
    # Work that one process of a fleet does at a time: when it is due next, and what must be remembered of it.
    """CREATE TABLE turn (
        issuer TEXT NOT NULL, name TEXT NOT NULL, due INTEGER NOT NULL, state TEXT NOT NULL,
        PRIMARY KEY (issuer, name)) WITHOUT ROWID""",
)

ACCOUNTS_SCHEMA: Final = Schema(
    what="accounts",
    application_id=0x74676163,  # "tgac"
    migrations=(_FIRST, _RIGHTS, _FLEET),
)
