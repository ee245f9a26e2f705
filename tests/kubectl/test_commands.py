"""kubectl's many small commands: every generator, set, autoscale, rollout, auth, kustomize, and describe of every kind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from controlplane.auth.ca import make_authority
from wherry.api.context import Env
from wherry.testing.kubectl import NEWEST, OLDEST, Kubectl, versions
from wherry.testing.local import until

pytestmark = pytest.mark.timeout(180)


@versions(NEWEST, OLDEST)
def test_every_generator(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "settings").write_text("a=b\nc=d\n")
    pair = self_signed(tmp_path)
    own = kubectl.namespace  # also a name that no other test uses
    made = (
        "clusterrole {} --verb=get,list --resource=pods",
        "clusterrolebinding {} --clusterrole=view --user=somebody",
        "configmap settings --from-env-file={settings} ",
        "cronjob hourly --image=a:1 --schedule=@hourly -- date",
        "deployment web --image=a:1 --replicas=1 --port=80",
        "ingress front --class=c --rule=a.example/=web:80,tls=cert",
        "job once --image=a:1 -- date",
        "job again --from=cronjob/hourly",
        "poddisruptionbudget web --selector=app=web --max-unavailable=1",
        "priorityclass {} --value=5 --description=small",
        "quota quota --hard=pods=50,services=20",
        "role reader --verb=get --resource=pods,deployments.apps",
        "rolebinding readers --role=reader --serviceaccount={}:default --group=staff",
        "secret docker-registry pull --docker-server=s --docker-username=u --docker-password=p",
        "namespace {}-more",
        "secret generic plain --from-literal=a=b --type=example.com/kind",
        f"secret tls pair --cert={pair['tls.crt']} --key={pair['tls.key']}",
        "service clusterip one --tcp=80:8080",
        "service clusterip headless --clusterip=None",
        "service nodeport two --tcp=80",
        "service loadbalancer three --tcp=80:80",
        "service externalname four --external-name=example.com",
        "serviceaccount robot",
    )
    for words in made:
        filled = words.replace("{settings}", str(tmp_path / "settings")).replace("{}", own)
        assert "created" in kubectl("create", *filled.split()), words
    try:
        assert kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.c}") == "d"
        assert (
            kubectl("get", "job", "again", "-o", "jsonpath={.spec.template.spec.containers[0].command}") == '["date"]'
        )
        assert kubectl("get", "secret", "pull", "-o", "jsonpath={.type}") == "kubernetes.io/dockerconfigjson"
        assert re.search(r"headless +ClusterIP +None", kubectl("get", "services"))
        assert kubectl("create", "token", "robot", "--duration=10m").count(".") == 2
        assert "already exists" in kubectl.fails("create", "serviceaccount", "robot")
        assert kubectl("get", "secret", "pair", "-o", "jsonpath={.type}") == "kubernetes.io/tls"
        for name, path in pair.items():
            stored = kubectl("get", "secret", "pair", "-o", 'go-template={{index .data "' + name + '" | base64decode}}')
            assert stored == path.read_text()
        swapped = kubectl.fails(
            "create", "secret", "tls", "odd", f"--cert={pair['tls.key']}", f"--key={pair['tls.crt']}"
        )
        assert "failed to find any PEM data" in swapped or "tls: " in swapped
        # Nothing that this kubectl can make is left out.
        assert generators(kubectl) - {"token"} == {first_words(words) for words in made}
    finally:
        kubectl("delete", "clusterrole,clusterrolebinding,priorityclass", own)
        kubectl("delete", "namespace", f"{own}-more", "--wait=false")


NESTED = ("secret", "service")


def first_words(words: str) -> str:
    """`secret tls` of `secret tls NAME ...`."""
    first, second = words.split()[:2]
    return f"{first} {second}" if first in NESTED else first


def generators(kubectl: Kubectl) -> set[str]:
    """What `create` says that it can make."""

    def listed(*words: str) -> list[str]:
        text = kubectl("create", *words, "--help").partition("Available Commands:\n")[2].partition("\n\n")[0]
        return [line.split()[0] for line in text.splitlines()]

    plain = {name for name in listed() if name not in NESTED}
    return plain | {f"{outer} {name}" for outer in NESTED for name in listed(outer)}


def self_signed(directory: Path) -> dict[str, Path]:
    """A certificate and its key in files, by the names that they get in a Secret."""
    authority = make_authority(Env(), "test")
    pair = {"tls.crt": directory / "tls.crt", "tls.key": directory / "tls.key"}
    pair["tls.crt"].write_bytes(authority.certificate_pem)
    pair["tls.key"].write_bytes(authority.key_pem)
    return pair


@versions(NEWEST, OLDEST)
def test_autoscale_and_set(web: Kubectl) -> None:
    """The older kubectl writes autoscaling/v1, the newer one v2: both are the same objects."""
    web("autoscale", "deployment", "web", "--min=1", "--max=4", "--cpu-percent=50")
    assert re.search(r"web +Deployment/web +.*/50% +1 +4", web("get", "hpa"))
    path = "jsonpath={.spec.targetCPUUtilizationPercentage}"
    assert web("get", "horizontalpodautoscalers.v1.autoscaling", "web", "-o", path) == "50"
    path = "jsonpath={.spec.metrics[0].resource.target.averageUtilization}"
    assert web("get", "horizontalpodautoscalers.v2.autoscaling", "web", "-o", path) == "50"
    assert "Reference:" in web("describe", "hpa", "web")
    web("rollout", "pause", "deploy/web")
    web("set", "image", "deploy", "web=web:3", "--all")
    web("set", "env", "deploy/web", "A-", "C=3")
    assert web("set", "env", "deploy/web", "--list") == "# Deployment web, container web\nC=3\n"
    web("set", "serviceaccount", "deploy/web", "default")
    web("set", "resources", "deploy/web", "--requests=cpu=1m,memory=1Mi", "--limits=cpu=1")
    web("set", "selector", "service/web", "app=other")
    assert web("get", "service", "web", "-o", "jsonpath={.spec.selector.app}") == "other"
    web("create", "rolebinding", "b", "--clusterrole=view", "--user=one")
    web("set", "subject", "rolebinding", "b", "--user=two")
    names = web("get", "rolebinding", "b", "-o", "jsonpath={.subjects[*].name}")
    assert names == "one two"
    columns = ".image,CPU:.resources.limits.cpu,ENV:.env[0].name".replace(":.", ":.spec.template.spec.containers[0].")
    columns = f"custom-columns=IMAGE:.spec.template.spec.containers[0]{columns}"
    assert web("get", "deploy", "web", "-o", columns, "--no-headers").split() == ["web:3", "1", "C"]


@versions(NEWEST, OLDEST)
def test_rollout_of_everything_that_rolls(web: Kubectl) -> None:
    assert "Pod Template:" in web("rollout", "history", "deploy/web", "--revision=1")
    web("rollout", "restart", "deployment", "--selector=app=web")
    web("rollout", "status", "deploy/web", "--timeout=60s")
    assert "unable to find specified revision" in web.fails("rollout", "undo", "deploy/web", "--to-revision=77")
    assert "rolled back (server dry run)" in web("rollout", "undo", "deploy/web", "--dry-run=server")
    assert "unable to find the specified revision" in web.fails("rollout", "history", "deploy/web", "--revision=77")


@versions(NEWEST, OLDEST)
def test_auth(kubectl: Kubectl, tmp_path: Path) -> None:
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    refused = kubectl.run("auth", "can-i", "get", "pods", "--as=nobody")
    assert (refused.returncode, refused.stdout) == (1, "no\n")
    assert re.search(r"\*\.\* +\[\] +\[\] +\[\*\]", kubectl("auth", "can-i", "--list"))
    # What they are made of is written into the roles that are made of others.
    until(lambda: re.search(r"pods/exec +\[\] +\[\] +\[.*create", kubectl("describe", "clusterrole", "admin")))
    kubectl("create", "role", "reader", "--verb=get", "--resource=pods")
    wider = tmp_path / "role.yaml"
    wider.write_text(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n"
        f"metadata: {{name: reader, namespace: {kubectl.namespace}}}\n"
        'rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]\n'
    )
    assert "reconciled" in kubectl("auth", "reconcile", "-f", str(wider))
    verbs = kubectl("get", "role", "reader", "-o", "jsonpath={.rules[*].verbs[*]}")
    assert sorted(verbs.split()) == ["get", "list"]
    kubectl("create", "rolebinding", "readers", "--role=reader", "--user=somebody")
    assert kubectl("auth", "can-i", "list", "pods", "--as=somebody") == "yes\n"
    assert 'cannot create resource "pods"' in kubectl.fails("run", "p", "--image=a:1", "--as=somebody")


@versions(NEWEST)
def test_whoami(kubectl: Kubectl) -> None:
    if "gitVersion: v1.27." in kubectl("version", "--client", "-o", "yaml"):
        # It asks for alpha and beta versions only, which no Kubernetes of today has.
        assert "selfsubjectreviews API is not enabled" in kubectl.fails("auth", "whoami")
        return
    assert re.search(r"Username +kubernetes-admin", kubectl("auth", "whoami"))


@versions(NEWEST, OLDEST)
def test_kustomize(kubectl: Kubectl, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(
        "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {ports: [{port: 80}]}\n"
    )
    (tmp_path / "kustomization.yaml").write_text(
        "namePrefix: my-\nresources: [service.yaml]\nconfigMapGenerator: [{name: settings, literals: [a=b]}]\n"
    )
    folder = str(tmp_path)
    assert "name: my-front" in kubectl("kustomize", folder)
    assert "+  name: my-front" in kubectl.run("diff", "-k", folder).stdout
    assert "service/my-front created" in kubectl("apply", "-k", folder)
    assert "service/my-front unchanged" in kubectl("apply", "-k", folder)
    assert kubectl("diff", "-k", folder) == ""
    assert 'service "my-front" deleted' in kubectl("delete", "-k", folder)


@versions(NEWEST)
def test_run_and_wait(kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=a:1", "--port=80", "--expose", "--env=A=b", "--labels=app=p")
    assert kubectl("get", "service", "p", "-o", "jsonpath={.spec.selector.app}") == "p"
    if "--for=create" in kubectl("wait", "--help"):  # from 1.31 on
        assert "condition met" in kubectl("wait", "--for=create", "pod/p", "--timeout=30s")
    assert "condition met" in kubectl("wait", "--for=condition=Ready=true", "pod/p", "--timeout=60s")
    assert "condition met" in kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/p", "--timeout=60s")
    if "--for=jsonpath='{.status.loadBalancer.ingress}'" in kubectl("wait", "--help"):  # any value, from 1.28 on
        assert "condition met" in kubectl("wait", "--for=jsonpath={.status.podIP}", "pod/p", "--timeout=60s")
    assert "timed out" in kubectl.fails("wait", "--for=condition=Odd", "pod/p", "--timeout=1s")
    assert "deleted" in kubectl("delete", "pod/p", "service/p", "--cascade=background", "--grace-period=1")
    kubectl("wait", "--for=delete", "pod/p", "--timeout=60s")
    kubectl("run", "q", "--image=a:1", "--restart=Never", "--overrides", '{"spec": {"priority": 0}}')
    assert 'pod "q" force deleted' in kubectl("delete", "pod", "q", "--force")


# Those of the cluster's own, or that the server makes.
THERE = {
    "namespaces", "nodes", "events", "events.events.k8s.io", "componentstatuses", "nodes.metrics.k8s.io", "pods.metrics.k8s.io",
    "certificatesigningrequests.certificates.k8s.io",
}  # fmt: skip
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: boats, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {crew: {type: integer, description: How many row.}}}}
"""
# Some kubectls look for these in a version that Kubernetes has given up.
GIVEN_UP = ("volumeattributesclasses.storage", "ipaddresses.networking", "servicecidrs.networking")


