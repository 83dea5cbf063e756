-- Where calls to a number go that are not taken there; after_s is for no_answer.
CREATE TABLE forwards (
    tenant_id   INTEGER NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    number      TEXT    NOT NULL,
    condition   TEXT    NOT NULL CHECK (condition IN ('always', 'busy', 'no_answer', 'unavailable')),
    after_s     INTEGER NOT NULL DEFAULT 0 CHECK (after_s BETWEEN 0 AND 180),
    destination TEXT    NOT NULL,
    PRIMARY KEY (tenant_id, number, condition)
);

-- The prompt that held parties hear; NULL is silence.
ALTER TABLE tenants ADD COLUMN hold_music TEXT;
