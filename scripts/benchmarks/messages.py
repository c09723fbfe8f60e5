"""Benchmark sends and receives of all kinds of payloads against other programs."""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from measuring import (
    MIB,
    Bench,
    Command,
    Cost,
    Result,
    curl_upload,
    fresh,
    open_upload,
    ours,
    random_payload,
    run,
    shell,
    text_payload,
)

from dockercomms.mailbox import Mailbox
from dockercomms.transport.chunks import choose_chunk_bytes, split
from dockercomms.transport.layer import encode
from dockercomms.trust.owner import SigningOptions

SMALL_FILES = 20_000
INBOX_MESSAGES = 100
SMALL_MESSAGES = 1000
REQUESTS_LIMIT = {"signed send": 10, "unsigned send": 7, "receive": 4, "receipt": 6}
"""Requests per message on a registry without the referrers API."""


FLOOR = str(Path(__file__).with_name("floor.py"))


def _floor(*arguments: str, stdout: Path | None = None) -> Cost:
    """Run the minimal Python program for the same work."""
    return run(sys.executable, FLOOR, *arguments, stdout=stdout)


def _send(path: Path, repo: str, *options: str) -> Cost:
    return ours("send", str(path), "--to", "bob", "--repo", repo, *options)


def send(bench: Bench) -> Result:
    """Send incompressible bytes; compare with a raw upload."""
    payload = random_payload(bench.folder, bench.size)
    return _against_upload(bench, "send, incompressible", payload, bar=1.05)


def text(bench: Bench) -> Result:
    """Send sources and logs; compare with a raw upload."""
    payload = text_payload(bench.folder, bench.size)
    return _against_upload(bench, "send, text", payload, bar=0.6)


def _against_upload(bench: Bench, name: str, payload: tuple[Path, str], *, bar: float) -> Result:
    """Send a file with a known digest; compare with its raw upload."""
    path, digest = payload
    host = bench.server.host
    return bench.compare(
        name,
        {
            "dockercomms": lambda: _send(path, f"{host}/mail/{fresh()}"),
            "curl": lambda: curl_upload(host, path, digest),
            "minimal": lambda: _floor("send", str(path), host, f"floor/{fresh()}"),
        },
        bar=bar,
        against="curl",
    )


def gzip(bench: Bench) -> Result:
    """Send the same text as gzip, which 1.0 receivers prefer; compare with zstd."""
    path, _ = text_payload(bench.folder, bench.size)
    host = bench.server.host
    return bench.compare(
        "send, text, gzip",
        {
            "gzip": lambda: _send(path, f"{host}/mail/{fresh()}", "--compress", "gzip"),
            "zstd": lambda: _send(path, f"{host}/mail/{fresh()}"),
        },
        bar=1.5,
    )


def receive(bench: Bench) -> Result:
    """Receive a file; compare with a download that is hashed on the way."""
    path, digest = random_payload(bench.folder, bench.size)
    host, repo = bench.server.host, f"{bench.server.host}/mail/{fresh()}"
    _send(path, repo)
    raw = f"raw/{fresh()}"
    curl_upload(host, path, digest, raw)
    target = bench.folder / "received"
    words = ("recv", "--me", "bob", "--repo", repo, "--out", str(target), "--all", "--no-receipt")
    url = f"http://{host}/v2/{raw}/blobs/{digest}"
    layers, least = bench.folder / "layers", f"floor/{fresh()}"
    _floor("send", str(path), host, least, stdout=layers)

    def emptied(command: Command) -> Command:
        def take() -> object:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            return command()

        return take

    return bench.compare(
        "receive",
        {
            "dockercomms": emptied(lambda: ours(*words)),
            "curl, openssl": emptied(
                lambda: shell(f"curl -sSf {url} | tee {target}/file | openssl dgst -sha256")
            ),
            "minimal": emptied(
                lambda: _floor("receive", str(layers), host, least, f"{target}/file")
            ),
        },
        bar=0.7,
        against="curl, openssl",
    )


