"""A person who gets a certificate: the request approved or denied with kubectl, and what the certificate is good for."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from wherry.testing.kubectl import NEWEST, Kubectl, versions
from wherry.testing.local import until

pytestmark = pytest.mark.timeout(180)


def request_of(name: str, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "dev")]
    )
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    pem = base64.b64encode(made.public_bytes(serialization.Encoding.PEM)).decode()
    spec = {"request": pem, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}
    return json.dumps(
        {
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": {"name": name},
            "spec": spec,
        }
    )


def as_user(kubectl: Kubectl, certificate: str, key: rsa.RSAPrivateKey, file: Path) -> Kubectl:
    config = yaml.safe_load(Path(kubectl.environment["KUBECONFIG"]).read_text())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    user = {"client-certificate-data": certificate, "client-key-data": base64.b64encode(pem).decode()}
    config["users"] = [{"name": each["name"], "user": user} for each in config["users"]]
    file.write_text(yaml.safe_dump(config))
    return Kubectl(kubectl.binary, file, Path(kubectl.environment["HOME"]), kubectl.namespace)


@versions(NEWEST)
def test_approved_and_denied(kubectl: Kubectl, tmp_path: Path) -> None:
    """With the key of every tutorial: RSA."""
    bob, eve = f"bob-{kubectl.namespace}", f"eve-{kubectl.namespace}"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kubectl("create", "-f", "-", stdin=request_of(bob, key))
    kubectl("create", "-f", "-", stdin=request_of(eve, ec.generate_private_key(ec.SECP256R1())))
    try:
        assert kubectl("get", "csr", bob, "--no-headers").split()[2:] == [
            "kubernetes.io/kube-apiserver-client", "kubernetes-admin", "<none>", "Pending",
        ]  # fmt: skip
        assert (
            kubectl("certificate", "approve", bob) == f"certificatesigningrequest.certificates.k8s.io/{bob} approved\n"
        )
        until(lambda: kubectl("get", "csr", bob, "--no-headers").split()[-1] == "Approved,Issued")
        approved = json.loads(kubectl("get", "csr", bob, "-o", "jsonpath={.status.conditions[0]}"))
        assert (approved["type"], approved["reason"]) == ("Approved", "KubectlApprove")
        assert approved["lastTransitionTime"]
        assert "already Approved" in kubectl.fails("certificate", "deny", bob)
        person = as_user(
            kubectl, kubectl("get", "csr", bob, "-o", "jsonpath={.status.certificate}"), key, tmp_path / "bob"
        )
        assert f'User "{bob}" cannot list resource "pods"' in person.fails("get", "pods")
        kubectl("create", "rolebinding", "dev", "--clusterrole=view", "--group=dev")
        assert person("get", "pods", "-o", "name") == ""
        assert kubectl("certificate", "deny", eve).endswith(" denied\n")
        assert kubectl("get", "csr", eve, "--no-headers").split()[-1] == "Denied"
        assert kubectl("get", "csr", eve, "-o", "jsonpath={.status.certificate}") == ""
    finally:
        kubectl("delete", "csr", bob, eve)
