-- An agent's limits are calls at the same time, as the data plane enforces them. What was said of calls in an hour,
-- which nobody enforced, is not that.
UPDATE agents SET incoming_limit = NULL WHERE incoming_limit < 1 OR incoming_limit > 8;
UPDATE agents SET outgoing_limit = NULL WHERE outgoing_limit < 0 OR outgoing_limit > 8;