def beside(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / name).read_text())
    return found


@versions(NEWEST, OLDEST)
def test_describe_of_every_kind(kubectl: Kubectl, tmp_path: Path) -> None:
    """Makes one of each, describes it, gets it as a table, and takes it away."""
    listed = set(kubectl("api-resources", "--verbs=list,get", "-o", "name").split())
    every, wanted = beside("every.yaml"), beside("described.yaml")
    for obj in every.values():
        obj.setdefault("metadata", {}).setdefault("name", kubectl.namespace)
    every[DEFINITIONS] = yaml.safe_load(DEFINITION.replace("GROUP", f"{kubectl.namespace}.example"))
    assert listed - THERE == set(every) == set(wanted), "a kind has come or gone"
    manifest = tmp_path / "every.yaml"
    manifest.write_text(yaml.safe_dump_all(every.values()))
    try:
        created = kubectl("create", "-f", str(manifest))
        assert created.count("created") == len(every)
        described = kubectl.run("describe", "-f", str(manifest))
        given_up = {
            kind
            for kind in every
            for name in GIVEN_UP
            if kind.startswith(name) and name.partition(".")[0] in described.stderr
        }
        failures = [
            line
            for line in described.stderr.splitlines()
            if not any(kind.partition(".")[0] in line for kind in given_up)
        ]
        assert failures == []
        # In the order of the file; without those that kubectl did not find.
        texts = re.split(r"\n\n\n(?=Name: )", described.stdout)
        kinds = [kind for kind in every if kind not in given_up]
        assert len(texts) == len(kinds)
        for kind, text in zip(kinds, texts, strict=True):
            lines = [" ".join(line.split()) for line in text.splitlines()]
            assert lines[0] == f"Name: {every[kind]['metadata']['name']}", kind
            missing = [
                line for line in wanted[kind] if not set(lines) & ({line} if isinstance(line, str) else set(line))
            ]
            assert missing == [], f"{kind}:\n{text}"
        rows = kubectl("get", "-f", str(manifest), "--no-headers").splitlines()
        assert len([row for row in rows if row.strip()]) >= len(every)
        for kind in sorted(THERE):
            assert kubectl.run("describe", kind, "-A").returncode == 0, kind
        node = [" ".join(line.split()) for line in kubectl("describe", "node", kubectl.node).splitlines()]
        assert {
            f"Name: {kubectl.node}",
            "Unschedulable: false",
            "Capacity:",
            "Allocatable:",
            "System Info:",
            "Allocated resources:",
        } <= set(node)
        assert any(line.startswith("Ready True ") for line in node)
    finally:
        kubectl("delete", "-f", str(manifest), "--ignore-not-found", "--wait=false", "--grace-period=0", "--force")
