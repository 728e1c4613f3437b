"""Finds a cluster by its name with pyVmomi, and tags it with VMware's unmodified Python SDK, both over TLS.

  tagging.py HOST:PORT USER PASSWORD CA_FILE CLUSTER_NAME

The calls are those of VMware's tagging workflow, in its order, and after them the rest of the tagging services. Prints one line per
step; ends with a failure when a step does not do what the users of these clients rely on.
"""
import ssl
import sys

import requests
from com.vmware.cis.tagging_client import Category, CategoryModel, Tag, TagAssociation
from com.vmware.vapi.std.errors_client import AlreadyExists, InvalidArgument, NotFound
from com.vmware.vapi.std_client import DynamicID
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim, vmodl
from vmware.vapi.vsphere.client import create_vsphere_client

SINGLE, MULTIPLE = CategoryModel.Cardinality.SINGLE, CategoryModel.Cardinality.MULTIPLE


def refused(errors, call, *args):
    try:
        call(*args)
    except errors as error:
        print("refused:", type(error).__name__, getattr(error, "msg", None) or error.messages[0].default_message)
    else:
        raise SystemExit("%s%r was not refused" % (call.__name__, args))


def connect(host, port, user, password, ca_file):
    context = ssl.create_default_context(cafile=ca_file)
    return SmartConnect(host=host, port=port, user=user, pwd=password, sslContext=context)


def find(content, kind, name):
    """An object by its name, and the view that it was found in."""
    view = content.viewManager.CreateContainerView(content.rootFolder, [kind], True)
    found = [item for item in view.view if item.name == name]
    assert len(found) == 1, found
    return found[0], view


def category_spec(name, cardinality, types=(), **more):
    spec = Category.CreateSpec(name=name, description="of a test", cardinality=cardinality, **more)
    spec.associable_types = set(types)
    return spec


def tag_spec(name, category, **more):
    return Tag.CreateSpec(name=name, description="of a test", category_id=category, **more)


def workflow(client, cluster):
    """The calls of VMware's sample."""
    categories, tags, associations = client.Category, client.Tag, client.TagAssociation
    assert categories.list() == [] and tags.list() == []
    category = categories.create(category_spec("tier", MULTIPLE))
    assert categories.list() == [category]
    model = categories.get(category)
    assert (model.name, model.cardinality, model.associable_types, model.used_by) == ("tier", MULTIPLE, set(), set()), model
    print("category:", category)
    tag = tags.create(tag_spec("gold", category))
    assert tags.list() == [tag]
    # The sample means to change the description, and sets an attribute that is none: nothing is set.
    spec = Tag.UpdateSpec()
    spec.setDescription = "updated"
    tags.update(tag, spec)
    model = tags.get(tag)
    assert (model.name, model.description, model.category_id) == ("gold", "of a test", category), model
    print("tag:", tag)
    associations.attach(tag_id=tag, object_id=cluster)
    associations.attach(tag_id=tag, object_id=cluster)
    assert associations.list_attached_tags(cluster) == [tag]
    attached = associations.list_attached_objects(tag)
    assert [(o.type, o.id) for o in attached] == [(cluster.type, cluster.id)], attached
    print("attached to: %s %s" % (cluster.type, cluster.id))
    associations.detach(tag, cluster)
    assert associations.list_attached_tags(cluster) == []
    tags.delete(tag)
    categories.delete(category)
    assert categories.list() == [] and tags.list() == []
    print("workflow done")


