-- The directory, in the SQL that SQLite and PostgreSQL share: no AUTOINCREMENT, no BOOLEAN, identifiers
-- are given by the program, lists are JSON text.

CREATE TABLE tenants (
    id               INTEGER NOT NULL PRIMARY KEY,
    name             TEXT    NOT NULL UNIQUE,
    realm            TEXT    NOT NULL,
    default_location TEXT
);

CREATE TABLE locations (
    tenant_id INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name      TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, name)
);

-- S1-036: the preset mapping list, keyed by a CCB's device number and a location. kind is 'cti' (the
-- firewall's side), 'sbc' (the phone's side) or 'ccb' (the CCB itself); rank orders the list (G-12).
CREATE TABLE addresses (
    ccb       INTEGER NOT NULL,
    location  TEXT    NOT NULL,
    kind      TEXT    NOT NULL CHECK (kind IN ('cti', 'sbc', 'ccb')),
    rank      INTEGER NOT NULL,
    host      TEXT    NOT NULL,
    port      INTEGER NOT NULL CHECK (port BETWEEN 1 AND 65535),
    transport TEXT    NOT NULL,
    PRIMARY KEY (ccb, location, kind, rank)
);

-- An agent's row also holds its operator (S1-031, S1-071) and the parameters of S1-032.
CREATE TABLE agents (
    id              BIGINT  NOT NULL PRIMARY KEY,
    tenant_id       INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    agent_id        TEXT    NOT NULL,
    operator_id     TEXT    NOT NULL,
    number          TEXT    NOT NULL,
    name            TEXT    NOT NULL,
    password        TEXT    NOT NULL,
    agent_type      TEXT    NOT NULL,
    skills          TEXT    NOT NULL,
    rights          TEXT    NOT NULL,
    number_report   TEXT    NOT NULL,
    incoming_limit  INTEGER,
    outgoing_limit  INTEGER,
    media_format    TEXT    NOT NULL,
    log_level       TEXT    NOT NULL,
    encryption      TEXT    NOT NULL,
    recording_path  TEXT    NOT NULL,
    database_access TEXT    NOT NULL,
    phone           TEXT    NOT NULL,
    login_epoch     BIGINT  NOT NULL DEFAULT 0,
    UNIQUE (tenant_id, agent_id),
    UNIQUE (tenant_id, operator_id),
    UNIQUE (tenant_id, number)
);

-- SIP peers trusted by address.
CREATE TABLE trunks (
    tenant_id INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name      TEXT    NOT NULL,
    net       TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, net)
);

-- Numbers that go out to a trunk, by their longest prefix; location is the one whose SBC sends the
-- call, NULL is the one nearest to the trunk's address.
CREATE TABLE routes (
    tenant_id INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    prefix    TEXT    NOT NULL,
    address   TEXT    NOT NULL,
    location  TEXT,
    PRIMARY KEY (tenant_id, prefix)
);
