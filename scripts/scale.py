"""Measure how costs grow with the size of an inbox; run by `scripts/bench --only scale`.

1. Small messages: one process sends and receives messages of 1 KiB. A bare http.client loop sends
   the same requests in turn (A B A B ...), on one connection and on several. For receiving, a
   second loop also syncs each message to the disk, as a receiver must that neither loses messages
   nor delivers them twice.
2. Large inboxes: the cost of a look into 100,000 old messages and into 1,000.

Registry: distribution. The inboxes are built once, in the registry's own file layout, in the cache
outside the checkout.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import re
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dockercomms.mailbox import Mailbox
from dockercomms.oci.interface import read_all
from dockercomms.oci.model import (
    EMPTY_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    digest_of,
)
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.protocol.header import (
    CHUNK_INDEX,
    CHUNK_SIZE,
    MEDIA_TYPE_CHUNK_ZSTD,
    MessageHeader,
)
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import anchor_tag, bell_tag, message_tag, recipient_tag
from dockercomms.state import State
from dockercomms.trust.owner import SigningOptions, TrustOptions
from tests.real.counting_proxy import CountingProxy
from tests.real.launch import Server, distribution

KIB = 1024
MESSAGES = 1000
BATCH = 100
"""Messages of one measurement, after which the other side has its turn."""
CONNECTIONS = 8

OLD_MESSAGES = 100_000
FEW_MESSAGES = 1000
RECIPIENTS = 50
DAYS = 30
TTL_SECONDS = 90 * 24 * 3600
CACHE_VERSION = 1
"""Counts up when `plant` builds them otherwise."""
MAX_CACHE_DAYS = 50
"""The inboxes in the cache are built anew after so long: their messages are to live."""
ROUNDS = 5
PAGE = 1000
"""Tags of a page, as the program asks for them."""
REPOSITORY = "scale/box"

_LOGGED = re.compile(r'"(?P<method>[A-Z]+) (?P<target>\S+) HTTP/1.1" (?P<status>\d+) (?P<size>\d+)')
_KEPT_HEADERS = frozenset({"content-type", "accept", "content-length", "range", "content-range"})


# --- 1. small messages ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of the program."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None


@contextlib.contextmanager
def recording(server: Server, asked: list[Asked]) -> Iterator[str]:
    """Yield a host and record every request to it."""

    def note(head: bytes, body: bytes) -> None:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        fields = dict(line.split(": ", 1) for line in lines if ": " in line)
        kept = {key: value for key, value in fields.items() if key.lower() in _KEPT_HEADERS}
        asked.append(Asked(method, target, kept, body or None))

    with CountingProxy(server.address, on_request=note) as proxy:
        yield proxy.host


class Keeper:
    """Writes 1 KiB durably, as a delivery must: a file under its name, and two commits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._known = sqlite3.connect(folder / "known.db", isolation_level=None)
        self._known.execute("PRAGMA journal_mode = WAL")
        self._known.execute("PRAGMA synchronous = FULL")
        self._known.execute("CREATE TABLE known (number INTEGER PRIMARY KEY, state TEXT)")

    def keep(self, number: int) -> None:
        """Write file `number` durably: first the intent, then the file, then its completion."""
        part, final = self._folder / f"{number}.part", self._folder / f"{number}.bin"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(handle, bytes(KIB))
        os.fsync(handle)
        os.close(handle)
        self._known.execute("INSERT INTO known VALUES (?, 'coming')", (number,))
        part.rename(final)
        handle = os.open(self._folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        self._known.execute("UPDATE known SET state = 'there' WHERE number = ?", (number,))

    def close(self) -> None:
        """Remove all files."""
        self._known.close()
        shutil.rmtree(self._folder)


def replay(
    host: str,
    asked: Sequence[Asked],
    repository: str,
    *,
    messages: int = 0,
    folder: Path | None = None,
) -> None:
    """Send the same requests with http.client and read the answers, without checking them.

    With a folder, also write each of the `messages` durably there.
    """
    connection = http.client.HTTPConnection(host)
    location = ""
    keeper = None if folder is None else Keeper(folder)
    kept = 0
    for number, one in enumerate(asked, 1):
        while keeper is not None and kept < number * messages // len(asked):
            keeper.keep(kept)
            kept += 1
        url = re.sub(
            r"/v2/.*?/(?=(?:blobs|manifests|tags|referrers)/)", f"/v2/{repository}/", one.url
        )
        if one.method in ("PUT", "PATCH") and "/blobs/uploads/" in url:
            url = location
            digest = urllib.parse.parse_qs(urllib.parse.urlsplit(one.url).query).get("digest")
            if digest:
                url += ("&" if "?" in url else "?") + f"digest={digest[0]}"
        connection.request(one.method, url, one.body, dict(one.headers))
        answer = connection.getresponse()
        answer.read()
        if "Location" in answer.headers:
            parts = urllib.parse.urlsplit(answer.headers["Location"])
            location = f"{parts.path}?{parts.query}" if parts.query else parts.path
    connection.close()
    if keeper is not None:
        keeper.close()


@dataclass(frozen=True, slots=True)
class Manner:
    """Options for sending and receiving."""

    name: str
    signing: SigningOptions
    trust: TrustOptions
    receipt: bool


MANNERS = (
    Manner(
        "unsigned, no receipt",
        SigningOptions(sign=False),
        TrustOptions(verify=False),
        receipt=False,
    ),
    Manner("as by default", SigningOptions(), TrustOptions(), receipt=True),
)


@dataclass(frozen=True, slots=True)
class Small:
    """Costs of messages of 1 KiB."""

    manner: str
    verb: str
    connections: int
    requests: float
    """Of one message."""
    seconds: float
    """Of one message, median."""
    bare_seconds: float
    """Of the same requests by http.client."""
    durable_seconds: float | None = None
    """Of the same, where what is received is made durable."""

    @property
    def throughput(self) -> float:
        """Return our throughput relative to the bare loop's."""
        return self.bare_seconds / self.seconds

    def told(self) -> str:
        """Return a line about it."""
        line = (
            f"{self.verb:4} {self.manner:22} {self.connections} connection(s): "
            f"{self.throughput:4.2f} of the bare loop (target 0.7), {self.requests:.2f} requests, "
            f"{self.seconds * 1000:.1f} ms ({self.bare_seconds * 1000:.1f} ms) a message"
        )
        if self.durable_seconds is not None:
            share = self.durable_seconds / self.seconds
            line += f"; {share:.2f} of a durable loop ({self.durable_seconds * 1000:.1f} ms)"
        return line


@dataclass(frozen=True, slots=True)
class Worker:
    """The mailbox, files and repository of one connection."""

    host: str
    folder: Path
    manner: Manner
    count: int

    def mailbox(self, me: str, repository: str) -> Mailbox:
        """Return a mailbox with an empty state."""
        return Mailbox(
            f"{self.host}/{repository}",
            me=me,
            state_path=self.folder / f"{me}-{uuid.uuid4().hex}.db",
            keys_folder=self.folder.parent / "keys",
            signing=self.manner.signing,
            trust=self.manner.trust,
        )

    def send(self, repository: str) -> None:
        """Send the messages of this connection."""
        with self.mailbox("alice", repository) as mailbox:
            for number in range(self.count):
                mailbox.send([self.folder / f"{number}.bin"], to="bob")

    def receive(self, repository: str) -> None:
        """Receive the messages of this connection."""
        out = self.folder / uuid.uuid4().hex
        with self.mailbox("bob", repository) as mailbox:
            got = list(mailbox.receive(out=out, receipt=self.manner.receipt))
        if [item.status for item in got] != ["received"] * self.count:
            raise SystemExit(f"{len(got)} received; {self.count} expected")
        shutil.rmtree(out)


def small_messages(
    server: Server, folder: Path, manner: Manner, connections: int, messages: int
) -> list[Small]:
    """Time our program and the bare loop in turn, sending and receiving."""
    count = min(BATCH, messages // 3) if connections == 1 else min(BATCH // 4, messages // 12)
    rounds = max(3, messages // (count * connections))
    workers = []
    for _ in range(connections):
        home = folder / uuid.uuid4().hex
        home.mkdir()
        for message in range(count):
            (home / f"{message}.bin").write_bytes(os.urandom(KIB))
        workers.append(Worker(server.host, home, manner, count))
    with workers[0].mailbox(
        "alice", "scale/key"
    ) as mailbox:  # creates the key before the measurement
        mailbox.send(text="hello", to="nobody")
    sends: list[Asked] = []
    receives: list[Asked] = []
    recorded = fresh()
    with recording(server, sends) as host:
        replace(workers[0], host=host).send(recorded)
    with recording(server, receives) as host:
        replace(workers[0], host=host).receive(recorded)

    def at_once(work: Callable[..., object], *arguments: Sequence[object]) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(connections) as pool:
            list(pool.map(work, *arguments))
        return time.perf_counter() - begin

    def bare(asked: Sequence[Asked], repository: str | None = None) -> float:
        targets = [repository or fresh() for _ in workers]
        return at_once(lambda target: replay(server.host, asked, target), targets)

    def durable(asked: Sequence[Asked]) -> float:
        def one(home: Path) -> None:
            replay(server.host, asked, recorded, messages=count, folder=home / uuid.uuid4().hex)

        return at_once(one, [worker.folder for worker in workers])

    kinds = ("send", "recv", "bare send", "bare recv", "durable recv")
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds):
        repositories = [fresh() for _ in workers]
        times["send"].append(at_once(Worker.send, workers, repositories))
        times["bare send"].append(bare(sends))
        times["recv"].append(at_once(Worker.receive, workers, repositories))
        times["bare recv"].append(bare(receives, recorded))
        times["durable recv"].append(durable(receives))
        last = ", ".join(f"{key} {value[-1]:.2f} s" for key, value in times.items())
        print(f"  {manner.name}, {connections} connection(s): {last}", file=sys.stderr)
    each = count * connections
    medians = {key: statistics.median(value) / each for key, value in times.items()}
    return [
        Small(
            manner.name,
            verb,
            connections,
            len(asked) / count,
            medians[verb],
            medians[f"bare {verb}"],
            medians.get(f"durable {verb}"),
        )
        for verb, asked in (("send", sends), ("recv", receives))
    ]


def fresh() -> str:
    """Return the name of a new repository."""
    return f"scale/{uuid.uuid4().hex}"


# --- 2. a large inbox ----------------------------------------------------------------------------


@dataclass
class Planter:
    """Writes manifests and blobs into the file layout of distribution."""

    root: Path
    base: Path = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.root / "docker/registry/v2"

    def _write(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def _content(self, data: bytes) -> Digest:
        digest = digest_of(data)
        name = digest.removeprefix("sha256:")
        self._write(self.base / "blobs/sha256" / name[:2] / name / "data", data)
        return digest

    def _link(self, path: str, digest: Digest) -> None:
        self._write(self.base / "repositories" / REPOSITORY / path / "link", digest.encode())

    def blob(self, data: bytes) -> None:
        """Write a blob."""
        digest = self._content(data)
        self._link(f"_layers/sha256/{digest.removeprefix('sha256:')}", digest)

    def manifest(self, data: bytes, *tags: str) -> Digest:
        """Write a manifest and its tags."""
        digest = self._content(data)
        self._link(f"_manifests/revisions/sha256/{digest.removeprefix('sha256:')}", digest)
        for tag in tags:
            self._link(f"_manifests/tags/{tag}/current", digest)
        return digest


def recipients() -> list[str]:
    """Return the recipients in the order of their tags."""
    return sorted((f"user{number}@example.com" for number in range(RECIPIENTS)), key=recipient_tag)


def plant(root: Path, messages: int, last_day: date) -> None:
    """Build an inbox with messages of many recipients and of the days up to `last_day`."""
    planter = Planter(root)
    chunk = b"one blob that all messages share"
    layer = Descriptor.of(
        chunk, MEDIA_TYPE_CHUNK_ZSTD, annotations={CHUNK_INDEX: "0", CHUNK_SIZE: "1"}
    )
    planter.blob(chunk)
    planter.blob(EMPTY_CONFIG_BYTES)
    days = [last_day - timedelta(days=number) for number in reversed(range(DAYS))]
    names = recipients()
    newest: dict[str, bytes] = {}
    planted: set[str] = set()
    for number in range(messages):
        name = names[number % RECIPIENTS]
        day = days[number * DAYS // messages]
        rt = recipient_tag(name)
        anchor, subject = ManifestBuilder.inbox_anchor(rt, day).build()
        if (tag := anchor_tag(rt, day)) not in planted:
            planted.add(tag)
            planter.manifest(anchor, tag)
        share = number * DAYS % messages / messages
        at = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(
            seconds=int(86_000 * share)
        )
        header = MessageHeader(
            id=str(uuid.UUID(int=number << 80)),
            sender="alice@example.com",
            recipient=name,
            created_at=at,
            ttl_seconds=TTL_SECONDS,
            filename="report.txt",
            total_bytes=1,
            chunk_bytes=1,
            chunk_count=1,
            compression="zstd",
            payload_digest=digest_of(b"x"),
        )
        data, descriptor = ManifestBuilder.message(
            header.to_annotations(), (layer,), subject=subject.bare()
        ).build()
        planter.manifest(data, message_tag(rt, at, descriptor.digest))
        newest[rt] = data
    for rt, data in newest.items():
        planter.manifest(data, bell_tag(rt))


def cached_inbox(messages: int) -> Path:
    """Return the folder of an inbox in the cache; build it if it is missing."""
    cache = Path(os.environ["CACHE"])
    kept = cache / f"scale-{messages}-{CACHE_VERSION}"
    today = datetime.now(UTC).date()
    if kept.exists():
        if (today - date.fromisoformat((kept / "day").read_text())).days <= MAX_CACHE_DAYS:
            return kept / "data"
        shutil.rmtree(kept)
    print(f"== building an inbox of {messages} messages in {kept}", file=sys.stderr)
    half = kept.with_name(f".{kept.name}.{os.getpid()}")
    # Old messages: their days are not among those that a look requests today.
    plant(half / "data", messages, today - timedelta(days=2))
    (half / "day").write_text(today.isoformat())
    half.rename(kept)
    return kept / "data"


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one look: requests and bytes from the access log, and the median time."""

    what: str
    requests: int
    bytes: int
    seconds: float


class Looks:
    """Ends a watch after a number of looks."""

    def __init__(self, count: int) -> None:
        self.left = count

    def is_set(self) -> bool:
        """Return True if no looks are left."""
        return self.left <= 0

    def wait(self, timeout: float) -> bool:  # noqa: ARG002 - nobody waits here
        """Count a look instead of waiting."""
        self.left -= 1
        return self.is_set()


@dataclass
class LargeInbox:
    """Measures the steps of one user on an inbox of a server."""

    server: Server
    folder: Path
    me: str = field(default_factory=lambda: recipients()[RECIPIENTS // 2])
    costs: dict[str, Cost] = field(default_factory=dict)

    def mailbox(self, me: str = "") -> Mailbox:
        """Return a mailbox like that of a new process."""
        return Mailbox(
            f"{self.server.host}/{REPOSITORY}",
            me=me or self.me,
            state_path=self.folder / f"{me or 'me'}.db",
            signing=SigningOptions(sign=False),
            trust=TrustOptions(verify=False),
        )

    def measure(self, what: str, step: Callable[[], object], *, times: int = 1) -> None:
        """Run a step several times; return the requests and bytes of the last time."""
        seconds = []
        for _ in range(times):
            before = len(self.server.access_log())
            begin = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - begin)
            time.sleep(0.05)  # the log is written after the answer
            found = [_LOGGED.search(line) for line in self.server.access_log()[before:]]
        logged = [match for match in found if match]
        sizes = [int(match["size"]) for match in logged if match["method"] != "HEAD"]
        self.costs[what] = Cost(what, len(logged), sum(sizes), statistics.median(seconds))

    def first_poll(self) -> None:
        """Look for the first time."""
        with self.mailbox() as mailbox:
            mailbox.inbox()

    def list(self) -> None:
        """List it again."""
        with self.mailbox() as mailbox:
            mailbox.inbox()

    def deliver_all(self) -> None:
        """Record all messages as delivered in the state."""
        repo = f"{self.server.host}/{REPOSITORY}"
        now = datetime.now(UTC)
        with State(self.folder / "me.db") as state, state.inbox.batch():
            for row in state.inbox.candidates(self.me, repo):
                if row.digest is None:
                    raise SystemExit(f"{row.key}: not read")
                state.inbox.begin_delivery(
                    self.me,
                    row.digest,
                    repo=repo,
                    message_id=row.digest,
                    sender="alice@example.com",
                    path=None,
                    payload_digest=None,
                    expires=None,
                )
                state.inbox.finish_delivery(self.me, row.digest, now)

    def receive(self) -> int:
        """Receive new messages; return their number."""
        with self.mailbox() as mailbox:
            return len(list(mailbox.receive(out=self.folder / "in", receipt=False)))

    def watch(self) -> None:
        """Look once, as a running watch does."""
        with self.mailbox() as mailbox:
            list(mailbox.watch(out=self.folder / "in", interval_seconds=1, stop=Looks(1)))

    def send(self) -> None:
        """Send one new message."""
        with self.mailbox("alice@example.com") as mailbox:
            mailbox.send(text=f"new {uuid.uuid4()}", to=self.me)


def large_inbox(messages: int, folder: Path) -> Mapping[str, Cost]:
    """Measure one inbox with a number of old messages, and restore it."""
    folder.mkdir()
    (folder / "data").symlink_to(cached_inbox(messages))
    with distribution(folder) as server:
        view = LargeInbox(server, folder)
        view.measure("first poll", view.first_poll)
        view.measure("list", view.list, times=ROUNDS)
        view.deliver_all()
        view.receive()
        view.measure("idle recv", view.receive, times=ROUNDS)
        view.measure("idle watch", view.watch, times=ROUNDS)
        with restored(server, view.me):
            view.send()
            view.measure("1 new", view.receive)
        view.costs |= bare_costs(server, view.me)
    return view.costs


def bare_costs(server: Server, me: str) -> Mapping[str, Cost]:
    """Return the registry's time for one answer, measured with http.client."""
    rt, day = recipient_tag(me), datetime.now(UTC).date() - timedelta(days=1)
    seek = f"tags/list?n={PAGE}&last={anchor_tag(rt, day)}"
    costs = {}
    connection = http.client.HTTPConnection(server.host)
    for what, method, path, times in (
        ("bare HEAD of the bell", "HEAD", f"manifests/{bell_tag(rt)}", 200),
        ("bare page of tags", "GET", seek, 20),
    ):
        seconds, size = [], 0
        for _ in range(times):
            begin = time.perf_counter()
            connection.request(method, f"/v2/{REPOSITORY}/{path}")
            size = len(connection.getresponse().read())
            seconds.append(time.perf_counter() - begin)
        costs[what] = Cost(what, 1, size, statistics.median(seconds))
    connection.close()
    return costs


@contextlib.contextmanager
def restored(server: Server, me: str) -> Iterator[None]:
    """Remove objects that are published in the meantime."""
    rt = recipient_tag(me)
    with HTTPRegistry(server.host) as registry:
        before = set(registry.tags(REPOSITORY))
        bell, _ = read_all(registry.get_tag(REPOSITORY, bell_tag(rt)), MAX_MANIFEST_BYTES)
        try:
            yield
        finally:
            for tag in set(registry.tags(REPOSITORY)) - before:
                registry.delete_tag(REPOSITORY, tag)
            registry.push_manifest(REPOSITORY, bell, MEDIA_TYPE_MANIFEST, tags=(bell_tag(rt),))


# --- both ----------------------------------------------------------------------------------------


def machine() -> str:
    """Return a description of this machine."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return f"{os.cpu_count()} x {model}, {platform.system()}, Python {platform.python_version()}"


def main() -> None:
    """Run the requested measurements and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="scale")
    parser.add_argument("--part", choices=("small", "large"), help="only this half of it")
    parser.add_argument("--messages", type=int, default=MESSAGES, help="small ones, of each kind")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
    small: list[Small] = []
    large: dict[int, Mapping[str, Cost]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = folder / "home"
        os.environ.setdefault("CACHE", str(Path.home() / ".cache/dockercomms"))
        os.environ.update(
            HOME=str(home),
            XDG_STATE_HOME=str(home / "state"),
            XDG_DATA_HOME=str(home / "data"),
            XDG_CONFIG_HOME=str(home / "config"),
        )
        if options.part != "large":
            (folder / "small").mkdir()
            with distribution(folder / "small") as server:
                for manner in MANNERS:
                    for connections in (1, CONNECTIONS):
                        small += small_messages(
                            server, folder, manner, connections, options.messages
                        )
        if options.part != "small":
            for messages in (FEW_MESSAGES, OLD_MESSAGES):
                large[messages] = large_inbox(messages, folder / str(messages))
    print(machine())
    for one in small:
        print(one.told())
    for what in large.get(OLD_MESSAGES, ()):
        few, many = (large[messages][what] for messages in (FEW_MESSAGES, OLD_MESSAGES))
        print(
            f"{what:21} requests {few.requests} -> {many.requests}, "
            f"bytes {few.bytes} -> {many.bytes}, "
            f"ms {few.seconds * 1000:.2f} -> {many.seconds * 1000:.2f}"
        )
    if options.json:
        rows = {
            "machine": machine(),
            "small": [asdict(one) for one in small],
            "large": {
                messages: [asdict(cost) for cost in costs.values()]
                for messages, costs in large.items()
            },
        }
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