def the_rest(client, cluster):
    categories, tags, associations = client.Category, client.Tag, client.TagAssociation
    tier = categories.create(category_spec("tier", SINGLE, ["ClusterComputeResource"]))
    own = "urn:vmomi:InventoryServiceCategory:11111111-2222-4333-8444-555555555555:GLOBAL"
    assert categories.create(category_spec("owner", MULTIPLE, category_id=own)) == own
    refused(AlreadyExists, categories.create, category_spec("tier", SINGLE))
    refused(InvalidArgument, categories.create, category_spec(" ", SINGLE))
    refused(NotFound, categories.get, "urn:vmomi:InventoryServiceCategory:gone:GLOBAL")
    categories.update(tier, Category.UpdateSpec(associable_types={"ClusterComputeResource", "Folder"}))
    assert categories.get(tier).associable_types == {"ClusterComputeResource", "Folder"}
    refused(InvalidArgument, categories.update, tier, Category.UpdateSpec(associable_types={"Folder"}))
    categories.add_to_used_by(tier, "backup")
    assert categories.list_used_categories("backup") == [tier] and categories.get(tier).used_by == {"backup"}
    categories.remove_from_used_by(tier, "backup")
    assert categories.list_used_categories("backup") == []
    categories.revoke_propagating_permissions(tier)

    gold, silver = (tags.create(tag_spec(name, tier)) for name in ("gold", "silver"))
    me = tags.create(tag_spec("me", own))
    refused(AlreadyExists, tags.create, tag_spec("gold", tier))
    refused(NotFound, tags.create, tag_spec("gold", "gone"))
    refused(AlreadyExists, tags.update, silver, Tag.UpdateSpec(name="gold"))
    tags.update(silver, Tag.UpdateSpec(name="bronze", description="third"))
    assert (tags.get(silver).name, tags.get(silver).description) == ("bronze", "third")
    assert set(tags.list_tags_for_category(tier)) == {gold, silver}
    tags.add_to_used_by(gold, "backup")
    assert tags.list_used_tags("backup") == [gold] and tags.get(gold).used_by == {"backup"}
    tags.remove_from_used_by(gold, "backup")
    tags.revoke_propagating_permissions(gold)

    host, vm = DynamicID(type="HostSystem", id="host-1"), DynamicID(type="VirtualMachine", id="vm-1")
    assert set(associations.list_attachable_tags(cluster)) == {gold, silver, me}
    assert associations.list_attachable_tags(vm) == [me]
    result = associations.attach_multiple_tags_to_object(cluster, [gold, silver, me])
    assert not result.success and len(result.error_messages) == 1, result
    print("refused in a batch:", result.error_messages[0].default_message)
    assert associations.list_attached_tags(cluster) == [gold, me]
    assert associations.list_attachable_tags(cluster) == []
    refused(InvalidArgument, associations.attach, silver, cluster)
    refused(InvalidArgument, associations.attach, gold, host)
    refused(NotFound, associations.attach, me, DynamicID(type="HostSystem", id="gone"))
    refused(NotFound, associations.attach, "gone", host)
    result = associations.attach_tag_to_multiple_objects(me, [host, vm, cluster])
    assert result.success and result.error_messages == [], result
    by_tag = {t.tag_id: {o.id for o in t.object_ids} for t in associations.list_attached_objects_on_tags([me, gold])}
    assert by_tag == {me: {"host-1", "vm-1", cluster.id}, gold: {cluster.id}}, by_tag
    by_object = {o.object_id.id: o.tag_ids for o in associations.list_attached_tags_on_objects([host, cluster])}
    assert by_object == {"host-1": [me], cluster.id: [gold, me]}, by_object
    assert associations.detach_tag_from_multiple_objects(me, [host, vm]).success
    assert associations.detach_multiple_tags_from_object(cluster, [gold, silver]).success
    assert associations.list_attached_tags(cluster) == [me]

    associations.attach(gold, cluster)
    tags.delete(gold)
    categories.delete(own)
    assert associations.list_attached_tags(cluster) == []
    categories.delete(tier)
    assert tags.list() == []
    print("the rest done")


def main(server, user, password, ca_file, cluster_name):
    host, port = server.rsplit(":", 1)
    refused(vim.fault.InvalidLogin, connect, host, int(port), user, "wrong", ca_file)
    service = connect(host, int(port), user, password, ca_file)
    content = service.RetrieveContent()
    print("service:", content.about.fullName, content.about.apiVersion)
    found, view = find(content, vim.ClusterComputeResource, cluster_name)
    print("cluster:", found._GetMoId())
    refused(vmodl.query.InvalidProperty, lambda: found.summary)
    refused(vmodl.fault.ManagedObjectNotFound, lambda: vim.VirtualMachine("gone", service._stub).name)

    session = requests.session()
    session.verify = ca_file
    client = create_vsphere_client(server=server, username=user, password=password, session=session)
    config = client._stub_config
    client.Category, client.Tag, client.TagAssociation = Category(config), Tag(config), TagAssociation(config)
    cluster = DynamicID(type="ClusterComputeResource", id=found._GetMoId())
    workflow(client, cluster)
    the_rest(client, cluster)
    del client

    # The SOAP session outlives the other one.
    view.Destroy()
    Disconnect(service)
    refused(vim.fault.NotAuthenticated, lambda: found.name)
    print("done")


if __name__ == "__main__":
    main(*sys.argv[1:])
