"""`edit`: an object in the person's editor; what was changed is sent as a patch."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from wherry.api import codec, kinds, strategic_diff, yamlout
from wherry.api import patch as merging
from wherry.api.errors import APIError
from wherry.cli import output as printing
from wherry.cli.commands.apply import MERGE, STRATEGIC
from wherry.cli.completion import complete_words
from wherry.cli.options import Namespace
from wherry.cli.resources import UsageError, full_name, message_class
from wherry.cli.session import Session, describe_error, run

HEAD = (
    "# Please edit the object below. Lines beginning with a '#' will be ignored,\n"
    "# and an empty file will abort the edit. If an error occurs while saving this file will be\n"
    "# reopened with the relevant failures.\n#\n"
)


def edit(
    words: Annotated[list[str], typer.Argument(metavar="TYPE NAME | TYPE/NAME", autocompletion=complete_words)],
    namespace: Namespace = "",
) -> None:
    """Change an object in your editor ($KUBE_EDITOR, $EDITOR or vi)."""

    async def work(session: Session) -> int:
        target = (await session.catalogue()).one(words)
        cls: type[Any] = message_class(target.resource)
        place = session.namespace(namespace) if target.resource.namespaced else ""
        current = await session.client.get(cls, target.name, place)
        original = printing.plain(current)
        label = f"{full_name(target.resource)}/{target.name}"
        text, complaint = yamlout.dump(original), ""
        while True:
            edited = _edit(HEAD + "".join(f"# {line}\n" for line in complaint.splitlines()) + text, target.name)
            body = "".join(line for line in edited.splitlines(keepends=True) if not line.startswith("#"))
            if not body.strip():
                print("Edit cancelled, saved file was empty.")
                return 0
            if body == text:
                if complaint:
                    raise UsageError(f"{complaint.strip()}\nEdit cancelled, no valid changes were saved.")
                print("Edit cancelled, no changes made.")
                return 0
            text = body
            try:
                documents = codec.read_manifest(body, label)
                if len(documents) != 1:
                    raise UsageError(f"expected one object, found {len(documents)}")
                changed = documents[0].value
                if changed.get("metadata", {}).get("name") != target.name:
                    raise UsageError(f'metadata.name: the name cannot be changed ("{target.name}")')
                custom = isinstance(cls, kinds.DynamicClass)
                if custom:
                    patch = merging.create_merge_patch(original, changed)
                else:
                    patch = strategic_diff.create(original, changed, cls.DESCRIPTOR)
                if not patch:
                    print("Edit cancelled, no changes made.")
                    return 0
                patch.setdefault("metadata", {})["resourceVersion"] = current.metadata.resource_version
                await session.client.patch(
                    cls,
                    target.name,
                    place,
                    patch,
                    patch_type=MERGE if custom else STRATEGIC,
                    field_manager="wherry-edit",
                )
            except codec.DecodeError as error:
                complaint = str(error)
            except UsageError as error:
                complaint = str(error)
            except APIError as error:
                complaint = describe_error(error, session.server)
            else:
                print(f"{label} edited")
                return 0

    run(work)


def _edit(text: str, name: str) -> str:
    editor = shlex.split(os.environ.get("KUBE_EDITOR") or os.environ.get("EDITOR") or "vi")
    with tempfile.TemporaryDirectory(prefix="wherry-edit-") as folder:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            code = subprocess.run([*editor, str(path)], check=False).returncode
        except FileNotFoundError as error:
            raise UsageError(
                f"unable to launch the editor {editor[0]!r}: set EDITOR to one that is installed"
            ) from error
        if code:
            raise UsageError(f"the editor {editor[0]!r} ended with exit code {code}; nothing was changed")
        return path.read_text(encoding="utf-8")
