"""The servers, as a URL names them: one parser for all schemes.

The tables below list every option; anything else is refused with the name that would be right. No error text quotes
what may be a password.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any
from urllib.parse import parse_qsl, unquote

from cachebox.distributed._net.servers import SENTINEL_PORT, Address, Servers

PORT = 6379
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
TRUE, FALSE = ("1", "true", "yes", "y", "on"), ("0", "false", "no", "n", "off")


def _flag(given: str) -> bool:
    if given.lower() not in TRUE + FALSE:
        raise ValueError("true or false")
    return given.lower() in TRUE


def _number(given: str) -> int:
    if not given.isascii() or not given.isdigit():
        raise ValueError("a number from 0 on")
    return int(given)


def _path(given: str) -> str:
    if not os.path.exists(given):
        raise ValueError("a path that exists")
    return given


def _certificates(given: str) -> str:
    if given not in ("none", "optional", "required"):
        raise ValueError("none, optional or required")
    return given


def _tls_version(given: str) -> ssl.TLSVersion:
    name = given.replace(".", "_")
    name = "TLSv1" if name == "TLSv1_0" else name
    if name in ssl.TLSVersion.__members__:
        return ssl.TLSVersion[name]
    try:
        return ssl.TLSVersion(int(given))
    except ValueError:
        raise ValueError("TLSv1.2 or TLSv1.3") from None


def _protocol(given: str) -> int:
    if given != "3":
        raise ValueError("3, because the server must push changes")
    return 3


def _verify_flags(given: str) -> Any:
    from redis import connection as connections

    try:
        return connections.parse_ssl_verify_flags(given)  # type: ignore[no-untyped-call,unused-ignore]
    except (ValueError, AttributeError, KeyError):
        raise ValueError("a list of names of ssl.VerifyFlags") from None


ACCESS: dict[str, Callable[[str], Any]] = {"username": str, "password": str}
GENERAL: dict[str, Callable[[str], Any]] = {
    **ACCESS, "db": _number, "client_name": str, "socket_keepalive": _flag, "protocol": _protocol,
}
TLS: dict[str, Callable[[str], Any]] = {
    "ssl_ca_certs": _path,
    "ssl_ca_path": _path,
    "ssl_ca_data": str,
    "ssl_certfile": _path,
    "ssl_keyfile": _path,
    "ssl_password": str,
    "ssl_cert_reqs": _certificates,
    "ssl_check_hostname": _flag,
    "ssl_min_version": _tls_version,
    "ssl_ciphers": str,
    "ssl_validate_ocsp": _flag,
    "ssl_validate_ocsp_stapled": _flag,
    "ssl_include_verify_flags": _verify_flags,
    "ssl_exclude_verify_flags": _verify_flags,
}
SENTINEL: dict[str, Callable[[str], Any]] = {
    "sentinel_ssl": _flag, **{f"sentinel_{name}": check for name, check in (ACCESS | TLS).items()},
}
ELSEWHERE = {
    "timeout": "timeout",
    "socket_timeout": "timeout",
    "socket_connect_timeout": "timeout",
    "max_connections": "max_connections",
}
"""Options that redis-py takes in a URL, and the argument of the cache to use instead."""


def from_url(url: str) -> Servers:
    """The servers that a URL names.

    ``redis://[user:password@]host[:port][/db]``, ``rediss://`` with TLS, ``unix://[user:password@]/path?db=0``; a
    server that belongs to a cluster is asked for the others.
    ``redis+sentinel://[user:password@]host[:port][,...]/service[/db]`` asks sentinels, and ``rediss+sentinel://`` does
    so with TLS. User and password are the server's; those of the sentinels are ``sentinel_username`` and
    ``sentinel_password``. Options such as ``ssl_ca_certs`` follow a question mark. Sentinels use them, too, unless the
    URL gives their own (``sentinel_ssl_ca_certs``). Raises ValueError if the URL is malformed.

    >>> from_url("redis+sentinel://one:1,two/mymaster/3").addresses
    [('one', 1), ('two', 26379)]
    """
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise ValueError(
            f"url must begin with {', '.join(f'{known}://' for known in SCHEMES)}, file:/// or memory://, "
            f"not with {scheme + '://' if separator else url[:8]!r}"
        )
    if "#" in rest:
        raise ValueError("url must not contain '#': in a password write %23 for it")
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    if scheme != "unix" and "@" in path:
        raise ValueError("url has an '@' behind the first '/': in a password write %2F for '/' and %40 for '@'")
    options = _options(query, scheme)
    user, colon, password = userinfo.partition(":")
    _agree(options, "username", unquote(user) if user else None)
    _agree(options, "password", unquote(password) if colon else None)
    if scheme == "unix":
        if hosts or not path:
            raise ValueError("url must name a socket by its whole path: unix:///path/to/socket")
        return Servers([(f"/{unquote(path)}", 0)], mode="single", is_path=True, options=options)
    path = path.removesuffix("/")
    if scheme.endswith("sentinel"):
        return _behind_sentinels(scheme, hosts, path, options)
    _agree(options, "db", _database(path) if path else None)
    return Servers([_address(hosts, PORT)], tls=scheme == "rediss", options=options)


def _behind_sentinels(scheme: str, hosts: str, path: str, options: dict[str, Any]) -> Servers:
    service, slash, db = path.partition("/")
    if not service:
        raise ValueError("url must name the service behind the sentinels: redis+sentinel://host:26379/SERVICE[/DB]")
    _agree(options, "db", _database(db) if slash else None)
    tls = scheme == "rediss+sentinel"
    of_sentinels = {name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name in SENTINEL}
    with_tls = of_sentinels.pop("ssl", tls)
    if not with_tls and any(name.startswith("ssl_") for name in of_sentinels):
        raise ValueError("url has options for the sentinels' TLS, but not sentinel_ssl=true")
    if with_tls:
        of_sentinels = {name: value for name, value in options.items() if name in TLS} | of_sentinels
    return Servers(
        [_address(host, SENTINEL_PORT) for host in hosts.split(",")],
        mode="sentinel",
        tls=tls,
        options=options,
        service=unquote(service),
        sentinel_options=of_sentinels,
        sentinel_tls=with_tls,
    )


def _options(query: str, scheme: str) -> dict[str, Any]:
    """The options behind the question mark, checked."""
    known = GENERAL.copy()
    if scheme.startswith("rediss"):
        known |= TLS
    if scheme.endswith("sentinel"):
        known |= SENTINEL
    found: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError("url must have options as name=value&name=value behind the question mark") from None
    for name, value in pairs:
        if name not in known:
            raise ValueError(f"url has the option {name!r}, {_instead(name, known)}")
        try:
            checked = known[name](value)
        except ValueError as error:
            raise ValueError(f"url must have as {name} {error}, not {value!r}") from None
        if name in found:
            raise ValueError(f"url has the option {name} twice")
        found[name] = checked
    found.pop("protocol", None)                     # version 3 is spoken in any case
    return found


def _instead(name: str, known: dict[str, Any]) -> str:
    """What to write instead of an unknown option."""
    if name in ELSEWHERE:
        return f"which is not taken from there: use the argument {ELSEWHERE[name]} of the cache"
    if name in TLS:
        return "which needs TLS: use rediss://"
    if name in SENTINEL:
        return "which needs sentinels: use redis+sentinel://"
    close = get_close_matches(name.lower(), known, 1)
    return f"which there is not: did you mean {close[0]}?" if close else f"but there are only {', '.join(known)}"


def _agree(options: dict[str, Any], name: str, value: Any) -> None:
    """Add what stands before the question mark; an option behind it must not contradict it."""
    if value is not None:
        if options.setdefault(name, value) != value:
            raise ValueError(f"url says two different things about {name}: before the question mark and behind it")


def _database(text: str) -> int:
    try:
        return _number(unquote(text))
    except ValueError:
        raise ValueError(f"url must have the number of a database behind the last '/', not {text!r}") from None


def _address(text: str, port: int) -> Address:
    """A host with or without a port; an IPv6 address stands in brackets."""
    host, colon, behind = text.rpartition(":") if ":" in text and not text.endswith("]") else (text, "", "")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"url must have an IPv6 address in brackets, as in [::1]:6379, not {text!r}")
    if "," in host:
        raise ValueError(f"url must name one host, not {text!r}; several are for sentinels: redis+sentinel://")
    if colon and not (behind.isascii() and behind.isdigit() and 0 < int(behind) < 65536):
        raise ValueError(f"url must have a port from 1 to 65535, not {behind!r}")
    return unquote(host) or "localhost", int(behind) if colon else port
