-- The queries of the workload. A heading names the query; then `relational` or `jsonb` where the schemas need different SQL, and
-- `count` for the total, which is sent together with the page. Two statements under one name are two ways to write it: the
-- faster one is measured. Parameters are listed in `statement.rs`; a count takes the first ones.
--
-- A page at a deep offset, or after a join, may find its ids first and fetch the other columns of those only. Relations in filters
-- are inner joins: a missing far end matches nothing. A relation in a sort is an outer join: a missing far end sorts last. Where
-- the workload asks for no order (Q2, Q3, X1), none is imposed, although the server promises one. `+ 0` and `|| ''` in an order
-- keep the planner from walking the index of that order in the hope of an early end.

-- Q1
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id FROM vm WHERE id = $1

-- Q2
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm LIMIT $1

-- Q3
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE power_state = $1 LIMIT $2

-- Q4
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE name = $1 LIMIT $2

-- Q5
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE lower(name) >= $1 AND lower(name) < $2 ORDER BY name, id LIMIT $3

-- Q5
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE lower(name) >= $1 AND lower(name) < $2 ORDER BY name || '', id LIMIT $3

-- Q6
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE lower(guest_hostname) LIKE $1 ORDER BY name, id LIMIT $2

-- Q6
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE lower(guest_hostname) LIKE $1 ORDER BY name || '', id LIMIT $2

-- Q7
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE reverse(lower(name)) >= $1 AND reverse(lower(name)) < $2 ORDER BY name, id LIMIT $3

-- Q7
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE reverse(lower(name)) >= $1 AND reverse(lower(name)) < $2 ORDER BY name || '', id LIMIT $3

-- Q8
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE stats_cpu_usage_mhz >= $1 AND stats_cpu_usage_mhz < $2 ORDER BY memory_size_mib DESC, name, id LIMIT $3

-- Q8
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE stats_cpu_usage_mhz >= $1 AND stats_cpu_usage_mhz < $2 ORDER BY memory_size_mib + 0 DESC, name, id LIMIT $3

-- Q8 relational
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm JOIN (SELECT id FROM vm WHERE stats_cpu_usage_mhz >= $1 AND stats_cpu_usage_mhz < $2
              ORDER BY memory_size_mib + 0 DESC, name, id LIMIT $3) AS page USING (id)
ORDER BY memory_size_mib DESC, name, id

-- Q9
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM cluster JOIN host ON host.cluster_id = cluster.id JOIN vm ON vm.host_id = host.id
WHERE cluster.name = $1 ORDER BY vm.name, vm.id LIMIT $2

-- Q9 relational
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm JOIN (SELECT vm.id FROM cluster JOIN host ON host.cluster_id = cluster.id JOIN vm ON vm.host_id = host.id
              WHERE cluster.name = $1 ORDER BY vm.name, vm.id LIMIT $2) AS page USING (id)
ORDER BY name, id

-- Q10 relational
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM vm JOIN host ON host.id = vm.host_id
WHERE vm.power_state = 'POWERED_ON' AND NOT host.in_maintenance_mode
  AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
       OR vm.id IN (SELECT vm_id FROM vm_tag WHERE tag_id = $2))
ORDER BY vm.memory_size_mib DESC, vm.name, vm.id LIMIT $3

-- Q10 relational
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM vm JOIN host ON host.id = vm.host_id
WHERE vm.power_state = 'POWERED_ON' AND NOT host.in_maintenance_mode
  AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
       OR EXISTS (SELECT FROM vm_tag WHERE vm_tag.vm_id = vm.id AND vm_tag.tag_id = $2))
ORDER BY vm.memory_size_mib DESC, vm.name, vm.id LIMIT $3

-- Q10 relational count
SELECT count(*) FROM vm JOIN host ON host.id = vm.host_id
WHERE vm.power_state = 'POWERED_ON' AND NOT host.in_maintenance_mode
  AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
       OR vm.id IN (SELECT vm_id FROM vm_tag WHERE tag_id = $2))

-- Q10 jsonb
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM vm JOIN host ON host.id = vm.host_id
WHERE vm.power_state = 'POWERED_ON' AND NOT host.in_maintenance_mode
  AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
       OR vm.props @> (SELECT jsonb_build_object('tags', jsonb_build_array(jsonb_build_object('type', 'Tag', 'id', $2::text)))))
ORDER BY vm.memory_size_mib DESC, vm.name, vm.id LIMIT $3

-- Q10 jsonb: walks the memory index, which the planner does not do by itself
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM (SELECT * FROM vm WHERE vm.power_state = 'POWERED_ON'
        AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
             OR vm.props @> (SELECT jsonb_build_object('tags', jsonb_build_array(jsonb_build_object('type', 'Tag', 'id', $2::text)))))
      ORDER BY vm.memory_size_mib DESC, vm.name, vm.id OFFSET 0) AS vm
WHERE EXISTS (SELECT FROM host WHERE host.id = vm.host_id AND NOT host.in_maintenance_mode)
LIMIT $3

