-- A route leads to a trunk's address or to a service of the data plane: 'answer', 'play:NAME', 'mix:NUMBER'.
ALTER TABLE routes RENAME COLUMN address TO destination;
