-- Whether the phones of a tenant, and the peers of a trunk, speak SRTP: 'no', 'allowed', 'offered' or 'required'.
ALTER TABLE tenants ADD COLUMN srtp TEXT NOT NULL DEFAULT 'allowed';
ALTER TABLE trunks ADD COLUMN srtp TEXT NOT NULL DEFAULT 'allowed';
