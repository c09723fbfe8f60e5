"""Makes the rights of files count for this thread, also where tests run as root."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator

_VERSION_3 = 0x20080522
_OVERRIDES = (1 << 1) | (1 << 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (capability.h)."""


class _Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _Data(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


@contextlib.contextmanager
def as_everybody() -> Iterator[None]:
    """Obey the rights of files in the block: in this thread, and in those it starts.

    Who is not root does so anyway. Root on Linux gives up, for as long, what lets it pass them.
    """
    if os.geteuid() != 0:
        yield
        return
    if not sys.platform.startswith("linux"):
        raise RuntimeError("run the tests as a user, not as root: rights do not count for root")
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    _call(libc.capget, header, data)
    effective = data[0].effective
    data[0].effective = effective & ~_OVERRIDES
    _call(libc.capset, header, data)
    try:
        yield
    finally:
        data[0].effective = effective
        _call(libc.capset, header, data)


def _call(function: ctypes._CFuncPtr, header: _Header, data: ctypes.Array[_Data]) -> None:  # type: ignore[name-defined]
    if function(ctypes.byref(header), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
