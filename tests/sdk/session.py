"""Logs in, looks at its session, queries the feed's entrance and logs out, with VMware's unmodified Python SDK over TLS.

  session.py HOST:PORT USER PASSWORD CA_FILE

Prints one line per step; ends with a failure when a step does not do what the SDK's users rely on.
"""
import sys

import requests
from com.vmware.cis_client import Session
from com.vmware.vapi.std.errors_client import Unauthenticated
from vmware.vapi.lib.connect import get_requests_connector
from vmware.vapi.security.session import create_session_security_context
from vmware.vapi.security.user_password import create_user_password_security_context
from vmware.vapi.stdlib.client.factories import StubConfigurationFactory
from vmware.vapi.vsphere.client import create_vsphere_client


def main():
    server, user, password, ca_file = sys.argv[1:5]
    http = requests.Session()
    http.verify = ca_file

    # The way every sample goes: the client of the SDK logs in by itself.
    client = create_vsphere_client(server=server, username=user, password=password, session=http)
    stubs = client._stub_config
    info = Session(stubs).get()
    assert info.user == user, info
    assert info.created_time.tzinfo is None or info.created_time.utcoffset() is not None, info
    assert info.last_accessed_time >= info.created_time, info
    print("client: session of", info.user, "since", info.created_time.isoformat())
    Session(stubs).delete()
    try:
        Session(stubs).get()
    except Unauthenticated as error:
        assert error.messages, error
        print("client: logged out,", type(error).__name__, error.messages[0].id)
    else:
        raise SystemExit("a session goes on after it was deleted")

    # The way of those who build the stubs themselves.
    connector = get_requests_connector(session=http, url="https://%s/api" % server)
    connector.set_security_context(create_user_password_security_context(user, password))
    session = Session(StubConfigurationFactory.new_std_configuration(connector))
    token = session.create()
    connector.set_security_context(create_session_security_context(token))
    print("stubs: token of", len(token), "characters, user", session.get().user)
    session.delete()
    print("stubs: logged out")

    for wrong_user, wrong_password in ((user, password + "x"), ("nobody@nowhere", password)):
        connector.set_security_context(create_user_password_security_context(wrong_user, wrong_password))
        try:
            session.create()
        except Unauthenticated as error:
            print("refused:", wrong_user, error.messages[0].default_message)
        else:
            raise SystemExit("a wrong login was accepted")
    print("done")


if __name__ == "__main__":
    main()
