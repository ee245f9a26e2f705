"""Build hook: generates `wherry.pb` from `proto/` for wheels, sdists and editable installs. `make proto` runs it by hand.

The virtual path `wherry/pb` is mapped onto the folder `proto`, so that generated modules import each other as
`wherry.pb.NAME_pb2` while the schema itself stays outside any Python package.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # `python hatch_build.py` needs grpcio-tools only
    BuildHookInterface = object

ROOT = Path(__file__).parent


def generate(root: Path = ROOT) -> None:
    """Writes `wherry/pb/*.py` and `*.pyi` anew. Raises SystemExit when protoc finds an error in the schema."""
    from importlib.resources import files

    from grpc_tools import protoc

    out = root / "wherry" / "pb"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    names = sorted(path.name for path in (root / "proto").glob("*.proto"))
    services = [name for name in names if "\nservice " in (root / "proto" / name).read_text()]
    well_known = str(files("grpc_tools") / "_proto")
    common = ["protoc", f"-Iwherry/pb={root / 'proto'}", f"-I{well_known}"]
    scripts = Path(sys.executable).parent
    for plugin in ("protoc-gen-mypy", "protoc-gen-mypy_grpc"):
        path = shutil.which(plugin) or (str(scripts / plugin) if (scripts / plugin).exists() else "")
        if path:
            common.append(f"--plugin={plugin}={path}")
    cwd = os.getcwd()
    os.chdir(root)
    try:
        _run(protoc, [*common, "--python_out=.", "--mypy_out=quiet:.", *(f"wherry/pb/{name}" for name in names)])
        _run(
            protoc,
            [*common, "--grpc_python_out=.", "--mypy_grpc_out=quiet:.", *(f"wherry/pb/{name}" for name in services)],
        )
    finally:
        os.chdir(cwd)
    (out / "__init__.py").write_text('"""Generated from `proto/` by hatch_build.py; not committed."""\n')
    (out / "py.typed").touch()


def _run(protoc: Any, arguments: list[str]) -> None:
    if protoc.main(arguments):
        raise SystemExit("protoc failed: see the messages above")


class ProtoBuildHook(BuildHookInterface):  # type: ignore[misc]
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        generate(Path(self.root))


if __name__ == "__main__":
    generate()
