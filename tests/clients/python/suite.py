"""The official Python client against a server with no node. Usage: KUBECONFIG=FILE suite.py"""

import os
import sys
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "python-client"
# Seconds until something has happened, on the busiest machine.
LONG = 60


def code(call, *args, **kwargs):
    """The code that a call fails with; None when it does not."""
    try:
        call(*args, **kwargs)
    except ApiException as failure:
        return failure.status
    return None


def config_map(name, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"app": "py"}), data=data)


def objects(core):
    made = core.create_namespaced_config_map(NAMESPACE, config_map("a", k="ä"))
    assert made.metadata.uid and made.data == {"k": "ä"}
    assert code(core.create_namespaced_config_map, NAMESPACE, config_map("a")) == 409
    assert code(core.create_namespaced_config_map, NAMESPACE, config_map("Not_Good")) == 422
    patched = core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"l": "2"}})
    assert patched.data == {"k": "ä", "l": "2"}
    made.data = {"k": "stale"}
    assert code(core.replace_namespaced_config_map, "a", NAMESPACE, made) == 409
    assert len(core.list_namespaced_config_map(NAMESPACE, label_selector="app in (py)").items) == 1
    core.delete_namespaced_config_map("a", NAMESPACE)
    assert code(core.read_namespaced_config_map, "a", NAMESPACE) == 404


def watching(core):
    since = core.list_namespaced_config_map(NAMESPACE).metadata.resource_version
    core.create_namespaced_config_map(NAMESPACE, config_map("w"))
    core.delete_namespaced_config_map("w", NAMESPACE)
    seen = []
    events = watch.Watch()
    for event in events.stream(core.list_namespaced_config_map, NAMESPACE, resource_version=since,
                               timeout_seconds=LONG, label_selector="app=py"):
        seen.append((event["type"], event["object"].metadata.name))
        if len(seen) == 2:
            events.stop()
    assert seen == [("ADDED", "w"), ("DELETED", "w")], seen


def pages(core):
    for i in range(5):
        core.create_namespaced_config_map(NAMESPACE, config_map(f"page-{i}"))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map(NAMESPACE, limit=2, label_selector="app=py", _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{i}" for i in range(5)], names


def manifests(api):
    labels = {"app": "web"}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": NAMESPACE},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}},
    }
    utils.create_from_dict(api, deployment)
    apps = client.AppsV1Api(api)
    scale = apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 2}})
    assert scale.spec.replicas == 2
    until(lambda: (apps.read_namespaced_deployment("web", NAMESPACE).status.replicas or 0) == 2)


def until(done):
    end = time.monotonic() + LONG
    while not done():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def custom(api):
    """The dynamic client: discovery, a definition's kind, server-side apply."""
    client.ApiextensionsV1Api(api).create_custom_resource_definition({
        "metadata": {"name": "things.py.example.com"},
        "spec": {"group": "py.example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
                 "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {
                     "type": "object", "properties": {"size": {"type": "integer", "maximum": 9}}}}}]}})
    objects = client.CustomObjectsApi(api)
    kind = ("py.example.com", "v1", NAMESPACE, "things")
    until(lambda: code(objects.list_namespaced_custom_object, *kind) is None)
    things = dynamic.DynamicClient(api).resources.get(api_version="py.example.com/v1", kind="Thing")
    thing = {"apiVersion": "py.example.com/v1", "kind": "Thing", "metadata": {"name": "t"}, "size": 3}
    applied = things.server_side_apply(body=thing, name="t", namespace=NAMESPACE, field_manager="suite")
    assert applied.size == 3 and applied.metadata.managedFields[0].manager == "suite"
    assert code(things.create, body={**thing, "metadata": {"name": "u"}, "size": 10}, namespace=NAMESPACE) == 422


def main():
    config.load_kube_config(os.environ["KUBECONFIG"])
    api = client.ApiClient()
    core = client.CoreV1Api(api)
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    assert client.VersionApi(api).get_code().minor == "36"
    topics = [(objects, core), (watching, core), (pages, core), (manifests, api), (custom, api)]
    for topic, argument in topics:
        topic(argument)
        print("ok", topic.__name__)


if __name__ == "__main__":
    sys.exit(main())
