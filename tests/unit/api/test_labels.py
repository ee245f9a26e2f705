"""Label selectors: grammar, matching, messages in Kubernetes' words, LabelSelector messages."""

from __future__ import annotations

import pytest

from wherry.api import labels
from wherry.pb import meta_v1_pb2

LABELS = {"app": "web", "tier": "front", "n": "5", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app=api", False),
        ("app!=web", False),
        ("app!=api", True),
        ("absent!=x", True),
        ("app", True),
        ("absent", False),
        ("!absent", True),
        ("!app", False),
        ("app in (web,api)", True),
        ("app in (api)", False),
        ("app notin (api)", True),
        ("absent notin (api)", True),
        ("absent in (api)", False),
        ("n>4", True),
        ("n>5", False),
        ("n<6", True),
        ("app>1", False),
        ("empty=", True),
        ("empty", True),
        ("app=web,tier=front,!absent", True),
        ("app=web,tier=back", False),
        (" app = web , tier in ( front , x ) ", True),
        ("in in (in)", False),
        ("empty in (,x)", True),
        ("empty in ()", True),
        ("app in ()", False),
    ],
)
def test_matching(text: str, matches: bool) -> None:
    selector = labels.parse(text)
    assert selector.matches(LABELS) is matches
    assert selector.predicate()(LABELS) is matches
    assert labels.parse(str(selector)) == selector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("a gt x", "unable to parse requirement: found 'gt', expected: in, notin, =, ==, !=, gt, lt"),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an "
            "integer",
        ),
        (
            f"a={'x' * 64}",
            f'unable to parse requirement: values[0][a]: Invalid value: "{"x" * 64}": must be no more than 63 bytes',
        ),
        ("a=b,", "found '', expected: identifier after ','"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("=", "found '=', expected: !, identifier, or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
    ],
)
def test_errors_in_the_words_of_kubernetes(text: str, message: str) -> None:
    with pytest.raises(labels.BadSelector) as error:
        labels.parse(text)
    assert error.value.message == message


def test_label_selector_messages() -> None:
    assert labels.from_message(None) == labels.NOTHING
    assert not labels.from_message(None).matches({})
    assert labels.from_message(meta_v1_pb2.LabelSelector()).everything
    message = meta_v1_pb2.LabelSelector(
        match_labels={"app": "web"},
        match_expressions=[
            {"key": "tier", "operator": "In", "values": ["front", "back"]},
            {"key": "n", "operator": "Exists"},
            {"key": "absent", "operator": "DoesNotExist"},
            {"key": "app", "operator": "NotIn", "values": ["api"]},
        ],
    )
    selector = labels.from_message(message)
    assert selector.matches(LABELS)
    assert not selector.matches({"app": "web"})


@pytest.mark.parametrize(
    "expression",
    [
        {"key": "a", "operator": "In"},
        {"key": "a", "operator": "Exists", "values": ["x"]},
        {"key": "a", "operator": "Near", "values": ["x"]},
        {"key": "bad key", "operator": "Exists"},
    ],
    ids=str,
)
def test_bad_label_selector_messages(expression: dict[str, object]) -> None:
    with pytest.raises(labels.BadSelector):
        labels.from_message(meta_v1_pb2.LabelSelector(match_expressions=[expression]))  # type: ignore[list-item]


def test_map_selectors_match_protobuf_maps() -> None:
    meta = meta_v1_pb2.ObjectMeta(labels=LABELS)
    assert labels.from_map({"app": "web"}).predicate()(meta.labels)
    assert not labels.from_map({"other": "web"}).predicate()(meta.labels)
    assert "other" not in meta.labels  # asking must not add
