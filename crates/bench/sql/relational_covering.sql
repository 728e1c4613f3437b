-- Optional: indexes that also hold the sort keys of a query, so that it reads no table row but those of its page.
-- They make single queries faster and are left out of the fair set, which must answer any filter and any order.

SET search_path = relational, public;

CREATE INDEX IF NOT EXISTS covering_cpu_usage ON vm (stats_cpu_usage_mhz) INCLUDE (memory_size_mib, name, id);
CREATE INDEX IF NOT EXISTS covering_host ON vm (host_id) INCLUDE (name, id);
CREATE INDEX IF NOT EXISTS covering_power_state ON vm (power_state) INCLUDE (host_id, name, id);
