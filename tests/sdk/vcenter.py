"""Lists an inventory and switches virtual machines with VMware's unmodified Python SDK, over TLS.

  vcenter.py HOST:PORT USER PASSWORD CA_FILE lists
  vcenter.py HOST:PORT USER PASSWORD CA_FILE power VM SELF_RESETTING_VM

`lists` expects the inventory of the test that calls it; `power` two running machines of QEMU, the second of which ends when it is reset.
Prints one line per step; ends with a failure when a step does not do what the users of the SDK rely on.
"""
import sys
import time

import requests
from com.vmware.vapi.std.errors_client import (
    AlreadyInDesiredState, Error, InvalidArgument, NotAllowedInCurrentState, NotFound, UnableToAllocateResource,
    Unsupported)
from com.vmware.vcenter.vm.guest_client import Power as GuestPower
from com.vmware.vcenter.vm_client import GuestOS, Hardware, Power
from com.vmware.vcenter_client import VM, Cluster, Datacenter, Datastore, Folder, Host, Network, ResourcePool
from vmware.vapi.vsphere.client import create_vsphere_client


def refused(errors, call, *args):
    try:
        call(*args)
    except errors as error:
        print("refused:", type(error).__name__, error.messages[0].default_message)
    else:
        raise SystemExit("%s%r was not refused" % (call.__name__, args))


def equal(found, expected):
    assert found == expected, (found, expected)


def lists(vcenter):
    found = vcenter.VM.list()
    equal([vm.vm for vm in found], ["vm-1", "vm-2", "west~vm-1"])
    equal((found[0].name, found[0].power_state, found[0].cpu_count, found[0].memory_size_mib),
          ("v1", Power.State.POWERED_ON, 4, 2048))
    equal((found[1].cpu_count, found[1].power_state), (None, Power.State.POWERED_OFF))
    print("machines:", ", ".join(vm.name for vm in found))
    for member, values, ids in (
            ("vms", {"vm-2", "nothing"}, ["vm-2"]), ("names", {"v1"}, ["vm-1", "west~vm-1"]),
            ("hosts", {"host-1"}, ["vm-1", "vm-2"]), ("clusters", {"domain-c1"}, ["vm-1", "vm-2"]),
            ("datacenters", {"dc-1"}, ["vm-1", "vm-2"]), ("folders", {"group-v1"}, ["vm-1"]),
            ("resource_pools", {"resgroup-1"}, ["vm-1"]), ("power_states", {Power.State.POWERED_OFF}, ["vm-2"]),
            ("names", set(), ["vm-1", "vm-2", "west~vm-1"])):
        equal([vm.vm for vm in vcenter.VM.list(VM.FilterSpec(**{member: values}))], ids)
    vm = vcenter.VM.get("vm-1")
    equal((vm.name, vm.guest_os, vm.hardware.version), ("v1", GuestOS.UBUNTU_64, Hardware.Version.VMX_21))
    equal((vm.cpu.count, vm.cpu.cores_per_socket, vm.memory.size_mib), (4, 2, 2048))
    equal((vm.identity, vm.boot.delay, vm.boot_devices, vm.cdroms), (None, 0, [], {}))
    equal(vm.disks["2000"].capacity, 1 << 30)
    equal(vm.disks["2000"].backing.vmdk_file, "/images/v1.qcow2")
    equal((vm.nics["4000"].mac_address, vm.nics["4000"].backing.network), ("52:54:00:00:00:01", "net-1"))
    equal(vcenter.VM.get("west~vm-1").cpu.count, 0)
    print("machine:", vm.name, vm.guest_os, vm.power_state, vm.boot.type)
    refused(NotFound, vcenter.VM.get, "host-1")
    refused(InvalidArgument, vcenter.VM.list, VM.FilterSpec(power_states={"NO_SUCH_STATE"}))

    hosts = vcenter.Host.list()
    equal([(host.host, host.connection_state, host.power_state) for host in hosts],
          [("host-1", Host.ConnectionState.CONNECTED, Host.PowerState.POWERED_ON),
           ("host-2", Host.ConnectionState.NOT_RESPONDING, None)])
    equal([host.name for host in vcenter.Host.list(Host.FilterSpec(standalone=True))], ["h2"])
    print("hosts:", ", ".join(host.name for host in hosts))
    clusters = vcenter.Cluster.list(Cluster.FilterSpec(datacenters={"dc-1"}))
    equal([(cluster.cluster, cluster.ha_enabled, cluster.drs_enabled) for cluster in clusters],
          [("domain-c1", False, True)])
    equal(vcenter.Cluster.get("domain-c1").resource_pool, "resgroup-1")
    equal([one.name for one in vcenter.Datacenter.list()], ["fra"])
    datacenter = vcenter.Datacenter.get("dc-1")
    equal((datacenter.vm_folder, datacenter.host_folder), ("group-v1", ""))
    refused(NotFound, vcenter.Datacenter.get, "dc-2")
    stores = vcenter.Datastore.list(Datastore.FilterSpec(types={Datastore.Type.NFS}))
    equal([(store.name, store.free_space, store.capacity) for store in stores], [("nfs", 5, 9)])
    equal(vcenter.Datastore.get("datastore-1").accessible, True)
    networks = vcenter.Network.list(Network.FilterSpec(types={Network.Type.STANDARD_PORTGROUP}))
    equal([network.network for network in networks], ["net-1"])
    folders = vcenter.Folder.list(Folder.FilterSpec(type=Folder.Type.VIRTUAL_MACHINE, datacenters={"dc-1"}))
    equal([folder.name for folder in folders], ["vm"])
    pools = vcenter.ResourcePool.list(ResourcePool.FilterSpec(clusters={"domain-c1"}))
    equal([pool.resource_pool for pool in pools], ["resgroup-1"])
    pool = vcenter.ResourcePool.get("resgroup-1")
    equal((pool.cpu_allocation.limit, pool.memory_allocation, pool.resource_pools), (-1, None, set()))
    refused(UnableToAllocateResource, vcenter.Folder.list, Folder.FilterSpec(datacenters={"dc-many"}))
    print("the rest: as expected")

    power = vcenter.vm.Power
    equal(power.get("vm-2").state, Power.State.POWERED_OFF)
    refused(NotFound, power.get, "vm-9")
    refused(Unsupported, power.start, "vm-2")
    refused(Error, power.stop, "vm-1")


