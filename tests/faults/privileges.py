"""Makes the rights of files count, also where tests run as root."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

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


def as_everybody(call: Callable[[], T]) -> T:
    """Return what `call` returns, which obeys the rights of files.

    Who is not root does so anyway. Root on Linux calls it in a thread that has given up what lets
    it pass them, for good: `access` looks at what a thread could have back, too.
    """
    if os.geteuid() != 0:
        return call()
    if not sys.platform.startswith("linux"):
        raise RuntimeError("run the tests as a user, not as root: rights do not count for root")

    def obey() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        header, data = _Header(_VERSION_3, 0), (_Data * 2)()
        _call(libc.capget, header, data)
        for kind in ("effective", "permitted", "inheritable"):
            setattr(data[0], kind, getattr(data[0], kind) & ~_OVERRIDES)
        _call(libc.capset, header, data)
        return call()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(obey).result()


def _call(function: ctypes._CFuncPtr, header: _Header, data: ctypes.Array[_Data]) -> None:  # type: ignore[name-defined]
    if function(ctypes.byref(header), data) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
