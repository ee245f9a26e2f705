"""Which objects a list or a watch is about: namespace, label selector, field selector. Pure; called by `reads`.

What selectors look at is taken from an object once per revision and kept in the memo of its cache entry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from controlplane.registry import keys
from controlplane.registry.state import Served
from wherry.api import fields, labels
from wherry.api.errors import BadRequest


def labels_of(served: Served, value: bytes, memo: dict[Any, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] | None = memo.get("labels")
    if found is None:
        message: Any = served.kind.message.FromString(value)
        found = memo["labels"] = dict(message.metadata.labels)
    return found


def fields_of(served: Served, value: bytes, memo: dict[Any, Any]) -> Mapping[str, str]:
    """The kind's own selectable fields."""
    value, memo = served.view(value, memo)
    found: Mapping[str, str] | None = memo.get("fields")
    if found is None:
        message: Any = served.kind.message.FromString(value)
        found = memo["fields"] = {name: read(message) for name, read in served.strategy.fields.items()}
    return found


class Selection:
    """`prefix` bounds the keys; `key` is set when at most that one object can match; `index` names an index of the cache
    and the value in it that all matching objects have."""

    def __init__(self, served: Served, namespace: str, label_selector: str, field_selector: str) -> None:
        self._served = served
        kind = served.kind
        if namespace and not kind.namespaced:
            raise BadRequest(f"{kind.group_resource} are not namespaced: the request names namespace {namespace!r}")
        by_label = labels.parse(label_selector)
        by_field = fields.parse(field_selector)
        self.everything = by_label.everything and not by_field.terms
        self._labels: Callable[[Mapping[str, str]], bool] | None = None if by_label.everything else by_label.predicate()
        self._terms: list[fields.Term] = []
        self._place: list[tuple[bool, fields.Term]] = []  # (is it the name, the term): answered from the key alone
        self.index: tuple[str, str] | None = None
        name = ""
        for term in by_field.terms:
            if term.field == "metadata.name":
                self._place.append((True, term))
                name = term.value if term.equal else name
            elif term.field == "metadata.namespace" and kind.namespaced:
                self._place.append((False, term))
                namespace = term.value if term.equal and not namespace else namespace
            elif term.field in served.strategy.fields:
                self._terms.append(term)
                if term.equal and term.field in served.indexers:
                    self.index = (term.field, term.value)
            else:
                raise BadRequest(f"field label not supported: {term.field}")
        self._beside_index = [
            term for term in self._terms if not (term.equal and (term.field, term.value) == self.index)
        ]
        self.prefix = keys.prefix(kind, namespace)
        self.key = ""
        if name and (namespace or not kind.namespaced):
            self.key = keys.key(kind, namespace, name)

    def matches(self, key: str, value: bytes, memo: dict[Any, Any], *, indexed: bool = False) -> bool:
        """`indexed`: the object was found by `index`, which has answered that term."""
        if self.everything:
            return True
        if self._place:
            namespace, name = keys.split(self._served.kind, key)
            for is_name, term in self._place:
                if ((name if is_name else namespace) == term.value) != term.equal:
                    return False
        if self._labels is not None and not self._labels(labels_of(self._served, value, memo)):
            return False
        terms = self._beside_index if indexed else self._terms
        if not terms:
            return True
        found = fields_of(self._served, value, memo)
        return all((found[term.field] == term.value) == term.equal for term in terms)
