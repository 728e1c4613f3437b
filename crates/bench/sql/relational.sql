-- The relational schema: a table per type, a join table per to-many relation, an index for each property that is filtered or sorted
-- on, and for each pair of a filter and an order that belong together. Filled from the JSONB schema's table.
-- Text is in the C collation, so it sorts by code point, as the API's results do.

CREATE SCHEMA relational;
SET search_path = relational, public;

CREATE TABLE tag_category AS SELECT id, props->>'name' AS name, props->>'description' AS description,
  props->>'cardinality' AS cardinality
  FROM jsonb.resources WHERE type = 'TagCategory';

CREATE TABLE tag AS SELECT id, props->>'name' AS name, props->>'description' AS description,
  props #>> '{category,id}' AS category_id
  FROM jsonb.resources WHERE type = 'Tag';

CREATE TABLE datacenter AS SELECT id, props->>'name' AS name, props->>'site' AS site,
  (props->>'created')::timestamptz AS created
  FROM jsonb.resources WHERE type = 'Datacenter';

CREATE TABLE folder AS SELECT id, props->>'name' AS name, props->>'kind' AS kind,
  props #>> '{datacenter,id}' AS datacenter_id, props #>> '{parent,id}' AS parent_id
  FROM jsonb.resources WHERE type = 'Folder';

CREATE TABLE network AS SELECT id, props->>'name' AS name, props->>'kind' AS kind,
  (props->>'vlan_id')::bigint AS vlan_id, props #>> '{datacenter,id}' AS datacenter_id
  FROM jsonb.resources WHERE type = 'Network';

