"""What `wherry agent` makes of its flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from wherry.cli import agent, agent_flags


@pytest.mark.parametrize(
    ("flags", "starts"),
    [
        (["--capacity", "cpu=500m"], 4),
        (["--capacity", "cpu=1500m"], 12),
        (["--capacity", "cpu=64"], 16),
        (["--capacity", "cpu=64", "--simultaneous-starts", "1"], 1),
    ],
    ids=["half a CPU", "one and a half", "many", "as told"],
)
def test_simultaneous_starts_follow_the_cpus(tmp_path: Path, flags: list[str], starts: int) -> None:
    arguments = agent.parser().parse_args(
        ["--server", "127.0.0.1:1", "--data-dir", str(tmp_path), "--run-dir", str(tmp_path), *flags]
    )
    assert agent_flags.options(arguments, "n1").simultaneous_starts == starts


@pytest.mark.parametrize("name", ["runc", "host-ports", "crun-host-ports"])
def test_a_reserved_runtime_handler_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf'--runtime-handler: "{name}=/usr/bin/crun"; the name {name} is reserved'):
        agent_flags.handlers([f"{name}=/usr/bin/crun"])


def test_runtime_handlers() -> None:
    given = ["crun=/usr/bin/crun", "host-ports-x=io.containerd.runsc.v1"]
    assert agent_flags.handlers(given) == {"crun": "/usr/bin/crun", "host-ports-x": "io.containerd.runsc.v1"}
