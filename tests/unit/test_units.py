"""The systemd units of deploy/: systemd itself finds nothing wrong, and they say what the processes need."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from wherry.cli import agent, server

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def read(unit: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    parser.read_string(unit.read_text())
    return parser


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine (Debian: package systemd)")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_it_is_started_again_whatever_happens(unit: Path) -> None:
    found = read(unit)
    assert found["Unit"]["StartLimitIntervalSec"] == "0"
    assert found["Service"]["Restart"] == "always"


def test_stopping_the_agent_leaves_containers_alone() -> None:
    service = read(DEPLOY / "wherry-agent.service")["Service"]
    assert (service["KillMode"], service["Delegate"]) == ("process", "yes")


@pytest.mark.parametrize(
    ("name", "parser", "more"),
    [
        ("wherry-agent", agent.parser, ["--server", "192.0.2.1:6440", "--token", "@/etc/wherry/token"]),
        ("wherry-server", server.parser, ["--listen", "0.0.0.0:6440"]),
    ],
)
def test_the_commands_have_these_flags(name: str, parser: object, more: list[str]) -> None:
    words = shlex.split(read(DEPLOY / f"{name}.service")["Service"]["ExecStart"])
    assert words[:2] == ["/usr/bin/env", "wherry"]
    given = [word for word in words[3:] if not word.startswith("$")]
    assert parser().parse_args([*given, *more])  # type: ignore[operator]
