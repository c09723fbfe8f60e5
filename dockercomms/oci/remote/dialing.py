"""Connections to hosts with several addresses, some of which may be dead.

A dead first address (broken IPv6, a failed node) would cost each new connection the whole time
limit. So the next address is tried in parallel after a quarter of a second; the first to connect
wins.

Source: RFC 8305, "Happy Eyeballs Version 2", sections 4 and 5.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from itertools import chain, zip_longest

STAGGER_SECONDS = 0.25
"""The wait before the next address is tried in parallel (RFC 8305 section 5)."""


def dial(host: str, port: int, seconds: float) -> socket.socket:
    """Return a connected socket, blocking, with the time limit `seconds`.

    Args:
        host: A name or an address.
        port: The port.
        seconds: The time limit for all attempts, without the look-up of the name.

    Raises:
        TimeoutError: no address answered in time.
        OSError: the name is not found, or every address refused; the last one's error.
    """
    addresses = _in_turns(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    if len(addresses) == 1 or os.name == "nt":  # select does not report refusals on Windows
        return socket.create_connection((host, port), seconds)
    deadline = time.monotonic() + seconds
    refusal: OSError = TimeoutError(f"{host}: no connection in {seconds:g} s")
    with selectors.DefaultSelector() as selector:
        try:
            while addresses or selector.get_map():
                if addresses:
                    refusal = _begin(selector, addresses.pop(0)) or refusal
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{host}: no connection in {seconds:g} s")
                if not selector.get_map():
                    continue
                for key, _ in selector.select(min(STAGGER_SECONDS, left) if addresses else left):
                    found: socket.socket = key.data
                    selector.unregister(found)
                    code = found.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        found.settimeout(seconds)
                        return found
                    found.close()
                    refusal = OSError(code, os.strerror(code))
        finally:
            for key in list(selector.get_map().values()):
                key.data.close()
    raise refusal


_Address = tuple[
    int, int, int, str, tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]
]
"""The result type of `socket.getaddrinfo`."""


def _in_turns(found: Sequence[_Address]) -> list[_Address]:
    """Return the addresses with alternating families, the system's first one first."""
    first = [address for address in found if address[0] == found[0][0]]
    other = [address for address in found if address[0] != found[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, other)) if one is not None]


def _begin(selector: selectors.BaseSelector, address: _Address) -> OSError | None:
    """Begin to connect; return the error if that is impossible, else `None`."""
    family, kind, protocol, _, where = address
    try:
        sock = socket.socket(family, kind, protocol)
    except OSError as error:  # no IPv6 on this machine
        return error
    sock.settimeout(0)
    try:
        sock.connect(where)
    except BlockingIOError:
        pass
    except OSError as error:
        sock.close()
        return error
    selector.register(sock, selectors.EVENT_WRITE, sock)
    return None