def again(bench: Bench) -> Result:
    """Send the same file a second time; compare with only hashing and compressing it."""
    path, _ = random_payload(bench.folder, bench.size)
    repo = f"{bench.server.host}/mail/{fresh()}"
    _send(path, repo)
    before = len(bench.server.access_log())
    script = (
        f"import sys; sys.path[:0] = {sys.path[:2]!r}; from pathlib import Path; "
        f"from messages import hash_and_compress; hash_and_compress(Path({str(path)!r}))"
    )
    result = bench.compare(
        "second send of the same file",
        {
            "dockercomms": lambda: _send(path, repo),
            "hash and compress": lambda: run(sys.executable, "-c", script),
        },
        bar=1.3,
    )
    sent = [
        line
        for line in bench.server.access_log()[before:]
        if re.search(r'"(PUT|PATCH) [^"]*/blobs/uploads/', line)
    ]
    note = f"{len(sent) / bench.rounds:.0f} blobs sent each time (the signature's bundle)"
    return Result(
        name=result.name,
        seconds=result.seconds,
        ratio=result.ratio,
        bar=result.bar,
        peak_mib=result.peak_mib,
        note=note,
    )


def hash_and_compress(path: Path) -> None:
    """Do the minimal work of a second send: read, hash, compress, hash."""
    import hashlib  # noqa: PLC0415 - in a process of its own
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    size = choose_chunk_bytes(path.stat().st_size)
    hashed = hashlib.sha256()
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(2) as pool:
        pending = []
        for index, chunk in enumerate(split(file, size, seen=hashed.update)):
            pending.append(pool.submit(encode, chunk, index, "zstd"))
            while len(pending) > 2:
                pending.pop(0).result()


def folder(bench: Bench) -> Result:
    """Send a folder of 20,000 small files; compare with tar piped into a raw upload."""
    tree = bench.folder / "tree"
    for number in range(SMALL_FILES):
        path = tree / f"part{number // 100:03d}" / f"file{number:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * (number % 200))
    host = bench.server.host

    def piped() -> Cost:
        url = open_upload(host, f"tar/{fresh()}")
        session = url.removesuffix("digest=").rstrip("?&")
        return shell(
            f"tar -C {bench.folder} -cf - tree | "
            f"curl -sSf -X PATCH -H 'Content-Type: application/octet-stream' -T - '{session}'"
        )

    return bench.compare(
        "send, 20,000 small files",
        {
            "dockercomms": lambda: _send(tree, f"{host}/mail/{fresh()}"),
            "tar, curl": piped,
            "minimal": lambda: _floor("folder", str(tree), host, f"floor/{fresh()}"),
        },
        bar=1.3,
        against="tar, curl",
    )


def layout(bench: Bench) -> Result:
    """Send a file into a layout folder and receive it; compare with two copies by cp and sync."""
    path, _ = random_payload(bench.folder, bench.size)
    target = bench.folder / "copy"

    def both() -> None:
        box = f"oci-layout:{bench.folder / fresh()}"
        _send(path, box)
        ours("recv", "--me", "bob", "--repo", box, "--out", str(target), "--no-receipt")
        shutil.rmtree(box.removeprefix("oci-layout:"))
        shutil.rmtree(target)

    def copied() -> None:
        target.mkdir()
        for name in ("one", "two"):
            shell(f"cp {path} {target / name} && sync {target / name}")
        shutil.rmtree(target)

    return bench.compare(
        "layout folder, send and receive", {"dockercomms": both, "cp, sync": copied}
    )


def version(bench: Bench) -> Result:
    """Start and print the version."""
    return _started(bench, "--version", ("--version",), 3)


def help_page(bench: Bench) -> Result:
    """Start and print the help."""
    return _started(bench, "--help", ("--help",), 8)


def inbox(bench: Bench) -> Result:
    """List the inbox of a layout with 100 messages."""
    box = f"oci-layout:{bench.folder / fresh()}"
    with Mailbox(box, me="alice") as mailbox:
        for number in range(INBOX_MESSAGES):
            mailbox.send([], text=f"message {number}", to="bob")
    words = ("inbox", "--me", "bob", "--repo", box)
    return _started(bench, f"inbox of {INBOX_MESSAGES} messages in a layout", words, 15)


def _started(bench: Bench, name: str, words: Sequence[str], bar: float) -> Result:
    program = (sys.executable, "-m", "dockercomms", *words)
    many = Bench(bench.server, bench.other, bench.folder, bench.size, max(7, bench.rounds))
    return many.compare(
        name,
        {
            "dockercomms": lambda: run(*program),
            "python -c pass": lambda: run(sys.executable, "-c", "pass"),
        },
        bar=bar,
    )


