"""Benchmark blobs, HEADs and an image against regctl, crane, curl and http.client."""

from __future__ import annotations

import http.client
import io
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from measuring import Bench, Command, Result, curl_upload, fresh, ours, random_payload, run

from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
)
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.strict_json import canonical_json
from tests.real.launch import binary

THREADS = 8
HEADS = 1000
IMAGE_LAYERS = 100
LAYER_BYTES = 256 * 1024


def blob_push(bench: Bench) -> Result:
    """Push one blob into an empty repository."""
    path, digest = random_payload(bench.folder, bench.size)
    host, regctl = bench.server.host, str(binary("regctl"))
    run(regctl, "registry", "set", "--tls", "disabled", host)

    def put() -> object:
        words = ("blob", "put", "--digest", digest, f"{host}/regctl/{fresh()}")
        return run(regctl, *words, stdin=path)

    return bench.compare(
        "blob push",
        {
            "dockercomms": lambda: ours("reg", "put-blob", f"{host}/ours/{fresh()}", str(path)),
            "regctl": put,
            "curl": lambda: curl_upload(host, path, digest),
        },
        bar=1.15,
    )


def blob_pull(bench: Bench) -> Result:
    """Pull one blob into a file; crane and regctl check the digest, curl does not."""
    path, digest = random_payload(bench.folder, bench.size)
    host, repository = bench.server.host, f"pull/{fresh()}"
    curl_upload(host, path, digest, repository)
    target = bench.folder / "pulled.bin"
    reference = f"{host}/{repository}@{digest}"
    url = f"http://{host}/v2/{repository}/blobs/{digest}"
    run(str(binary("regctl")), "registry", "set", "--tls", "disabled", host)

    def pulled(command: Command) -> Command:
        def take() -> object:
            target.unlink(missing_ok=True)
            return command()

        return take

    regctl = (str(binary("regctl")), "blob", "get", f"{host}/{repository}", digest)
    crane = (str(binary("crane")), "blob", "--insecure", reference)
    return bench.compare(
        "blob pull",
        {
            "dockercomms": pulled(lambda: ours("reg", "blob", reference, "-o", str(target))),
            "regctl": pulled(lambda: run(*regctl, stdout=target)),
            "crane": pulled(lambda: run(*crane, stdout=target)),
            "curl": pulled(lambda: run("curl", "-sSf", "-o", str(target), url)),
        },
        bar=1.15,
    )


def image_copy(bench: Bench) -> Result:
    """Copy an image of 100 layers to another registry, each time into an empty repository."""
    repository = f"image/{fresh()}"
    with HTTPRegistry(bench.server.host) as registry:
        _push_image(registry, repository)
    image = f"{bench.server.host}/{repository}:v1"
    crane, to = str(binary("crane")), bench.other.host
    return bench.compare(
        "image copy, 100 layers",
        {
            "dockercomms": lambda: ours("reg", "copy", image, f"{to}/a/{fresh()}:v1"),
            "crane": lambda: run(crane, "copy", "--insecure", image, f"{to}/b/{fresh()}:v1"),
        },
        bar=1.2,
    )


def _push_image(registry: HTTPRegistry, repository: str) -> None:
    source = random.Random(11)  # noqa: S311 - only has to be incompressible
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


def _opener(data: bytes) -> Callable[[], BinaryIO]:
    return lambda: io.BytesIO(data)


def heads(bench: Bench) -> Result:
    """Send 1,000 HEADs of one blob on 8 threads, with the session and with bare http.client."""
    repository, host = f"heads/{fresh()}", bench.server.host
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
            {"dockercomms": on_threads(session), "http.client": on_threads(bare)},
            bar=round(1 / 0.7, 2),
        )
