"""Discovers counters, asks for samples, waits for points and reads them, with VMware's unmodified Python SDK over TLS.

  stats.py HOST:PORT USER PASSWORD CA_FILE

The calls are those that users of the stats service make: discovery, the life of an acquisition specification with and without a
predicate and with a counter set, and the queries over data points. Prints one line per step, and the points that were sampled; ends
with a failure when a step does not do what the SDK's users rely on.
"""
import sys
import time

import requests
from com.vmware.vapi.std.errors_client import InvalidArgument, NotFound
from com.vmware import vstats_client as vstats
from vmware.vapi.vsphere.client import create_vsphere_client

INTERVAL = 2


def discover(client):
    providers = client.Providers.list()
    assert providers, "no provider"
    print("providers:", ", ".join("%s %s" % (p.type, p.id_value) for p in providers))
    types = [t.type for t in client.ResourceTypes.list()]
    assert {"HOST", "VM"} <= set(types), types
    metrics = [m.metric for m in client.Metrics.list()]
    counters = client.Counters.list()
    print("%d metrics, %d counters of the types %s" % (len(metrics), len(counters), ", ".join(types)))
    only = client.Counters.list(vstats.Counters.FilterSpec(types=["VM"], metric="disk.throughput.usage"))
    assert [c.cid for c in only] == ["disk.throughput.usage.VM"], only

    for cid in ("cpu.capacity.demand.HOST", "mem.capacity.usage.HOST", "disk.throughput.usage.VM"):
        info = client.Counters.get(cid)
        editions = client.CounterMetadata.list(cid)
        default = client.CounterMetadata.get_default(cid)
        assert [m.mid for m in default] == [m.mid for m in editions if m.status == "DEFAULT"], editions
        one = client.CounterMetadata.get(cid, default[0].mid)
        schema = client.ResourceAddressSchemas.get(info.resource_address_schema)
        keys = ["%s %s" % (d.key, d.query_options) for d in schema.schema]
        print("%s: mid %s, %s %s %s, schema %s" % (cid, one.mid, one.type, one.scale, one.units, ", ".join(keys)))
    try:
        client.Counters.get("no.such.counter")
    except NotFound as error:
        print("refused:", error.messages[0].default_message)
    else:
        raise SystemExit("an unknown counter was found")

    sets = client.CounterSets.list()
    for_vms = [s for s in sets if s.counters[0].cid.endswith(".VM")]
    assert for_vms and client.CounterSets.get(for_vms[0].id).counters == for_vms[0].counters
    print("counter sets:", ", ".join(s.id for s in sets))
    return providers[0].id_value, for_vms[0].id


def spec(cid=None, set_id=None, resources=(), **more):
    cid_mid = vstats.CidMid(cid=cid) if cid else None
    counters = vstats.AcqSpecs.CounterSpec(cid_mid=cid_mid, set_id=set_id)
    return vstats.AcqSpecs.CreateSpec(counters=counters, resources=list(resources), interval=INTERVAL, **more)


def host_is(host):
    return vstats.RsrcId(type="HOST", id_value=host)


def all_vms():
    return vstats.RsrcId(type="VM", id_value="", predicate="ALL")


def acquire(client, host, set_id):
    specs = client.AcqSpecs
    until = int(time.time()) + 600
    ids = [
        specs.create(spec("cpu.capacity.demand.HOST", resources=[host_is(host)], memo_="one host", expiration=until)),
        specs.create(spec("mem.capacity.usage.HOST", resources=[host_is(host)], expiration=until)),
        specs.create(spec("disk.throughput.usage.VM", resources=[all_vms(), host_is(host)], expiration=until)),
        specs.create(spec(set_id=set_id, resources=[all_vms()])),
    ]
    info = specs.get(ids[0])
    assert info.status == "ENABLED" and info.memo_ == "one host" and info.interval == INTERVAL, info
    assert (info.resources[0].predicate, info.resources[0].scheme) == ("EQUAL", "moid"), info
    listed = specs.list(vstats.AcqSpecs.FilterSpec(page=None))
    assert set(ids) <= {s.id for s in listed.acq_specs}, listed
    print("specifications:", ", ".join("%s %s" % (s.id, s.status) for s in listed.acq_specs))

    specs.update(ids[1], vstats.AcqSpecs.UpdateSpec(interval=1, memo_="every second"))
    info = specs.get(ids[1])
    assert (info.interval, info.memo_, info.expiration) == (1, "every second", until), info
    print("updated: %s, every %d s" % (info.id, info.interval))

    for wrong in (
        spec("no.such.counter", resources=[host_is(host)]),
        spec("cpu.capacity.demand.HOST", resources=[]),
        spec("cpu.capacity.demand.HOST", resources=[vstats.RsrcId(id_value=host)]),
        spec(resources=[host_is(host)]),
    ):
        try:
            specs.create(wrong)
        except InvalidArgument as error:
            print("refused:", error.messages[0].default_message)
        else:
            raise SystemExit("a wrong specification was accepted")
    return ids


