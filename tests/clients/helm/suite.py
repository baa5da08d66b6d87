"""Helm against a server with no node: a chart with hooks, a definition and an object of it is installed, upgraded, rolled
back and uninstalled. Usage: KUBECONFIG=FILE suite.py"""

import os
import sys
import threading
import time

import helm_python as helm
from kubernetes import client, config
from kubernetes.client.rest import ApiException

NAMESPACE = "shop"
CHART = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chart")
# Seconds until something has happened, on the busiest machine.
LONG = 120


class Jobs(threading.Thread):
    """What a node does with the pods of jobs: they succeed. Counts them."""

    def __init__(self, core):
        super().__init__(daemon=True)
        self.core, self.done = core, set()

    def run(self):
        while True:
            for pod in self.core.list_namespaced_pod(NAMESPACE, label_selector="batch.kubernetes.io/job-name").items:
                if pod.status.phase == "Pending":
                    self.core.patch_namespaced_pod_status(pod.metadata.name, NAMESPACE, {"status": {"phase": "Succeeded"}})
                    self.done.add(pod.metadata.uid)
            time.sleep(0.1)


def is_there(read, name):
    try:
        return read(name, NAMESPACE)
    except ApiException as failure:
        assert failure.status == 404, failure
        return None


def revision_of(core, name):
    found = is_there(core.read_namespaced_config_map, name)
    return found and found.data["revision"]


def install(helm_config, core, jobs):
    release = helm_config.install(CHART, "shop", {"replicas": 2}, wait="hookOnly", timeout=LONG, create_namespace=True)
    assert (release["revision"], release["status"]) == (1, "deployed"), release
    settings = core.read_namespaced_config_map("shop-settings", NAMESPACE)
    assert settings.data == {"colour": "red", "revision": "1", "version": "36"}, settings.data
    assert settings.metadata.labels["app.kubernetes.io/managed-by"] == "Helm"
    assert client.AppsV1Api().read_namespaced_deployment("shop-web", NAMESPACE).spec.replicas == 2
    ware = client.CustomObjectsApi().get_namespaced_custom_object("shop.example.com", "v1", NAMESPACE, "wares", "shop-ware")
    assert ware["spec"] == {"price": 3}
    # The job ended before anything else began, and went.
    assert len(jobs.done) == 1
    assert is_there(client.BatchV1Api().read_namespaced_job, "shop-migrate") is None
    assert [revision_of(core, f"shop-{hook}") for hook in ("pre-install", "post-install", "pre-upgrade")] == ["1", "1", None]


def upgrade(helm_config, core, jobs):
    release = helm_config.upgrade(CHART, "shop", {"colour": "blue", "extra": True, "replicas": 3}, wait="hookOnly", timeout=LONG)
    assert (release["revision"], release["status"]) == (2, "deployed"), release
    assert core.read_namespaced_config_map("shop-settings", NAMESPACE).data["colour"] == "blue"
    assert client.AppsV1Api().read_namespaced_deployment("shop-web", NAMESPACE).spec.replicas == 3
    assert is_there(core.read_namespaced_service, "shop-extra")
    assert len(jobs.done) == 2
    assert [revision_of(core, f"shop-{hook}") for hook in ("post-install", "pre-upgrade", "post-upgrade")] == ["1", "2", "2"]


def rollback(helm_config, core, _):
    helm_config.rollback("shop", version=1, wait="hookOnly", timeout=LONG)
    status = helm_config.status("shop")
    assert (status["revision"], status["status"]) == (3, "deployed"), status
    assert core.read_namespaced_config_map("shop-settings", NAMESPACE).data["colour"] == "red"
    assert client.AppsV1Api().read_namespaced_deployment("shop-web", NAMESPACE).spec.replicas == 2
    # What the first revision had not is gone.
    assert is_there(core.read_namespaced_service, "shop-extra") is None
    assert revision_of(core, "shop-pre-rollback") and revision_of(core, "shop-post-rollback")
    assert helm_config.get_values("shop") == {"replicas": 2}


def refused(helm_config, core, _):
    try:
        helm_config.upgrade(CHART, "shop", {"replicas": -1}, wait="hookOnly", timeout=LONG)
    except helm.HelmError as failure:
        assert "spec.replicas" in str(failure), failure
    else:
        raise AssertionError("a negative number of replicas was taken")
    assert [(r["revision"], r["status"]) for r in helm_config.history("shop")] == [
        (1, "superseded"), (2, "superseded"), (3, "deployed"), (4, "failed")]


def uninstall(helm_config, core, _):
    helm_config.uninstall("shop", wait="legacy", timeout=LONG)
    assert helm_config.list() == []
    assert is_there(core.read_namespaced_config_map, "shop-settings") is None
    assert is_there(client.AppsV1Api().read_namespaced_deployment, "shop-web") is None
    assert revision_of(core, "shop-post-delete")
    secrets = core.list_namespaced_secret(NAMESPACE, field_selector="type=helm.sh/release.v1")
    assert secrets.items == []
    # Definitions stay: they may have objects of others.
    wares = client.CustomObjectsApi().list_namespaced_custom_object("shop.example.com", "v1", NAMESPACE, "wares")
    assert wares["items"] == []


def main():
    config.load_kube_config(os.environ["KUBECONFIG"])
    core = client.CoreV1Api()
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    jobs = Jobs(core)
    jobs.start()
    with helm.Config(kubeconfig_path=os.environ["KUBECONFIG"], namespace=NAMESPACE) as helm_config:
        for topic in (install, upgrade, rollback, refused, uninstall):
            topic(helm_config, core, jobs)
            print("ok", topic.__name__)


if __name__ == "__main__":
    sys.exit(main())
