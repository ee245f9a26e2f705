"""The console script `wherry`: sends each word to its command.

`server`, `agent` and `ingress` are processes that run for ever in little memory, so they are started before the command line's
own libraries (typer, rich) would be imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 success, 1 failure, 2 wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] == "server":
        from wherry.cli import server

        return server.main(arguments[1:])
    if arguments and arguments[0] == "agent":
        from wherry.cli import agent

        return agent.main(arguments[1:])
    if arguments and arguments[0] == "ingress":
        from wherry.cli import ingress

        return ingress.main(arguments[1:])
    from wherry.cli import app

    return app.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
