"""Time dockercomms against its peers on real registries; run by scripts/bench.

Each benchmark takes its commands in turn (A B C A B C ...), so that whatever else the machine does
falls on all of them, and compares medians. The first command of a benchmark is ours; the bar is a
ratio to the fastest of the others.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dockercomms.oci.client import HTTPRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    canonical_json,
)
from tests.real.launch import Server, binary, distribution

MIB = 2**20
THREADS = 8
HEADS = 1000
IMAGE_LAYERS = 100
LAYER_BYTES = 256 * 1024

Command = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Result:
    """The medians of one benchmark, in seconds, and our ratio to the fastest peer."""

    name: str
    seconds: Mapping[str, float]
    bar: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Bench:
    """What every benchmark needs."""

    server: Server
    other: Server
    folder: Path
    size: int
    rounds: int

    def compare(self, name: str, bar: str, commands: Mapping[str, Command]) -> Result:
        """Run the commands in turn; the first one is ours."""
        taken: dict[str, list[float]] = {label: [] for label in commands}
        for number in range(self.rounds):
            for label, command in commands.items():
                begin = time.perf_counter()
                command()
                taken[label].append(time.perf_counter() - begin)
                print(f"  {name} {number + 1}: {label} {taken[label][-1]:.3f} s", file=sys.stderr)
        medians = {label: statistics.median(times) for label, times in taken.items()}
        ours, *peers = medians.values()
        return Result(name, medians, bar, ours / min(peers))


def run(*command: str, stdin: Path | None = None, stdout: Path | None = None) -> str:
    """Run a command that must succeed."""
    with (stdin or Path(os.devnull)).open("rb") as source:
        target = stdout.open("wb") if stdout else subprocess.PIPE
        try:
            done = subprocess.run(
                command, stdin=source, stdout=target, stderr=subprocess.PIPE, check=False
            )
        finally:
            if stdout is not None:
                target.close()  # type: ignore[union-attr]
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.returncode}\n{done.stderr.decode()}")
    return (done.stdout or b"").decode()


def ours(*arguments: str, stdout: Path | None = None) -> str:
    """Run the program."""
    return run(sys.executable, "-m", "dockercomms", *arguments, "-q", stdout=stdout)


def curl_upload(host: str, path: Path, digest: str) -> None:
    """POST and PUT with the digest known: the least that an upload can be."""
    repository = f"curl/{time.time_ns()}"
    connection = http.client.HTTPConnection(host)
    connection.request("POST", f"/v2/{repository}/blobs/uploads/")
    answer = connection.getresponse()
    answer.read()
    location = answer.headers["Location"]
    connection.close()
    url = location if location.startswith("http") else f"http://{host}{location}"
    mark = "&" if "?" in url else "?"
    octets = "Content-Type: application/octet-stream"
    run("curl", "-sSf", "-X", "PUT", "-H", octets, "-T", str(path), f"{url}{mark}digest={digest}")


def payload(bench: Bench) -> tuple[Path, str]:
    """Return a file of incompressible bytes and its digest."""
    path = bench.folder / "payload.bin"
    source = random.Random(7)  # noqa: S311 - only has to be incompressible
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(bench.size // MIB):
            piece = source.randbytes(MIB)
            hasher.update(piece)
            file.write(piece)
    return path, "sha256:" + hasher.hexdigest()


def blob_push(bench: Bench) -> Result:
    """One blob into an empty repository."""
    path, digest = payload(bench)
    host = bench.server.host

    def regctl() -> None:
        run(
            str(binary("regctl")),
            "blob",
            "put",
            "--digest",
            digest,
            f"{host}/regctl/{fresh()}",
            stdin=path,
        )

    run(str(binary("regctl")), "registry", "set", "--tls", "disabled", host)
    return bench.compare(
        "blob push",
        "<= 1.15",
        {
            "dockercomms": lambda: ours("reg", "put-blob", f"{host}/ours/{fresh()}", str(path)),
            "regctl": regctl,
            "curl": lambda: curl_upload(host, path, digest),
        },
    )


def blob_pull(bench: Bench) -> Result:
    """One blob into a file; crane and regctl check the digest, curl does not."""
    path, digest = payload(bench)
    host, repository = bench.server.host, f"pull/{fresh()}"
    ours("reg", "put-blob", f"{host}/{repository}", str(path))
    target = bench.folder / "pulled.bin"
    reference = f"{host}/{repository}@{digest}"
    url = f"http://{host}/v2/{repository}/blobs/{digest}"
    run(str(binary("regctl")), "registry", "set", "--tls", "disabled", host)

    def pulled(command: Command) -> Command:
        def take() -> None:
            target.unlink(missing_ok=True)
            command()

        return take

    regctl = (str(binary("regctl")), "blob", "get", f"{host}/{repository}", digest)
    crane = (str(binary("crane")), "blob", "--insecure", reference)
    return bench.compare(
        "blob pull",
        "<= 1.15",
        {
            "dockercomms": pulled(lambda: ours("reg", "blob", reference, "-o", str(target))),
            "regctl": pulled(lambda: run(*regctl, stdout=target)),
            "crane": pulled(lambda: run(*crane, stdout=target)),
            "curl": pulled(lambda: run("curl", "-sSf", "-o", str(target), url)),
        },
    )


def image_copy(bench: Bench) -> Result:
    """An image of 100 layers from one registry to another, each time into an empty repository."""
    source = random.Random(11)  # noqa: S311 - only has to be incompressible
    repository = f"image/{fresh()}"
    with HTTPRegistry(bench.server.host) as registry:
        layers = []
        for _ in range(IMAGE_LAYERS):
            data = source.randbytes(LAYER_BYTES)
            layer = Descriptor.of(data, MEDIA_TYPE_IMAGE_LAYER_GZIP)
            registry.push_blob(repository, layer, _opener(data))
            layers.append(layer)
        registry.push_blob(repository, EMPTY_CONFIG, _opener(EMPTY_CONFIG_BYTES))
        manifest = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_TYPE_MANIFEST,
                "config": EMPTY_CONFIG.to_json(),
                "layers": [layer.to_json() for layer in layers],
            }
        )
        registry.push_manifest(repository, manifest, MEDIA_TYPE_MANIFEST, tags=("v1",))
    image = f"{bench.server.host}/{repository}:v1"
    crane = str(binary("crane"))
    return bench.compare(
        "image copy, 100 layers",
        "<= 1.2",
        {
            "dockercomms": lambda: ours("reg", "copy", image, f"{bench.other.host}/a/{fresh()}:v1"),
            "crane": lambda: run(
                crane, "copy", "--insecure", image, f"{bench.other.host}/b/{fresh()}:v1"
            ),
        },
    )


def heads(bench: Bench) -> Result:
    """1,000 HEADs of one blob on 8 threads, through the session and by bare http.client."""
    repository = f"heads/{fresh()}"
    host = bench.server.host
    with HTTPRegistry(host) as registry:
        registry.push_blob(repository, EMPTY_CONFIG, _opener(EMPTY_CONFIG_BYTES))
        path = f"/v2/{repository}/blobs/{EMPTY_CONFIG.digest}"

        def bare(_: int) -> None:
            connection = http.client.HTTPConnection(host)
            for _ in range(HEADS // THREADS):
                connection.request("HEAD", path)
                connection.getresponse().read()
            connection.close()

        def session(_: int) -> None:
            for _ in range(HEADS // THREADS):
                registry.resolve_blob(repository, EMPTY_CONFIG.digest)

        def on_threads(work: Callable[[int], None]) -> Command:
            def all_of_them() -> None:
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(work, range(THREADS)))

            return all_of_them

        return bench.compare(
            "1,000 HEADs on 8 threads",
            "<= 1.43 (0.7 of the throughput)",
            {"dockercomms": on_threads(session), "http.client": on_threads(bare)},
        )


def send(bench: Bench) -> Result:
    """A file to somebody, against its raw upload."""
    path, digest = payload(bench)
    host = bench.server.host
    return bench.compare(
        "send",
        "<= 1.05",
        {
            "dockercomms": lambda: ours(
                "send", str(path), "--to", "bob", "--repo", f"{host}/mail/{fresh()}"
            ),
            "curl": lambda: curl_upload(host, path, digest),
        },
    )


def receive(bench: Bench) -> Result:
    """A file from somebody, against a download that is hashed on the way."""
    path, digest = payload(bench)
    host = bench.server.host
    repository = f"{host}/mail/{fresh()}"
    ours("send", str(path), "--to", "bob", "--repo", repository)
    ours("reg", "put-blob", f"{host}/raw/blob", str(path))
    target = bench.folder / "received"

    def recv() -> None:
        shutil.rmtree(target, ignore_errors=True)
        ours(
            "recv",
            "--me",
            "bob",
            "--repo",
            repository,
            "--out",
            str(target),
            "--all",
            "--no-receipt",
        )

    def piped() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        url = f"http://{host}/v2/raw/blob/blobs/{digest}"
        run("sh", "-c", f"curl -sSf {url} | tee {target}/file | openssl dgst -sha256")

    return bench.compare("receive", "<= 0.70", {"dockercomms": recv, "curl | openssl": piped})


def fresh() -> str:
    """Return a name that was not used before."""
    return f"n{time.time_ns()}"


def _opener(data: bytes) -> Callable[[], object]:
    import io  # noqa: PLC0415 - beside its one use

    return lambda: io.BytesIO(data)


BENCHMARKS: Mapping[str, Callable[[Bench], Result]] = {
    "push": blob_push,
    "pull": blob_pull,
    "copy": image_copy,
    "heads": heads,
    "send": send,
    "receive": receive,
}


def main() -> None:
    """Run the benchmarks that are asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run this one alone")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024, help="size of the payload in MiB")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    options = parser.parse_args()
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
            results = [BENCHMARKS[key](bench) for key in options.only or BENCHMARKS]
    for result in results:
        times = ", ".join(f"{label} {value:.2f} s" for label, value in result.seconds.items())
        print(f"{result.name:28} {result.ratio:5.2f}x  (bar {result.bar})  {times}")
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")


if __name__ == "__main__":
    main()
