"""Which names, label keys and label values are legal, in Kubernetes' exact words.

Each function returns the list of what is wrong with its argument; an empty list means that it is fine. Called by the
registry's validation, the selectors and the CLI; the wording is checked against a real API server's.
"""

from __future__ import annotations

import re

_ALNUM_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_ALNUM_LABEL}(\.{_ALNUM_LABEL})*"
_DNS1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_QUALIFIED})?"
_WILDCARD = rf"\*\.{_SUBDOMAIN}"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_ENV_NAME = re.compile("[ -<>-~]+")

LABEL_MAX = 63
SUBDOMAIN_MAX = 253

_LABEL_RE, _SUBDOMAIN_RE, _DNS1035_RE, _QUALIFIED_RE, _LABEL_VALUE_RE, _WILDCARD_RE, _CONFIG_KEY_RE = (
    re.compile(pattern, re.ASCII)
    for pattern in (
        _ALNUM_LABEL, _SUBDOMAIN, _DNS1035, _QUALIFIED, _LABEL_VALUE, _WILDCARD, _CONFIG_KEY,
    )
)  # fmt: skip


def _explain(message: str, pattern: str, *examples: str) -> str:
    """`message (e.g. 'a',  or 'b', regex used for validation is '...')`: the double space is Kubernetes' own."""
    shown = ",  or ".join(f"'{example}'" for example in examples)
    return f"{message} (e.g. {shown}, regex used for validation is '{pattern}')"


_LABEL_MESSAGE = _explain(
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character",
    _ALNUM_LABEL,
    "my-name",
    "123-abc",
)
_SUBDOMAIN_MESSAGE = _explain(
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character",
    _SUBDOMAIN,
    "example.com",
)
_DNS1035_MESSAGE = _explain(
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and "
    "end with an alphanumeric character",
    _DNS1035,
    "my-name",
    "abc-123",
)
_QUALIFIED_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)
_QUALIFIED_MESSAGE = _explain(_QUALIFIED_RULE, _QUALIFIED, "MyName", "my.name", "123-abc")
_LABEL_VALUE_MESSAGE = _explain(
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character",
    _LABEL_VALUE,
    "MyValue",
    "my_value",
    "12345",
)
_WILDCARD_MESSAGE = _explain(
    "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower "
    "case alphanumeric characters, '-' or '.' and end with an alphanumeric character",
    _WILDCARD,
    "*.example.com",
)
_CONFIG_KEY_MESSAGE = _explain(
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
    _CONFIG_KEY,
    "key.name",
    "KEY_NAME",
    "key-name",
)
ENV_NAME_MESSAGE = "a valid environment variable name must consist only of printable ASCII characters other than '='"


def _too_long(limit: int, unit: str = "characters") -> str:
    return f"must be no more than {limit} {unit}"


def _check(value: str, limit: int, pattern: re.Pattern[str], message: str) -> list[str]:
    problems = []
    if len(value) > limit:
        problems.append(_too_long(limit))
    if not pattern.fullmatch(value):
        problems.append(message)
    return problems


def dns1123_label(value: str) -> list[str]:
    """Names of namespaces, containers, volumes; parts of host names."""
    # A subdomain is a legal name elsewhere: say what is special here.
    message = "must not contain dots" if _SUBDOMAIN_RE.fullmatch(value) else _LABEL_MESSAGE
    return _check(value, LABEL_MAX, _LABEL_RE, message)


def dns1123_subdomain(value: str) -> list[str]:
    """Names of most objects."""
    return _check(value, SUBDOMAIN_MAX, _SUBDOMAIN_RE, _SUBDOMAIN_MESSAGE)


def dns1035_label(value: str) -> list[str]:
    """Names of Services, versions of custom resources."""
    return _check(value, LABEL_MAX, _DNS1035_RE, _DNS1035_MESSAGE)


def wildcard_dns1123_subdomain(value: str) -> list[str]:
    return _check(value, SUBDOMAIN_MAX, _WILDCARD_RE, _WILDCARD_MESSAGE)


def qualified_name(value: str) -> list[str]:
    """Label keys, resource names, finalizers: `name` or `prefix.example.com/name`."""
    parts = value.split("/")
    if len(parts) > 2:
        rule = _explain(f"a valid label key {_QUALIFIED_RULE}", _QUALIFIED, "MyName", "my.name", "123-abc")
        return [f"{rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    problems = []
    name = parts[-1]
    if len(parts) == 2:
        if not parts[0]:
            problems.append("prefix part must be non-empty")
        else:
            problems += [f"prefix part {problem}" for problem in dns1123_subdomain(parts[0])]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name.encode()) > LABEL_MAX:
        problems.append(f"name part {_too_long(LABEL_MAX, 'bytes')}")
    if not _QUALIFIED_RE.fullmatch(name):
        problems.append(f"name part {_QUALIFIED_MESSAGE}")
    return problems


def label_value(value: str) -> list[str]:
    problems = []
    if len(value.encode()) > LABEL_MAX:
        problems.append(_too_long(LABEL_MAX, "bytes"))
    if not _LABEL_VALUE_RE.fullmatch(value):
        problems.append(_LABEL_VALUE_MESSAGE)
    return problems


def config_map_key(value: str) -> list[str]:
    """Keys of ConfigMaps and Secrets, which become file names."""
    problems = _check(value, SUBDOMAIN_MAX, _CONFIG_KEY_RE, _CONFIG_KEY_MESSAGE)
    if value == ".":
        problems.append("must not be '.'")
    elif value == "..":
        problems.append("must not be '..'")
    elif value.startswith(".."):
        problems.append("must not start with '..'")
    return problems


def env_var_name(value: str) -> list[str]:
    return [] if _ENV_NAME.fullmatch(value) else [ENV_NAME_MESSAGE]


def port_name(value: str) -> list[str]:
    """An IANA service name, as container ports have."""
    problems = []
    if len(value) > 15:
        problems.append(_too_long(15))
    if not re.fullmatch("[-a-z0-9]+", value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def percent(value: str) -> list[str]:
    """maxSurge, minAvailable and their like."""
    if re.fullmatch("[0-9]+%", value):
        return []
    message = "a valid percent string must be a numeric string followed by an ending '%'"
    return [_explain(message, "[0-9]+%", "1%", "93%")]


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else ["must be between 1 and 65535, inclusive"]


_VERSION = re.compile(r"v([1-9][0-9]*)(?:(alpha|beta)([1-9][0-9]*))?", re.ASCII)


def version_rank(name: str) -> tuple[int, int, int, str]:
    """Sorts API versions, the preferred one first: stable before beta before alpha, newer before older, then all else by name."""
    match = _VERSION.fullmatch(name)
    if match is None:
        return 3, 0, 0, name
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0), name
