-- The JSONB schema: one table for every type, the properties as one document; an index for each property that is filtered or
-- sorted on, and one over whole documents for containment. `resources` is filled before this runs.

ALTER TABLE resources ADD PRIMARY KEY (type, id);

CREATE INDEX ON resources USING gin (props jsonb_path_ops);
CREATE INDEX ON resources (type, (props->>'name'), id);
CREATE INDEX ON resources ((props #>> '{cluster,id}')) WHERE type = 'HostSystem';
CREATE INDEX ON resources ((props #>> '{datacenter,id}')) WHERE type = 'ClusterComputeResource';
CREATE INDEX ON resources (lower(props->>'name') text_pattern_ops) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (reverse(lower(props->>'name')) text_pattern_ops) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources USING gin (lower(props #>> '{guest,hostname}') gin_trgm_ops) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'power_state')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'power_state'), (props->>'name'), id) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'guest_OS')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props->>'cpu_count')::bigint), ((props->>'memory_size_MiB')::bigint)) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props->>'memory_size_MiB')::bigint) DESC, (props->>'name'), id) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props #>> '{stats,cpu_usage_MHz}')::bigint)) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props #>> '{host,id}')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props #>> '{folder,id}'), (props->>'name'), id) WHERE type = 'VirtualMachine';

VACUUM (ANALYZE) resources;
