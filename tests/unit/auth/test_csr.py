"""The signer of certificate requests, on a whole control plane and virtual time: a node's renewal and a user's request."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from controlplane.auth.certificates import expiry, load_csr, node_csr_problem, subject_of
from controlplane.auth.csr import CLIENT_SIGNER, CSR, NODE_SIGNER, condition_types
from controlplane.auth.names import NODES_GROUP
from controlplane.registry.base import ADMIN
from controlplane.server import ControlPlane, Options
from wherry.api.context import Env
from wherry.api.errors import NotFound
from wherry.client.client import Client
from wherry.testing.serving import node_identity, plane

PKI = Options(scheduler=False, controllers=False)


def csr_pem(node: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = subject_of(f"system:node:{node}", [NODES_GROUP])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def request_of(name: str, subject: str, *, signer: str = NODE_SIGNER, usages: tuple[str, ...] = ()) -> CSR:
    made = CSR()
    made.metadata.name = name
    made.spec.signer_name = signer
    made.spec.request = csr_pem(subject)
    made.spec.usages.extend(usages or ("digital signature", "client auth"))
    return made


async def settled(client: Client, name: str) -> CSR:
    await asyncio.sleep(5)
    return await client.get(CSR, name)


def node_client(control_plane: ControlPlane, name: str = "n1") -> Client:
    return control_plane.local_client(node_identity(name))


async def test_a_nodes_request_for_itself_is_approved_and_signed(env: Env) -> None:
    async with plane(env, PKI) as control_plane:
        client = node_client(control_plane)
        await client.create(request_of("renewal", "n1"))
        done = await settled(client, "renewal")
        assert condition_types(done) == {"Approved"}
        certificate = x509.load_pem_x509_certificate(done.status.certificate)
        assert certificate.subject.rfc4514_string() == "CN=system:node:n1,O=system:nodes"
        assert 29 * 86_400 < expiry(done.status.certificate) - env.now() <= 30 * 86_400


@pytest.mark.parametrize(
    ("subject", "usages"),
    [
        pytest.param("n2", (), id="for another node"),
        pytest.param("n1", ("server auth", "digital signature"), id="for serving"),
    ],
)
async def test_other_requests_of_a_node_wait_for_a_person(env: Env, subject: str, usages: tuple[str, ...]) -> None:
    async with plane(env, PKI) as control_plane:
        client = node_client(control_plane)
        await client.create(request_of("odd", subject, usages=usages))
        done = await settled(client, "odd")
        assert condition_types(done) == set()
        assert not done.status.certificate


async def test_a_node_cannot_pose_as_another_in_the_request(env: Env) -> None:
    async with plane(env, PKI) as control_plane:
        made = request_of("posing", "n2")
        made.spec.username = "system:node:n2"
        made.spec.groups.append(NODES_GROUP)
        await node_client(control_plane, "n1").create(made)
        done = await settled(control_plane.local_client(ADMIN), "posing")
        assert done.spec.username == "system:node:n1"
        assert not done.status.certificate


async def test_a_users_request_is_signed_once_it_is_approved(env: Env) -> None:
    async with plane(env, PKI) as control_plane:
        admin = control_plane.local_client(ADMIN)
        made = request_of("user", "n9", signer=CLIENT_SIGNER)
        await admin.create(made)
        waiting = await settled(admin, "user")
        assert not waiting.status.certificate
        waiting.status.conditions.add(type="Approved", status="True", reason="Test", message="by hand")
        await admin.update(waiting, subresource="approval")
        assert (await settled(admin, "user")).status.certificate


async def test_dealt_with_requests_go_after_an_hour(env: Env) -> None:
    async with plane(env, PKI) as control_plane:
        client = node_client(control_plane)
        await client.create(request_of("renewal", "n1"))
        assert (await settled(client, "renewal")).status.certificate
        await asyncio.sleep(3700)
        with pytest.raises(NotFound):
            await control_plane.local_client(ADMIN).get(CSR, "renewal")


def test_node_requests_are_recognised() -> None:
    csr = load_csr(csr_pem("n1"))
    assert node_csr_problem(csr, "n1") == ""
    assert 'wanted "system:node:n2"' in node_csr_problem(csr, "n2")