CREATE TABLE cluster AS SELECT id, props->>'name' AS name, props #>> '{datacenter,id}' AS datacenter_id,
  (props->>'drs_enabled')::boolean AS drs_enabled, (props->>'ha_enabled')::boolean AS ha_enabled,
  props->>'evc_mode' AS evc_mode,
  props #>> '{config,drs,automation}' AS drs_automation,
  (props #>> '{config,drs,migration_threshold}')::bigint AS drs_migration_threshold,
  (props #>> '{config,ha,admission_control}')::boolean AS ha_admission_control,
  (props #>> '{config,ha,failover_level}')::bigint AS ha_failover_level
  FROM jsonb.resources WHERE type = 'ClusterComputeResource';

CREATE TABLE resource_pool AS SELECT id, props->>'name' AS name, props #>> '{cluster,id}' AS cluster_id,
  props #>> '{parent,id}' AS parent_id,
  (props #>> '{cpu,reservation_MHz}')::bigint AS cpu_reservation_mhz, (props #>> '{cpu,limit_MHz}')::bigint AS cpu_limit_mhz,
  props #>> '{cpu,shares}' AS cpu_shares,
  (props #>> '{memory,reservation_MiB}')::bigint AS memory_reservation_mib,
  (props #>> '{memory,limit_MiB}')::bigint AS memory_limit_mib, props #>> '{memory,shares}' AS memory_shares
  FROM jsonb.resources WHERE type = 'ResourcePool';

CREATE TABLE datastore AS SELECT id, props->>'name' AS name, props->>'kind' AS kind,
  (props->>'capacity')::bigint AS capacity, (props->>'free_space')::bigint AS free_space,
  (props->>'accessible')::boolean AS accessible, (props->>'multiple_host_access')::boolean AS multiple_host_access,
  props #>> '{datacenter,id}' AS datacenter_id
  FROM jsonb.resources WHERE type = 'Datastore';

CREATE TABLE host AS SELECT id, props->>'name' AS name, props #>> '{cluster,id}' AS cluster_id,
  props->>'connection_state' AS connection_state, props->>'power_state' AS power_state,
  (props->>'in_maintenance_mode')::boolean AS in_maintenance_mode,
  props #>> '{hardware,vendor}' AS hardware_vendor, props #>> '{hardware,model}' AS hardware_model,
  (props #>> '{hardware,cpu_cores}')::bigint AS hardware_cpu_cores, (props #>> '{hardware,cpu_MHz}')::bigint AS hardware_cpu_mhz,
  (props #>> '{hardware,memory_size_MiB}')::bigint AS hardware_memory_size_mib, props #>> '{hardware,uuid}' AS hardware_uuid,
  props->>'version' AS version, (props->>'build')::bigint AS build, props->>'management_ip' AS management_ip,
  (props->>'boot_time')::timestamptz AS boot_time,
  (props #>> '{stats,cpu_usage_MHz}')::bigint AS stats_cpu_usage_mhz,
  (props #>> '{stats,memory_usage_MiB}')::bigint AS stats_memory_usage_mib
  FROM jsonb.resources WHERE type = 'HostSystem';

CREATE TABLE vm AS SELECT id, props->>'name' AS name, props->>'power_state' AS power_state,
  (props->>'cpu_count')::bigint AS cpu_count, (props->>'cores_per_socket')::bigint AS cores_per_socket,
  (props->>'memory_size_MiB')::bigint AS memory_size_mib, props->>'guest_OS' AS guest_os, props->>'ip_address' AS ip_address,
  props #>> '{host,id}' AS host_id, props #>> '{resource_pool,id}' AS resource_pool_id, props #>> '{folder,id}' AS folder_id,
  (props->>'template')::boolean AS template, props->>'hardware_version' AS hardware_version,
  props->>'instance_uuid' AS instance_uuid, (props->>'created')::timestamptz AS created,
  (props->>'boot_time')::timestamptz AS boot_time, (props->>'uptime_seconds')::bigint AS uptime_seconds,
  props #>> '{guest,hostname}' AS guest_hostname, props #>> '{guest,family}' AS guest_family,
  (props #>> '{guest,tools,running}')::boolean AS guest_tools_running,
  (props #>> '{guest,tools,version}')::bigint AS guest_tools_version,
  ARRAY(SELECT jsonb_array_elements_text(props #> '{guest,ip_addresses}')) AS guest_ip_addresses,
  (props #>> '{stats,cpu_usage_MHz}')::bigint AS stats_cpu_usage_mhz,
  (props #>> '{stats,memory_usage_MiB}')::bigint AS stats_memory_usage_mib,
  (props #>> '{stats,cpu_ready_percent}')::double precision AS stats_cpu_ready_percent,
  (props #>> '{storage,committed}')::bigint AS storage_committed,
  (props #>> '{storage,uncommitted}')::bigint AS storage_uncommitted,
  props->'nics' AS nics, props->'disks' AS disks,
  props #>> '{custom,owner}' AS custom_owner, props #>> '{custom,cost_center}' AS custom_cost_center,
  props->>'annotation' AS annotation
  FROM jsonb.resources WHERE type = 'VirtualMachine';

-- A list may name one resource twice: the join tables keep each element with its place.
CREATE TABLE host_datastore AS SELECT r.id AS host_id, e.value->>'id' AS datastore_id, e.ordinality AS place
  FROM jsonb.resources r, jsonb_array_elements(r.props->'datastores') WITH ORDINALITY AS e WHERE r.type = 'HostSystem';
CREATE TABLE vm_datastore AS SELECT r.id AS vm_id, e.value->>'id' AS datastore_id, e.ordinality AS place
  FROM jsonb.resources r, jsonb_array_elements(r.props->'datastores') WITH ORDINALITY AS e WHERE r.type = 'VirtualMachine';
CREATE TABLE vm_network AS SELECT r.id AS vm_id, e.value->>'id' AS network_id, e.ordinality AS place
  FROM jsonb.resources r, jsonb_array_elements(r.props->'networks') WITH ORDINALITY AS e WHERE r.type = 'VirtualMachine';
CREATE TABLE vm_tag AS SELECT r.id AS vm_id, e.value->>'id' AS tag_id, e.ordinality AS place
  FROM jsonb.resources r, jsonb_array_elements(r.props->'tags') WITH ORDINALITY AS e WHERE r.type = 'VirtualMachine';

ALTER TABLE tag_category ADD PRIMARY KEY (id);
ALTER TABLE tag ADD PRIMARY KEY (id);
ALTER TABLE datacenter ADD PRIMARY KEY (id);
ALTER TABLE folder ADD PRIMARY KEY (id);
ALTER TABLE network ADD PRIMARY KEY (id);
ALTER TABLE cluster ADD PRIMARY KEY (id);
ALTER TABLE resource_pool ADD PRIMARY KEY (id);
ALTER TABLE datastore ADD PRIMARY KEY (id);
ALTER TABLE host ADD PRIMARY KEY (id);
ALTER TABLE vm ADD PRIMARY KEY (id);
ALTER TABLE host_datastore ADD PRIMARY KEY (host_id, place);
ALTER TABLE vm_datastore ADD PRIMARY KEY (vm_id, place);
ALTER TABLE vm_network ADD PRIMARY KEY (vm_id, place);
ALTER TABLE vm_tag ADD PRIMARY KEY (vm_id, place);

CREATE INDEX ON datacenter (name);
CREATE INDEX ON cluster (name);
CREATE INDEX ON cluster (datacenter_id);
CREATE INDEX ON datastore (name);
CREATE INDEX ON folder (name);
CREATE INDEX ON resource_pool (name);
CREATE INDEX ON host (name);
CREATE INDEX ON host (cluster_id);
CREATE INDEX ON host_datastore (datastore_id, host_id);
CREATE INDEX ON vm_datastore (datastore_id, vm_id);
CREATE INDEX ON vm_network (network_id, vm_id);
CREATE INDEX ON vm_tag (tag_id, vm_id);
CREATE INDEX ON vm (name, id);
CREATE INDEX ON vm (lower(name));
CREATE INDEX ON vm (reverse(lower(name)));
CREATE INDEX ON vm USING gin (lower(guest_hostname) gin_trgm_ops);
CREATE INDEX ON vm (power_state);
CREATE INDEX ON vm (power_state, name, id);
CREATE INDEX ON vm (guest_os);
CREATE INDEX ON vm (cpu_count, memory_size_mib);
CREATE INDEX ON vm (memory_size_mib DESC, name, id);
CREATE INDEX ON vm (stats_cpu_usage_mhz);
CREATE INDEX ON vm (host_id);
CREATE INDEX ON vm (folder_id, name, id);
