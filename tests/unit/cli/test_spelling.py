"""Flags as kubectl's users write them, before the option parser sees them."""

import pytest

from wherry.cli.resources import UsageError
from wherry.cli.spelling import respelled, take_globals

SWITCHES = {"--watch": "", "-w": "", "--wait": "--no-wait", "--overwrite": ""}
VALUED = ["--dry-run", "--cascade", "-o", "-n"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        pytest.param(["--watch=true"], ["--watch"], id="true"),
        pytest.param(["--watch=false", "pods"], ["pods"], id="false-without-opposite"),
        pytest.param(["--wait=false"], ["--no-wait"], id="false-with-opposite"),
        pytest.param(["-w=False"], [], id="short-and-capital"),
        pytest.param(["--watch=maybe"], ["--watch=maybe"], id="left-for-the-parser-to-refuse"),
        pytest.param(["--dry-run", "-f", "x"], ["--dry-run=client", "-f", "x"], id="value-left-out"),
        pytest.param(["--dry-run", "server"], ["--dry-run", "server"], id="value-as-a-word"),
        pytest.param(["--dry-run=server"], ["--dry-run=server"], id="value-behind-equals"),
        pytest.param(["x", "--cascade"], ["x", "--cascade=background"], id="value-left-out-at-the-end"),
        pytest.param(["--validate"], ["--validate"], id="flag-of-another-command"),
        pytest.param(
            ["a", "--", "--watch=false", "--dry-run"], ["a", "--", "--watch=false", "--dry-run"], id="after--"
        ),
        pytest.param(["-o=yaml", "-oname"], ["-o", "yaml", "-oname"], id="short-and-equals"),
        pytest.param(["a=b", "c-"], ["a=b", "c-"], id="arguments-stay"),
    ],
)
def test_respelled(words: list[str], wanted: list[str]) -> None:
    assert respelled(words, SWITCHES, VALUED) == wanted


@pytest.mark.parametrize(
    ("words", "rest", "found"),
    [
        pytest.param(["pods", "--context", "x", "-w"], ["pods", "-w"], {"context": "x"}, id="as-words"),
        pytest.param(["--kubeconfig=/f", "-s", "h:1"], [], {"config": "/f", "server": "h:1"}, id="equals-and-short"),
        pytest.param(["web", "--", "ls", "-s"], ["web", "--", "ls", "-s"], {}, id="after--"),
        pytest.param(["--context=a", "--context=b"], [], {"context": "b"}, id="last-wins"),
    ],
)
def test_global_flags_behind_the_command(words: list[str], rest: list[str], found: dict[str, str]) -> None:
    assert take_globals(words, ()) == (rest, found)


def test_a_commands_own_flag_comes_first() -> None:
    assert take_globals(["--server", "x"], {"--server"}) == (["--server", "x"], {})


def test_a_flag_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="needs an argument: --context"):
        take_globals(["pods", "--context"], ())