-- Q10 jsonb count
SELECT count(*) FROM vm JOIN host ON host.id = vm.host_id
WHERE vm.power_state = 'POWERED_ON' AND NOT host.in_maintenance_mode
  AND (vm.guest_os = $1 OR (vm.cpu_count >= 16 AND vm.memory_size_mib >= 131072)
       OR vm.props @> (SELECT jsonb_build_object('tags', jsonb_build_array(jsonb_build_object('type', 'Tag', 'id', $2::text)))))

-- Q11
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE id = ANY (ARRAY(SELECT id FROM vm WHERE power_state = $1 ORDER BY name, id OFFSET $2 LIMIT $3))
ORDER BY name, id

-- Q11
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE power_state = $1 ORDER BY name, id OFFSET $2 LIMIT $3

-- Q11 count
SELECT count(*) FROM vm WHERE power_state = $1

-- Q12 relational
SELECT vm.id, vm.name, host.name, cluster.name, resource_pool.name, folder.name,
  ARRAY(SELECT datastore.name FROM vm_datastore JOIN datastore ON datastore.id = vm_datastore.datastore_id
        WHERE vm_datastore.vm_id = vm.id ORDER BY vm_datastore.place)
FROM (SELECT * FROM vm WHERE folder_id = $1 ORDER BY name, id LIMIT $2) AS vm
LEFT JOIN host ON host.id = vm.host_id LEFT JOIN cluster ON cluster.id = host.cluster_id
LEFT JOIN resource_pool ON resource_pool.id = vm.resource_pool_id LEFT JOIN folder ON folder.id = vm.folder_id
ORDER BY vm.name, vm.id

-- Q12 jsonb
SELECT vm.id, vm.name, host.name, cluster.name, resource_pool.name, folder.name,
  ARRAY(SELECT datastore.name FROM jsonb_array_elements(vm.props->'datastores') WITH ORDINALITY AS element
        JOIN datastore ON datastore.id = element.value->>'id' ORDER BY element.ordinality)
FROM (SELECT * FROM vm WHERE folder_id = $1 ORDER BY name, id LIMIT $2) AS vm
LEFT JOIN host ON host.id = vm.host_id LEFT JOIN cluster ON cluster.id = host.cluster_id
LEFT JOIN resource_pool ON resource_pool.id = vm.resource_pool_id LEFT JOIN folder ON folder.id = vm.folder_id
ORDER BY vm.name, vm.id

-- X1
SELECT id, name FROM vm WHERE power_state = $1 LIMIT $2

-- X1 count
SELECT count(*) FROM vm WHERE power_state = $1

-- X2
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE id = ANY (ARRAY(SELECT id FROM vm ORDER BY name, id OFFSET $1 LIMIT $2)) ORDER BY name, id

-- X2
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm ORDER BY name, id OFFSET $1 LIMIT $2

-- X3 relational
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm WHERE id IN (SELECT vm_id FROM vm_datastore JOIN datastore ON datastore.id = vm_datastore.datastore_id
                     WHERE datastore.name = $1)
ORDER BY name, id LIMIT $2

-- X3 jsonb
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM datastore JOIN vm ON vm.props @> jsonb_build_object('datastores',
  jsonb_build_array(jsonb_build_object('type', 'Datastore', 'id', datastore.id)))
WHERE datastore.name = $1 ORDER BY vm.name, vm.id LIMIT $2

-- X3 jsonb
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM datastore JOIN vm ON vm.props @> jsonb_build_object('datastores',
  jsonb_build_array(jsonb_build_object('type', 'Datastore', 'id', datastore.id)))
WHERE datastore.name = $1 ORDER BY vm.name || '', vm.id LIMIT $2

-- X4
SELECT vm.id, vm.name, vm.power_state, vm.cpu_count, vm.memory_size_mib, vm.guest_os, vm.ip_address, vm.host_id
FROM datacenter JOIN cluster ON cluster.datacenter_id = datacenter.id
JOIN host ON host.cluster_id = cluster.id JOIN vm ON vm.host_id = host.id
WHERE datacenter.name = $1 ORDER BY vm.name, vm.id LIMIT $2

-- X4 relational
SELECT id, name, power_state, cpu_count, memory_size_mib, guest_os, ip_address, host_id
FROM vm JOIN (SELECT vm.id FROM datacenter JOIN cluster ON cluster.datacenter_id = datacenter.id
              JOIN host ON host.cluster_id = cluster.id JOIN vm ON vm.host_id = host.id
              WHERE datacenter.name = $1 ORDER BY vm.name, vm.id LIMIT $2) AS page USING (id)
ORDER BY name, id

-- X4 count
SELECT count(*) FROM datacenter JOIN cluster ON cluster.datacenter_id = datacenter.id
JOIN host ON host.cluster_id = cluster.id JOIN vm ON vm.host_id = host.id
WHERE datacenter.name = $1

-- X5
SELECT vm.id, vm.name, host.name FROM vm LEFT JOIN host ON host.id = vm.host_id
WHERE vm.power_state = $1 ORDER BY host.name, vm.name, vm.id LIMIT $2
