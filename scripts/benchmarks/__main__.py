"""Time dockercomms against its peers on real registries; run by scripts/bench.

The first command of a benchmark is ours. Its target is the most time that it may take, relative to
the peer.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))

import blobs  # noqa: E402 - the path to it and to tests is above
import messages  # noqa: E402
import signatures  # noqa: E402
from measuring import MIB, Bench, Result  # noqa: E402
from plotting import plot  # noqa: E402

from tests.real.launch import distribution  # noqa: E402

BENCHMARKS: Mapping[str, Callable[[Bench], Result]] = {
    "send": messages.send,
    "receive": messages.receive,
    "text": messages.text,
    "gzip": messages.gzip,
    "again": messages.again,
    "folder": messages.folder,
    "layout": messages.layout,
    "version": messages.version,
    "help": messages.help_page,
    "inbox": messages.inbox,
    "requests": messages.requests,
    "signed": messages.signed,
    "push": blobs.blob_push,
    "pull": blobs.blob_pull,
    "copy": blobs.image_copy,
    "heads": blobs.heads,
    "addresses": signatures.address_book,
    "keyless": signatures.keyless_proof,
}
SIZES = "sizes"
"""Time and memory for files of growing size, without a ratio; runs only if `--only` names it."""


def main() -> None:
    """Run the benchmarks that are asked for and print a table."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    names = [*BENCHMARKS, SIZES]
    parser.add_argument("--only", action="append", choices=names, help="run this one alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, help="size of the payload in MiB")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="write the plot of `--only sizes` here")
    options = parser.parse_args()
    # As an installed program is: compiled, whatever this shell says of writing it down.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compileall.compile_dir(ROOT / "dockercomms", quiet=1)
    asked = options.only or list(BENCHMARKS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("home", "one", "two"):
            (folder / part).mkdir()
        os.environ.update(
            HOME=str(folder / "home"),
            XDG_STATE_HOME=str(folder / "home/state"),
            XDG_DATA_HOME=str(folder / "home/data"),
            XDG_CONFIG_HOME=str(folder / "home/config"),
        )
        with distribution(folder / "one") as server, distribution(folder / "two") as other:
            bench = Bench(server, other, folder, options.size * MIB, options.rounds)
            results = [BENCHMARKS[key](bench) for key in asked if key != SIZES]
            rows = messages.sizes(bench) if SIZES in asked else []
    for result in results:
        print(_row(result))
    if rows and options.plot is not None:
        memory = {
            "send": [(float(size), sent.peak_bytes / MIB) for size, sent, _ in rows],
            "receive": [(float(size), got.peak_bytes / MIB) for size, _, got in rows],
        }
        options.plot.write_text(plot(memory))
    if options.markdown:
        options.markdown.write_text("".join(_markdown(result) for result in results))
    if options.json:
        _write(options.json, results, rows)


def _row(result: Result) -> str:
    """Return a line for the terminal."""
    times = ", ".join(f"{label} {value:.3g} s" for label, value in result.seconds.items())
    bar = (
        ""
        if result.bar is None
        else f"(target {result.bar:g}, {'met' if result.kept else 'missed'})"
    )
    peak = next(iter(result.peak_mib.values()), None)
    memory = "" if peak is None else f"; peak {peak:.0f} MiB"
    note = f"; {result.note}" if result.note else ""
    if result.of_floor is not None:
        note += f"; {result.of_floor:.2f} of the minimal program"
    return f"{result.name:36} {result.ratio:5.2f}x  {bar:24} {times}{memory}{note}"


def _markdown(result: Result) -> str:
    """Return a line of the table in docs/performance.md."""
    seconds = list(result.seconds.items())
    own = f"{seconds[0][1]:.3g} s" if seconds else ""
    others = ", ".join(f"{label} {value:.3g} s" for label, value in seconds[1:])
    bar = "" if result.bar is None else f"{result.bar:g}"
    peak = next(iter(result.peak_mib.values()), None)
    memory = "" if peak is None else f"{peak:.0f} MiB"
    floor = "" if result.of_floor is None else f"{result.of_floor:.2f}"
    ratio = f"{result.ratio:.2f}"
    cells = (result.name, own, others or result.note, ratio, bar, floor, memory)
    return f"| {' | '.join(cells)} |\n"


def _write(
    path: Path, results: Sequence[Result], rows: Sequence[tuple[int, object, object]]
) -> None:
    """Write everything as JSON."""
    sizes = [
        {"mib": size, "send": _fields(sent), "receive": _fields(got)} for size, sent, got in rows
    ]
    known = {"results": [asdict(result) for result in results], "sizes": sizes}
    path.write_text(json.dumps(known, indent=1) + "\n")


def _fields(cost: object) -> dict[str, object]:
    return {name: getattr(cost, name) for name in ("seconds", "peak_bytes")}


if __name__ == "__main__":
    main()
