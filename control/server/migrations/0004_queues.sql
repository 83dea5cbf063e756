-- Queues (S1-005, S1-006). skills is a JSON list, all of which an agent must have; 0 seconds and 0 callers are no limit;
-- overflow and prompt NULL are none.
CREATE TABLE queues (
    tenant_id    INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    skills       TEXT    NOT NULL,
    ring_s       INTEGER NOT NULL CHECK (ring_s BETWEEN 1 AND 180),
    after_call_s INTEGER NOT NULL CHECK (after_call_s BETWEEN 0 AND 86400),
    max_wait_s   INTEGER NOT NULL CHECK (max_wait_s BETWEEN 0 AND 86400),
    max_callers  INTEGER NOT NULL CHECK (max_callers BETWEEN 0 AND 1000000),
    overflow     TEXT,
    prompt       TEXT,
    priority     INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 1000),
    PRIMARY KEY (tenant_id, name)
);
