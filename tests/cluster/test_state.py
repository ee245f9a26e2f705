"""The cluster's own state by hand: join tokens, backup of a running server, restore into a new one, and what is refused."""

from pathlib import Path

import pytest

from wherry.testing.server import Server

CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: precious}\ndata: {k: v}\n"


def test_tokens_are_made_listed_and_deleted(server: Server) -> None:
    made = server.run("token", "create", "--ttl", "1h", "--description", "for a test")
    assert made.returncode == 0, made.stderr
    token = made.stdout.strip()
    name, _, secret = token.partition(".")
    assert (len(name), len(secret)) == (6, 16)
    listed = server.run("token", "list").stdout
    assert name in listed
    assert "for a test" in listed
    assert secret not in listed
    assert server.run("token", "delete", token).stdout == f"token {name} deleted\n"
    assert name not in server.run("token", "list").stdout


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
