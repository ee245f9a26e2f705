"""What Kubernetes adds to CEL for addresses: URLs, IP addresses and networks. `FUNCTIONS` is the table."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

from wherry.api.cel import overloads as costs
from wherry.api.cel.overloads import Functions
from wherry.api.cel.types import BOOL, INT, STRING, list_of, map_of, opaque
from wherry.api.cel.values import EvaluationError

FUNCTIONS = Functions()
_add = FUNCTIONS.add
_STRINGS = list_of(STRING)

# URLs

_URL = opaque("kubernetes.URL")


@dataclass(frozen=True, slots=True)
class Url:
    cel_type = "kubernetes.URL"
    scheme: str
    netloc: str
    path: str
    query: str

    @property
    def host(self) -> str:
        return self.netloc.rpartition("@")[2]

    @property
    def hostname(self) -> str:
        host = self.host
        if host.startswith("["):
            return host[1 : host.find("]")]
        return host.partition(":")[0]

    @property
    def port(self) -> str:
        return self.host.rpartition("]")[2].partition(":")[2]


def parsed_url(text: str) -> Url | None:
    """An absolute URI or an absolute path, as Go's ParseRequestURI takes it."""
    if not text or re.search(r"[\x00-\x20\x7f]", text) or re.search(r"%(?![0-9a-fA-F]{2})", text):
        return None
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.\-]*:", text)
    if not text.startswith("/") and not scheme:
        return None
    try:
        parts = urlsplit(text, allow_fragments=False)
        if parts.netloc and not re.fullmatch(r"(?:[^@]*@)?(?:\[[0-9a-fA-F:.%]+\]|[^\[\]:]*)(?::\d*)?", parts.netloc):
            return None
    except ValueError:
        return None
    return Url(parts.scheme, parts.netloc, parts.path, parts.query)


def _url(text: str) -> Url:
    found = parsed_url(text)
    if found is None:
        raise EvaluationError(f'URL parse error during conversion from string: parse "{text}": invalid URI for request')
    return found


_add("isURL", (STRING,), BOOL, lambda text: parsed_url(text) is not None, cost=costs.through)
_add("url", (STRING,), _URL, _url, cost=costs.through)
_add("getScheme", (_URL,), STRING, lambda url: url.scheme, member=True)
_add("getHost", (_URL,), STRING, lambda url: url.host, member=True)
_add("getHostname", (_URL,), STRING, lambda url: url.hostname, member=True)
_add("getPort", (_URL,), STRING, lambda url: url.port, member=True)
_add("getEscapedPath", (_URL,), STRING, lambda url: quote(url.path, safe="/%:@!$&'()*+,;=~-._"), member=True)
_add(
    "getQuery", (_URL,), map_of(STRING, _STRINGS), lambda url: parse_qs(url.query, keep_blank_values=True), member=True
)  # fmt: skip

# addresses

_IP, _CIDR = opaque("net.IP"), opaque("net.CIDR")


@dataclass(frozen=True, slots=True)
class Ip:
    cel_type = "net.IP"
    value: ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Cidr:
    cel_type = "net.CIDR"
    value: ipaddress.IPv4Interface | ipaddress.IPv6Interface


def _parsed_ip(text: str) -> Ip | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped is not None or found.scope_id is not None)
    return None if mapped else Ip(found)


def _ip(text: str) -> Ip:
    found = _parsed_ip(text)
    if found is None:
        raise EvaluationError(f'IP Address "{text}" parse error during conversion from string: not an IP address')
    return found


def _parsed_cidr(text: str) -> Cidr | None:
    address, slash, length = text.partition("/")
    ip = _parsed_ip(address)
    if ip is None or not slash or not re.fullmatch(r"0|[1-9]\d{0,2}", length) or int(length) > ip.value.max_prefixlen:
        return None
    return Cidr(ipaddress.ip_interface(text))


def _cidr(text: str) -> Cidr:
    found = _parsed_cidr(text)
    if found is None:
        raise EvaluationError(f'network address parse error during conversion from string: "{text}" is no CIDR')
    return found


def _contains_cidr(outer: Cidr, inner: Cidr) -> bool:
    one, other = outer.value.network, inner.value.network
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]


def _is_global(ip: Ip) -> bool:
    value = ip.value
    broadcast = str(value) == "255.255.255.255"
    return not (value.is_unspecified or value.is_loopback or value.is_multicast or value.is_link_local or broadcast)


def _link_local_multicast(ip: Ip) -> bool:
    value = ip.value
    return (
        value in ipaddress.ip_network("224.0.0.0/24")
        if value.version == 4
        else value.packed[0] == 0xFF and value.packed[1] & 15 == 2
    )


_add("isIP", (STRING,), BOOL, lambda text: _parsed_ip(text) is not None, cost=costs.through)
_add("ip", (STRING,), _IP, _ip, cost=costs.through)
_add("ip.isCanonical", (STRING,), BOOL, lambda text: str(_ip(text).value) == text, cost=costs.through)
_add("family", (_IP,), INT, lambda ip: ip.value.version, member=True)
_add("isUnspecified", (_IP,), BOOL, lambda ip: ip.value.is_unspecified, member=True)
_add("isLoopback", (_IP,), BOOL, lambda ip: ip.value.is_loopback, member=True)
_add("isLinkLocalMulticast", (_IP,), BOOL, _link_local_multicast, member=True)
_add("isLinkLocalUnicast", (_IP,), BOOL, lambda ip: ip.value.is_link_local, member=True)
_add("isGlobalUnicast", (_IP,), BOOL, _is_global, member=True)
_add("string", (_IP,), STRING, lambda ip: str(ip.value))
_add("isCIDR", (STRING,), BOOL, lambda text: _parsed_cidr(text) is not None, cost=costs.through)
_add("cidr", (STRING,), _CIDR, _cidr, cost=costs.through)
_add("containsIP", (_CIDR, _IP), BOOL, lambda cidr, ip: ip.value in cidr.value.network, member=True)
_add("containsIP", (_CIDR, STRING), BOOL, lambda cidr, ip: _ip(ip).value in cidr.value.network, member=True)
_add("containsCIDR", (_CIDR, _CIDR), BOOL, _contains_cidr, member=True)
_add("containsCIDR", (_CIDR, STRING), BOOL, lambda cidr, text: _contains_cidr(cidr, _cidr(text)), member=True)
_add("ip", (_CIDR,), _IP, lambda cidr: Ip(cidr.value.ip), member=True)
_add("masked", (_CIDR,), _CIDR, lambda cidr: Cidr(ipaddress.ip_interface(cidr.value.network)), member=True)
_add("prefixLength", (_CIDR,), INT, lambda cidr: cidr.value.network.prefixlen, member=True)
_add("string", (_CIDR,), STRING, lambda cidr: str(cidr.value))
