"""`python -m bench NAME [options]`: each module of this package with a `run(argv)` is a benchmark."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules([str(HERE)]) if not module.name.startswith("_"))


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: python -m bench NAME [options]\nNAME: all, {', '.join(names())}")
        return 0 if argv else 2
    chosen = names() if argv[0] == "all" else [argv[0]]
    for name in chosen:
        if name not in names():
            print(f"bench: no benchmark {name!r}; there are: {', '.join(names())}", file=sys.stderr)
            return 2
        importlib.import_module(f"bench.{name}").run(argv[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
