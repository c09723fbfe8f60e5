"""The contract of many at once: nothing that was pushed is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from dockercomms.oci.interface import Registry
from dockercomms.oci.model import Descriptor
from tests.contract.capabilities import content, push, push_empty_config, push_manifest

THREADS = 16
TAGS_PER_THREAD = 3


class ConcurrencyContract:
    """The contract of every store for use by many threads."""

    def test_push_manifest_loses_no_tag_of_many_threads(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)

        def send(sender: int) -> list[tuple[str, Descriptor]]:
            names = [f"tag-{sender:02d}-{number}" for number in range(TAGS_PER_THREAD)]
            return [
                (name, push_manifest(registry, repository, name, tags=(name,))) for name in names
            ]

        with ThreadPoolExecutor(THREADS) as pool:
            sent = dict(pair for pairs in pool.map(send, range(THREADS)) for pair in pairs)
        assert sorted(registry.tags(repository)) == sorted(sent)
        for tag, descriptor in sent.items():
            assert registry.resolve_tag(repository, tag) == descriptor.bare()

    def test_push_blob_of_the_same_content_by_many_threads(
        self, registry: Registry, repository: str
    ) -> None:
        data = content(100_000)
        with ThreadPoolExecutor(THREADS) as pool:
            pushed = set(pool.map(lambda _: push(registry, repository, data).digest, range(8)))
        assert len(pushed) == 1
        with registry.get_blob(repository, pushed.pop(), size=len(data)) as reader:
            assert reader.read() == data

    def test_push_manifest_to_one_tag_by_many_threads_ends_at_one_of_them(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)

        def ring(sender: int) -> Descriptor:
            return push_manifest(registry, repository, f"bell {sender}", tags=("bell",))

        with ThreadPoolExecutor(THREADS) as pool:
            rung = {descriptor.digest for descriptor in pool.map(ring, range(THREADS))}
        assert registry.resolve_tag(repository, "bell").digest in rung
        assert list(registry.tags(repository)) == ["bell"]
