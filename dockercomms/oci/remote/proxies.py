"""The choice of a proxy for a request, and of the hosts that need none.

HTTPS_PROXY, HTTP_PROXY and ALL_PROXY are read in both spellings (the lower-case one first), or else
the system's settings on macOS and Windows. NO_PROXY is read as in Go programs, so that docker,
crane, oras and dockercomms take the same way.

Source: golang.org/x/net v0.40.0, http/httpproxy, "Config.NoProxy".
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import unquote, urlsplit

from dockercomms.errors import ConfigError
from dockercomms.oci.auth.credentials import basic_header
from dockercomms.oci.reference import is_loopback

PROXY_HINT = "look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY"

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")
_PORT = re.compile(r"(.*):([0-9]*)", re.DOTALL)
_PORTS = {"http": 80, "https": 443}


def proxy_for(url: str) -> str | None:
    """Return the address of the proxy for the http or https `url`, `None` to connect directly.

    The address has a scheme, and may have a user and password. Requests to this machine's loopback
    never use a proxy, as in Go programs: a proxy cannot reach it.

    Raises:
        ConfigError: the configured address is unusable. The message omits it: it may hold a
            password.
    """
    import urllib.request  # noqa: PLC0415 - it is slow to load, and requests loads it anyway

    parts = urlsplit(url)
    settings = urllib.request.getproxies()
    found = settings.get(parts.scheme) or settings.get("all")
    if not found or is_loopback(parts.netloc):
        return None
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if urllib.request.getproxies_environment():
        exempt = is_exempt(settings.get("no", ""), host, port)
    else:
        exempt = bool(urllib.request.proxy_bypass(host))
    return None if exempt else _checked(found.strip(), parts.scheme)


def is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Return whether the list `no_proxy` names `host`, whose address has no brackets.

    Its entries, between commas or spaces, are `*` for all hosts, an IP address or network in CIDR
    form, `example.com` for that host and those below it, `.example.com` or `*.example.com` for
    those below it alone. All but `*` and networks may end in a port. Case is ignored.
    """
    name = host.lower().rstrip(".")
    address = _ip(name)
    for entry in re.split(r"[,\s]+", no_proxy.lower()):
        if entry == "*":
            return True
        network = _network(entry)
        if network is not None:
            if address is not None and address in network:
                return True
            continue
        wanted, wanted_port = _split_port(entry)
        if wanted and (not wanted_port or int(wanted_port) == port):
            ip = _ip(wanted)
            if _is_below(name, wanted) if ip is None else ip == address:
                return True
    return False


def shown(proxy: str) -> str:
    """Return host and port of a proxy's address, without its user and password."""
    return urlsplit(proxy).netloc.rpartition("@")[2]


def login_header(proxy: str) -> str | None:
    """Return the `Proxy-Authorization` for an address, `None` if it has no user and password."""
    user, at, _ = urlsplit(proxy).netloc.rpartition("@")
    if not at:
        return None
    name, _, password = user.partition(":")
    return basic_header(unquote(name), unquote(password))


def _is_below(name: str, wanted: str) -> bool:
    suffix = wanted.removeprefix("*").rstrip(".")
    if suffix.startswith("."):
        return name.endswith(suffix)
    return name == suffix or name.endswith(f".{suffix}")


def _split_port(entry: str) -> tuple[str, str]:
    """Return host without brackets and port ("" without one) of an entry."""
    bracketed = re.fullmatch(r"\[(.*)\](?::([0-9]*))?", entry)
    if bracketed is not None:
        return bracketed[1], bracketed[2] or ""
    found = _PORT.fullmatch(entry)
    if found is None or _ip(entry) is not None:  # a bare IPv6 address
        return entry, ""
    return found[1], found[2]


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network in CIDR form, `None` for other text."""
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _checked(address: str, scheme: str) -> str:
    """Return the proxy's address with its scheme.

    Raises:
        ConfigError: no host, a port that is no number, or a character in its password that must be
            written as %XX: another host would be taken for the proxy, and the password shown.
    """
    full = address if _SCHEME.match(address) else f"http://{address}"
    try:
        parts = urlsplit(full)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if usable and "@" not in f"{parts.path}{parts.query}{parts.fragment}":
        return full
    raise ConfigError(
        f"the proxy for {scheme} addresses cannot be used: http://HOST:PORT or "
        "http://USER:PASSWORD@HOST:PORT expected",
        hint=f"{PROXY_HINT}; write special characters of a password as %XX (@ is %40)",
    )
