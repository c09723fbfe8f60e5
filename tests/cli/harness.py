"""Runs one command line in this process, with streams, folder and environment of its own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockercomms.cli.program import run
from dockercomms.cli.session import Session


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str
    raw: bytes
    """Standard output as it was written."""


class Stream(io.TextIOWrapper):
    """A text stream into memory that may call itself a terminal."""

    def __init__(self, *, tty: bool = False, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, newline="")
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    def value(self) -> bytes:
        self.flush()
        return self.bytes.getvalue()


class Input(io.BytesIO):
    """Standard input that may call itself a terminal."""

    def __init__(self, data: bytes = b"", *, tty: bool = False) -> None:
        super().__init__(data)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty


def invoke(
    arguments: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path = Path("/nonexistent"),
    stdin: bytes | Input = b"",
    tty: bool = False,
    stderr_tty: bool | None = None,
    encoding: str = "utf-8",
    stdout: Any = None,
    stderr: Any = None,
    factory: Any = None,
    clock: Any = None,
) -> Result:
    """Run `dockercomms ARGUMENTS`.

    `tty` makes both outputs terminals, `stderr_tty` decides for standard error alone. Without
    `environ` nobody in particular runs it, and no configuration is found.
    """
    out = stdout or Stream(tty=tty, encoding=encoding)
    err = stderr or Stream(tty=tty if stderr_tty is None else stderr_tty, encoding=encoding)
    base = {"LOGNAME": "alice", "HOME": "/nonexistent"}
    session = Session(
        stdin=stdin if isinstance(stdin, Input) else Input(stdin),
        stdout=out,
        stderr=err,
        environ=base if environ is None else {**base, **environ},
        folder=folder,
        clock=clock,
        mailbox_factory=factory,
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments, session)
    raw = out.value() if isinstance(out, Stream) else b""
    said = err.value() if isinstance(err, Stream) else b""
    return Result(code, raw.decode(encoding, "replace"), said.decode(encoding, "replace"), raw)