def requests(bench: Bench) -> Result:
    """Count requests per message in the log of a registry without the referrers API."""
    host, me, counts = bench.server.host, "bob", {}
    repo = f"{host}/requests/{fresh()}"
    note = bench.folder / "note.txt"

    def counted(act: Callable[[], object]) -> int:
        time.sleep(0.5)  # the log is written a little later
        before = len(bench.server.access_log())
        act()
        time.sleep(0.5)
        return len(bench.server.access_log()) - before

    out = str(bench.folder / "requests")
    for signing in ("signed", "unsigned"):
        with Mailbox(repo, me="alice", signing=SigningOptions(sign=signing == "signed")) as mailbox:
            for number in range(2):  # the first one creates the anchor and tests the registry
                stream = io.BytesIO(f"{signing} {number}".encode())
                send_one = partial(mailbox.send, [Path("-")], stdin=stream, name="n", to=me)
                taken = counted(send_one)
            counts[f"{signing} send"] = taken
    ours("recv", "--me", me, "--repo", repo, "--out", out, "--no-verify", "--no-receipt")
    note.write_text("one more")
    _send(note, repo)
    words = ("recv", "--me", me, "--repo", repo, "--out", out)
    counts["recv of one signed message, receipt and all"] = counted(lambda: ours(*words))
    said = ", ".join(f"{name} {count}" for name, count in counts.items())
    worst = max(
        counts["signed send"] / REQUESTS_LIMIT["signed send"],
        counts["unsigned send"] / REQUESTS_LIMIT["unsigned send"],
    )
    return Result(name="requests per message", seconds={}, ratio=worst, bar=1.0, note=said)


def signed(bench: Bench) -> Result:
    """Receive 1,000 small signed messages with receipts; compare with unsigned ones."""
    ours("trust", "add", "carol", "--allow-unsigned")
    with_receipts = _signed_against_unsigned(bench)
    without = _signed_against_unsigned(bench, "--no-receipt")
    note = f"{without.ratio:.2f} without receipts, where an unsigned one is a single GET"
    return replace(with_receipts, note=note)


def _signed_against_unsigned(bench: Bench, *options: str) -> Result:
    repos = {}
    for kind, sender in (("signed", "alice"), ("unsigned", "carol")):
        repo = repos[kind] = f"{bench.server.host}/mail/{fresh()}"
        signing = SigningOptions(sign=kind == "signed")
        with Mailbox(repo, me=sender, signing=signing) as mailbox:
            for number in range(SMALL_MESSAGES):
                content = io.BytesIO(b"%04d" % number * 256)
                mailbox.send([Path("-")], stdin=content, name="small", to="bob")

    def take(repo: str) -> Cost:
        """Receive all messages with an empty state."""
        target = bench.folder / "small"
        shutil.rmtree(target, ignore_errors=True)
        os.environ["XDG_STATE_HOME"] = str(bench.folder / fresh())
        words = ("recv", "--me", "bob", "--repo", repo, "--out", str(target))
        cost = ours(*words, *options)
        if len(list(target.iterdir())) != SMALL_MESSAGES:
            raise SystemExit(f"recv of {repo}: not all messages came")
        return cost

    name = f"recv of {SMALL_MESSAGES:,} signed messages of unsigned ones {' '.join(options)}"
    return bench.compare(
        name.strip(), {kind: partial(take, repo) for kind, repo in repos.items()}, bar=2.5
    )


def sizes(bench: Bench) -> list[tuple[int, Cost, Cost]]:
    """Return sizes in MiB (1, 2, 4 ...) and the costs of a send and a receive of each."""
    rows = []
    size = 1
    while size * MIB <= bench.size:
        path, _ = random_payload(bench.folder, size * MIB)
        repo, out = f"{bench.server.host}/sizes/{fresh()}", bench.folder / "sizes"
        sent = _send(path, repo)
        got = ours("recv", "--me", "bob", "--repo", repo, "--out", str(out), "--no-receipt")
        shutil.rmtree(out)
        path.unlink()
        rows.append((size, sent, got))
        print(
            f"  {size} MiB: send {sent.seconds:.2f} s, {sent.peak_bytes / MIB:.0f} MiB; "
            f"receive {got.seconds:.2f} s, {got.peak_bytes / MIB:.0f} MiB",
            file=sys.stderr,
        )
        size *= 2
    return rows
