-- 'version' counts the changes of the directory: each writer adds one to it first, which is also how writers
-- wait for each other on both databases. 'tenant' and 'agent' are the newest keys that were given; none is
-- given twice, since tokens and data planes know tenants and agents by them. The keys of the demo's agents lie
-- below those that begin here.
CREATE TABLE counters (
    name  TEXT   NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

INSERT INTO counters (name, value) VALUES ('version', 0), ('tenant', 0), ('agent', 4611686018427387904);