def power(vcenter, vm, second):
    power, guest = vcenter.vm.Power, vcenter.vm.guest.Power
    state = lambda: power.get(vm).state
    equal(state(), Power.State.POWERED_ON)
    refused(AlreadyInDesiredState, power.start, vm)
    power.suspend(vm)
    equal(state(), Power.State.SUSPENDED)
    refused(AlreadyInDesiredState, power.suspend, vm)
    refused(NotAllowedInCurrentState, power.reset, vm)
    refused(NotAllowedInCurrentState, guest.shutdown, vm)
    power.start(vm)
    equal(state(), Power.State.POWERED_ON)
    print("suspended and started")
    power.reset(vm)
    equal((state(), guest.get(vm).state), (Power.State.POWERED_ON, GuestPower.State.RUNNING))
    assert guest.get(vm).operations_ready
    refused(Unsupported, guest.reboot, vm)
    guest.shutdown(vm)
    print("reset, and its power button pressed")
    power.stop(vm)
    equal((state(), guest.get(vm).state), (Power.State.POWERED_OFF, GuestPower.State.NOT_RUNNING))
    equal(vcenter.VM.list(VM.FilterSpec(vms={vm}))[0].power_state, Power.State.POWERED_OFF)
    refused(AlreadyInDesiredState, power.stop, vm)
    refused(NotAllowedInCurrentState, power.reset, vm)
    refused(Unsupported, power.start, vm)
    refused(NotAllowedInCurrentState, guest.reboot, vm)
    print("stopped")
    power.reset(second)
    deadline = time.monotonic() + 30
    while power.get(second).state != Power.State.POWERED_OFF:
        assert time.monotonic() < deadline, "a machine that ends when it is reset did not end"
        time.sleep(0.1)
    print("the other one was reset")


def main():
    server, user, password, ca_file, mode = sys.argv[1:6]
    http = requests.Session()
    http.verify = ca_file
    # It logs out when it is let go.
    client = create_vsphere_client(server=server, username=user, password=password, session=http)
    if mode == "lists":
        lists(client.vcenter)
    else:
        power(client.vcenter, *sys.argv[6:])
    print("done")


main()
