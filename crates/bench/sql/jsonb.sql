-- The JSONB schema: one table for every type, the properties as one document; an index for each property that is filtered or sorted
-- on, and one over whole documents for containment. The views give the properties names; the planner sees through them.

CREATE SCHEMA jsonb;
SET search_path = jsonb, public;

CREATE TABLE resources AS
  SELECT document->>'type' AS type, document->>'id' AS id, document->'properties' AS props FROM public.staging;

ALTER TABLE resources ADD PRIMARY KEY (type, id);

CREATE INDEX ON resources USING gin (props jsonb_path_ops);
CREATE INDEX ON resources (type, (props->>'name'), id);
CREATE INDEX ON resources ((props #>> '{cluster,id}')) WHERE type = 'HostSystem';
CREATE INDEX ON resources ((props #>> '{datacenter,id}')) WHERE type = 'ClusterComputeResource';
CREATE INDEX ON resources (lower(props->>'name')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (reverse(lower(props->>'name'))) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources USING gin (lower(props #>> '{guest,hostname}') gin_trgm_ops) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'power_state')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'power_state'), (props->>'name'), id) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props->>'guest_OS')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props->>'cpu_count')::bigint), ((props->>'memory_size_MiB')::bigint)) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props->>'memory_size_MiB')::bigint) DESC, (props->>'name'), id) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources (((props #>> '{stats,cpu_usage_MHz}')::bigint)) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props #>> '{host,id}')) WHERE type = 'VirtualMachine';
CREATE INDEX ON resources ((props #>> '{folder,id}'), (props->>'name'), id) WHERE type = 'VirtualMachine';

CREATE VIEW vm AS SELECT id, props->>'name' AS name, props->>'power_state' AS power_state,
  (props->>'cpu_count')::bigint AS cpu_count, (props->>'memory_size_MiB')::bigint AS memory_size_mib,
  props->>'guest_OS' AS guest_os, props->>'ip_address' AS ip_address, props #>> '{host,id}' AS host_id,
  props #>> '{folder,id}' AS folder_id, props #>> '{resource_pool,id}' AS resource_pool_id,
  props #>> '{guest,hostname}' AS guest_hostname,
  (props #>> '{stats,cpu_usage_MHz}')::bigint AS stats_cpu_usage_mhz, props
  FROM resources WHERE type = 'VirtualMachine';
CREATE VIEW host AS SELECT id, props->>'name' AS name, props #>> '{cluster,id}' AS cluster_id,
  (props->>'in_maintenance_mode')::boolean AS in_maintenance_mode
  FROM resources WHERE type = 'HostSystem';
CREATE VIEW cluster AS SELECT id, props->>'name' AS name, props #>> '{datacenter,id}' AS datacenter_id
  FROM resources WHERE type = 'ClusterComputeResource';
CREATE VIEW datacenter AS SELECT id, props->>'name' AS name FROM resources WHERE type = 'Datacenter';
CREATE VIEW datastore AS SELECT id, props->>'name' AS name FROM resources WHERE type = 'Datastore';
CREATE VIEW folder AS SELECT id, props->>'name' AS name FROM resources WHERE type = 'Folder';
CREATE VIEW resource_pool AS SELECT id, props->>'name' AS name FROM resources WHERE type = 'ResourcePool';