def points(client, **filters):
    """All pages of a query."""
    out, page = [], None
    while True:
        result = client.Data.query_data_points(vstats.Data.FilterSpec(page=page, **filters))
        out += result.data_points
        page = result.next
        if not page:
            return out


def wait_for_points(client, count, **filters):
    for _ in range(200):
        found = points(client, **filters)
        if len(found) >= count:
            return found
        time.sleep(0.1)
    raise SystemExit("no %d points of %s" % (count, filters))


def query(client, host, has_vm):
    demand = wait_for_points(client, 3, cid="cpu.capacity.demand.HOST")
    steps = {b.ts - a.ts for a, b in zip(demand, demand[1:]) if a.rid == b.rid}
    assert steps == {INTERVAL}, steps
    memory = wait_for_points(client, 3, cid="mem.capacity.usage.HOST", types=["HOST"], order="DEFAULT",
                             resources=["type.HOST.moid=" + host], start=demand[0].ts - 60, end=int(time.time()) + 5)
    for point in demand[-1:] + memory[-2:]:
        address = client.ResourceAddresses.get(point.rid)
        of = ", ".join("%s %s" % (i.type, i.id_value) for i in address.resource_ids)
        print("%s of %s at %d: %s" % (point.cid, of, point.ts, point.val))
    by_metric = points(client, metric="mem.capacity.usage")
    assert len(by_metric) >= len(memory)
    if has_vm:
        for point in wait_for_points(client, 2, cid="disk.throughput.usage.VM")[-2:]:
            address = client.ResourceAddresses.get(point.rid)
            assert {i.type for i in address.resource_ids} == {"VM", "HOST"}, address
            print("%s of %s at %d: %s" % (point.cid, address.resource_ids[0].id_value, point.ts, point.val))
    addresses = client.ResourceAddresses.list(vstats.ResourceAddresses.FilterSpec(types=["HOST"]))
    assert addresses.rsrc_addrs, addresses
    for wrong in (dict(resources=["type.HOST=no-such-host"]), dict(resources=["HOST"]), dict(start=2, end=1),
                  dict(order="RANDOM"), dict(page="nonsense")):
        try:
            points(client, **{k: v for k, v in wrong.items() if k != "page"}) if "page" not in wrong else \
                client.Data.query_data_points(vstats.Data.FilterSpec(page="nonsense"))
        except InvalidArgument as error:
            print("refused:", error.messages[0].id)
        else:
            raise SystemExit("a wrong filter was accepted: %s" % wrong)


def main():
    server, user, password, ca_file = sys.argv[1:5]
    has_vm = "--vm" in sys.argv
    http = requests.Session()
    http.verify = ca_file
    # The client logs in; the stubs of this service are made from its configuration.
    vsphere = create_vsphere_client(server=server, username=user, password=password, session=http)
    client = vstats.StubFactory(vsphere._stub_config)
    host, set_id = discover(client)
    ids = acquire(client, host, set_id)
    query(client, host, has_vm)
    for spec_id in ids:
        client.AcqSpecs.delete(spec_id)
    try:
        client.AcqSpecs.get(ids[0])
    except NotFound as error:
        print("deleted:", error.messages[0].default_message)
    else:
        raise SystemExit("a deleted specification was found")
    print("done")


if __name__ == "__main__":
    main()
