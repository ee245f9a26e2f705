"""The cluster's own state by hand: join tokens, backup of a running server, restore into a new one, and what is refused."""

import asyncio
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.store.backup import MARKER
from controlplane.store.base import Put
from controlplane.store.open import open_store
from wherry.api.context import Env
from wherry.testing.local import until
from wherry.testing.server import MAIN, Server

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: precious}\ndata: {k: v}\n"


def test_tokens_are_made_listed_and_deleted(server: Server) -> None:
    made = server.run("token", "create", "--ttl", "1h", "--description", "for a test")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    name, secret, known = token.split(".")
    assert (len(name), len(secret)) == (6, 16)
    # The hash of the CA's public key: with it the token alone is enough to join.
    root = x509.load_pem_x509_certificate((server.data_dir / "ca.crt").read_bytes())
    info = root.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert known == "sha256:" + hashlib.sha256(info).hexdigest()
    listed = server.run("token", "list").stdout
    assert name in listed
    assert "for a test" in listed
    assert secret not in listed
    assert server.run("token", "delete", token).stdout == f"token {name} deleted\n"
    assert name not in server.run("token", "list").stdout


def test_a_token_alone_is_enough_to_join(server: Server, tmp_path: Path) -> None:
    """As in the README: no CA file, no hash on a flag of its own."""
    token = server.run("token", "create").stdout.strip()
    flags = ["--server", server.address, "--token", token, "--data-dir", str(tmp_path / "agent")]
    log = tmp_path / "agent.log"
    with log.open("wb") as output:
        agent = subprocess.Popen(
            [*MAIN, "agent", *flags, "--runtime", "hollow", "--node-name", "joined"], stdout=output, stderr=output
        )
    try:
        until(lambda: agent.poll() is not None or server.run("get", "node", "joined").returncode == 0)
        assert agent.poll() is None, log.read_text()
    finally:
        agent.terminate()
        agent.wait(15)


def test_another_clusters_hash_is_refused(server: Server, tmp_path: Path) -> None:
    token = server.run("token", "create").stdout.strip()
    wrong = token[:-4] + ("aaaa" if not token.endswith("aaaa") else "bbbb")
    done = subprocess.run(
        [*MAIN, "agent", "--server", server.address, "--token", wrong, "--data-dir", str(tmp_path / "agent"),
         "--runtime", "hollow", "--node-name", "fooled"], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "shows no CA whose public key has the hash" in done.stderr


def test_a_server_refuses_a_half_restored_store(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()

    async def begin() -> None:
        store = await open_store(f"sqlite://{data / 'state.db'}", Env())
        await store.txn([], [Put(MARKER, b"somebody pulled the plug")])
        await store.close()

    asyncio.run(begin())
    flags = ["--data-dir", str(data), "--listen", "127.0.0.1:0", "--http-listen", ""]
    done = subprocess.run([*MAIN, "server", *flags], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "wherry restore" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_token_may_not_live_too_long(server: Server) -> None:
    refused = server.run("token", "create", "--ttl", "10000h")
    assert refused.returncode == 1
    assert "ttl" in refused.stderr


def test_a_backup_of_a_running_server_comes_back_elsewhere(server: Server, tmp_path: Path) -> None:
    assert server.run("apply", "-f", "-", stdin=CONFIG_MAP).returncode == 0
    file = tmp_path / "state.backup"
    saved = server.run("backup", str(file), "--data-dir", str(server.data_dir))
    assert saved.returncode == 0, saved.stderr
    assert "objects at revision" in saved.stdout
    # What comes after the backup is not in it.
    server.run("delete", "configmap", "precious")
    other = Server(tmp_path / "restored")
    restored = other.run("restore", str(file), "--data-dir", str(other.data_dir))
    assert restored.returncode == 0, restored.stderr
    other.start()
    try:
        assert other.run("get", "configmap", "precious", "-o", "jsonpath={.data.k}").stdout == "v"
    finally:
        other.stop()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["backup", "FILE"], "say where the state is", id="backup-of-nothing"),
        pytest.param(["backup", "FILE", "--data-dir", "DIR/absent"], "is not there", id="no-data"),
        pytest.param(["restore", "DIR/absent", "--data-dir", "DIR/new"], "No such file", id="no-backup"),
    ],
)
def test_what_is_refused(server: Server, tmp_path: Path, words: list[str], message: str) -> None:
    filled = [word.replace("DIR", str(tmp_path)).replace("FILE", str(tmp_path / "file")) for word in words]
    result = server.run(*filled)
    assert result.returncode == 1
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_store_in_use_is_not_restored_into(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "state.backup"
    assert server.run("backup", str(file), "--data-dir", str(server.data_dir)).returncode == 0
    refused = server.run("restore", str(file), "--data-dir", str(server.data_dir))
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: ")
    assert "in use by another process" in refused.stderr, "else it is refused only for not being empty"


def test_state_survives_the_server_killed_and_started_again(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    server.start()
    try:
        assert server.run("apply", "-f", "-", stdin=CONFIG_MAP).returncode == 0
        server.kill()
        server.start()
        assert server.run("get", "configmap", "precious", "-o", "jsonpath={.data.k}").stdout == "v"
    finally:
        server.stop()
