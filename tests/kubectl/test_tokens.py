"""A service account's token in kubectl: asked for, and shown in place of a certificate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from wherry.testing.kubectl import NEWEST, OLDEST, Kubectl, versions

pytestmark = pytest.mark.timeout(180)


def as_bearer(kubectl: Kubectl, token: str, tmp_path: Path) -> Kubectl:
    """The same, with the token and no certificate."""
    config = yaml.safe_load(Path(kubectl.environment["KUBECONFIG"]).read_text())
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    file = tmp_path / "bearer"
    file.write_text(yaml.safe_dump(config))
    return Kubectl(kubectl.binary, file, Path(kubectl.environment["HOME"]), kubectl.namespace)


@versions(NEWEST, OLDEST)
def test_create_token(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("create", "serviceaccount", "robot")
    robot = as_bearer(kubectl, kubectl("create", "token", "robot", "--duration=10m").strip(), tmp_path)
    name = f"system:serviceaccount:{kubectl.namespace}:robot"
    if "1.27" not in str(kubectl.binary):  # where `whoami` asks the alpha of the API
        assert re.search(rf"Username +{name}\n", robot("auth", "whoami"))
    refused = robot.fails("get", "secrets")
    assert f'User "{name}" cannot list resource "secrets"' in refused
    kubectl("create", "rolebinding", "robot", "--clusterrole=edit", f"--serviceaccount={kubectl.namespace}:robot")
    assert robot("create", "configmap", "made") == "configmap/made created\n"
    assert "less than 10 minutes" in kubectl.fails("create", "token", "robot", "--duration=1m")
    assert 'serviceaccounts "nobody" not found' in kubectl.fails("create", "token", "nobody")
    kubectl("delete", "serviceaccount", "robot")
    assert re.search("Unauthorized|provide credentials", robot.fails("get", "configmaps"))
