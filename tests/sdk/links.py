"""Links two sites, looks at the link from both, manages administrators and ends the link, with VMware's unmodified Python SDK over TLS.

  links.py HOST:PORT CA_FILE PEER_HOST:PORT PEER_CA_FILE USER PASSWORD PEER_NAME PEER_THUMBPRINT

The first site trusts the other's certificate without being told its thumbprint. The calls are those of the sample for hybrid links:
create, list, delete; and the rest of the services' stubs. Prints one line per step; ends with a failure when a step does not do what
the SDK's users rely on.
"""
import sys
import time

import requests
from com.vmware.vapi.std.errors_client import AlreadyExists, InvalidArgument, NotFound, UnverifiedPeer
from com.vmware.vcenter.hvc_client import Links
from vmware.vapi.data.value import OptionalValue, StringValue, StructValue
from vmware.vapi.vsphere.client import create_vsphere_client


def connect(server, user, password, ca_file):
    http = requests.Session()
    http.verify = ca_file
    return create_vsphere_client(server=server, username=user, password=password, session=http)


def refused(kind, call, *args):
    try:
        call(*args)
    except kind as error:
        print("refused:", type(error).__name__, error.messages[0].default_message)
        return error
    raise SystemExit("%s was not raised" % kind.__name__)


def healthy(links, link):
    for _ in range(100):
        info = links.get(link)
        if info.connection_health_status == "HEALTHY":
            assert info.health_status_message is None
            return info
        time.sleep(0.1)
    raise SystemExit("the link does not become healthy: %s" % info)


def invoke(client, operation, **fields):
    """An operation of the sync providers, for which the package has no stub: by the runtime that its stubs stand on."""
    connector = client._stub_config.connector
    service = "com.vmware.vcenter.hvc.links.sync.providers"
    values = {name: StringValue(value) for name, value in fields.items()}
    if operation == "start":
        values["credentials"] = OptionalValue()
    result = connector.get_api_provider().invoke(
        service, operation, StructValue(name="operation-input", values=values), connector.new_context())
    if not result.success():
        return None, result.error.name
    return result.output, None


def sync_all(client, link):
    listed, _ = invoke(client, "list", link=link)
    names = [item.get_field("provider").value for item in listed]
    assert names == ["inventory", "tagging", "acquisition-specs"], names
    for name in names:
        for _ in range(100):
            _, error = invoke(client, "start", link=link, provider=name)
            if error is None:
                break
            # One in the background.
            assert error == "com.vmware.vapi.std.errors.resource_busy", error
            time.sleep(0.1)
        for _ in range(100):
            info, _ = invoke(client, "get", link=link, provider=name)
            session = info.get_field("current_session_info").value
            stage = session.get_field("stage").value
            if stage in ("COMPLETED", "FAILED"):
                break
            time.sleep(0.1)
        assert stage == "COMPLETED" and info.get_field("status").value == "SUCCEEDED", (name, stage)
        assert session.get_field("completion_time").is_set() and not session.get_field("exception").is_set()
        print("synced", name, "work", session.get_field("completed_work").value, "of", session.get_field("total_work").value)
    _, error = invoke(client, "get", link=link, provider="none")
    assert error == "com.vmware.vapi.std.errors.not_found", error


def main():
    server, ca_file, peer, peer_ca_file, user, password, peer_name, thumbprint = sys.argv[1:9]
    client = connect(server, user, password, ca_file)
    links = client.vcenter.hvc.Links
    # A client logs out when nobody holds it.
    peer_client = connect(peer, user, password, peer_ca_file)
    there = peer_client.vcenter.hvc.Links
    host, port = peer.split(":")

    def spec(**more):
        fields = dict(psc_hostname=host, port=port, domain_name=peer_name, username=user, password=password)
        fields.update(more)
        return Links.CreateSpec(**fields)

    refused(InvalidArgument, links.create, spec(password="wrong " + password))
    error = refused(UnverifiedPeer, links.create, spec(ssl_thumbprint="00" * 32))
    found = error.data.convert_to(Links.CertificateInfo).ssl_thumbprint
    assert found == thumbprint, (found, thumbprint)

    # The sample sets no thumbprint.
    link = links.create(spec(admin_groups={"admins@" + peer_name}))
    print("created", link)
    refused(AlreadyExists, links.create, spec())
    summaries = links.list()
    assert [(s.link, s.display_name) for s in summaries] == [(link, peer_name)], summaries
    assert [s.link for s in there.list()] == [link]
    print("here:", healthy(links, link).connection_health_status, "there:", healthy(there, link).connection_health_status)
    refused(NotFound, links.get, "no-such-link")

    sync_all(client, link)

    administrators = client.vcenter.hvc.management.Administrators
    assert administrators.get() == {"admins@" + peer_name}, administrators.get()
    administrators.add("ops@" + peer_name)
    administrators.add("OPS@" + peer_name)
    assert administrators.get() == {"admins@" + peer_name, "ops@" + peer_name}, administrators.get()
    administrators.remove("nobody@" + peer_name)
    administrators.remove("Admins@" + peer_name)
    assert administrators.get() == {"ops@" + peer_name}, administrators.get()
    administrators.set({"a@b", "c@d"})
    assert administrators.get() == {"a@b", "c@d"}, administrators.get()
    refused(InvalidArgument, administrators.add, "no group")
    print("administrators:", ", ".join(sorted(administrators.get())))

    links.delete(link)
    assert links.list() == [] and there.list() == []
    print("deleted")
    refused(NotFound, links.delete, link)
    link = links.create(spec(ssl_thumbprint=thumbprint.lower().replace(":", "")))
    refused(InvalidArgument, there.delete_with_credentials, link, Links.Credentials(user_name=user, password="wrong"))
    there.delete_with_credentials(link, Links.Credentials(user_name=user, password=password))
    assert links.list() == [] and there.list() == []
    print("deleted from the other side")
    print("done")


if __name__ == "__main__":
    main()
