from __future__ import annotations

from dataclasses import replace

import pytest

from dockercomms.errors import (
    BlobUnknown,
    Denied,
    DigestMismatch,
    LimitError,
    NetworkError,
    RegistryError,
)
from dockercomms.messages.bundles import SOURCES, BundleFinder, Look, layer_content
from dockercomms.oci.interface import TagPage
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
)
from dockercomms.oci.tag_schema import put_index
from dockercomms.protocol.header import PREDICATE_TYPE_MESSAGE
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import bundle_tag
from dockercomms.trust.bundle import (
    BUNDLE_CONTENT,
    BUNDLE_PREDICATE_TYPE,
    BUNDLE_SIGNER,
    MAX_BUNDLE_BYTES,
)
from dockercomms.trust.checks import MAX_BUNDLES
from tests.fakes.clock import FakeClock
from tests.fakes.watched import WatchedRegistry

REPOSITORY = "team/box"
SUBJECT = Descriptor.of(b"a message", MEDIA_TYPE_MANIFEST)
OTHER = Descriptor.of(b"another message", MEDIA_TYPE_MANIFEST)
LAYER_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


class Shelf:
    """A repository with bundles of one message."""

    def __init__(self, *, referrers: bool = True) -> None:
        self.clock = FakeClock()
        self.registry = WatchedRegistry(MemoryRegistry(clock=self.clock, referrers=referrers))
        self.inner = self.registry.inner
        self.put_blob(EMPTY_CONFIG_BYTES, EMPTY_CONFIG.media_type)
        self.entries: list[Descriptor] = []

    def put_blob(self, data: bytes, media_type: str = LAYER_TYPE) -> Descriptor:
        import io

        layer = Descriptor.of(data, media_type)
        self.inner.push_blob(REPOSITORY, layer, lambda: io.BytesIO(data))
        return layer

    def bundle(
        self,
        content: bytes,
        *,
        subject: Descriptor = SUBJECT,
        inline: bool = True,
        blob: bool = True,
        listed: bool = True,
        tagged: bool = False,
        annotated: bool = True,
        signer: str = "",
    ) -> Descriptor:
        """Attach a bundle; returns its manifest's entry."""
        layer = self.put_blob(content)
        if inline:
            layer = replace(layer, data=content)
        annotations = {BUNDLE_CONTENT: "dsse-envelope"}
        if annotated:
            annotations[BUNDLE_PREDICATE_TYPE] = PREDICATE_TYPE_MESSAGE
        if signer:
            annotations[BUNDLE_SIGNER] = signer
        data, entry = ManifestBuilder.bundle(subject, annotations, layer).build()
        tags = [bundle_tag(SUBJECT.digest, self.clock.now(), layer.digest)] if tagged else []
        self.inner.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST, tags=tags)
        if not blob:
            self.inner._repositories[REPOSITORY].blobs.pop(layer.digest)
        if listed and not self.inner.referrers_supported(REPOSITORY):
            self.entries.append(entry)
            put_index(self.inner, REPOSITORY, SUBJECT.digest, self.entries)
        return entry

    def finder(self, has_referrers: bool | None = None) -> BundleFinder:
        self.registry.calls.clear()
        return BundleFinder(self.registry, REPOSITORY, has_referrers)


def first(finder: BundleFinder, *where, **options) -> Look:
    """Return the first look, an empty one if there is nothing to look at."""
    return next(iter(finder.looks(*where, **options)), Look())


@pytest.fixture(params=[True, False], ids=["api", "index"])
def shelf(request):
    return Shelf(referrers=request.param)


def test_look_finds_what_refers_to_the_message(shelf):
    entry = shelf.bundle(b'{"one":1}')
    shelf.bundle(b"of another", subject=OTHER, listed=False)

    look = first(shelf.finder(), "referrers", SUBJECT.digest)

    assert (look.bundles, look.problems, look.mark) == ((b'{"one":1}',), (), "")
    assert look.tried == {entry.digest}


def test_look_finds_what_is_tagged_for_the_message(shelf):
    shelf.bundle(b"tagged", tagged=True, listed=False)

    assert first(shelf.finder(), "tags", SUBJECT.digest).bundles == (b"tagged",)


def test_look_needs_two_requests_for_a_bundle_that_is_inline():
    shelf = Shelf()
    shelf.bundle(b"inline")

    first(shelf.finder(), "referrers", SUBJECT.digest)

    assert shelf.registry.methods() == ["referrers", "get_manifest"]


def test_look_fetches_the_blob_of_a_bundle_that_is_not_inline():
    shelf = Shelf()
    shelf.bundle(b"apart", inline=False)

    assert first(shelf.finder(), "referrers", SUBJECT.digest).bundles == (b"apart",)
    assert shelf.registry.methods() == ["referrers", "get_manifest", "get_blob"]


def test_look_asks_the_index_alone_where_no_api_is_known():
    shelf = Shelf(referrers=False)
    shelf.bundle(b"listed")

    assert first(shelf.finder(has_referrers=False), "referrers", SUBJECT.digest).bundles
    assert shelf.registry.methods() == ["get_tag", "get_manifest"]


@pytest.mark.parametrize("source", SOURCES)
def test_look_finds_nothing_where_nothing_is(shelf, source):
    look = first(shelf.finder(), source, SUBJECT.digest)

    assert (look.bundles, look.problems, look.tried, look.mark) == ((), (), frozenset(), "")


@pytest.mark.parametrize("source", SOURCES)
def test_look_finds_nothing_in_a_repository_that_is_not_there(source):
    finder = BundleFinder(MemoryRegistry(clock=FakeClock(), referrers=False), "no/such", False)

    assert first(finder, source, SUBJECT.digest).bundles == ()


def test_look_does_not_read_again_what_is_known(shelf):
    entry = shelf.bundle(b"one", tagged=True)

    look = first(shelf.finder(), "tags", SUBJECT.digest, known={entry.digest})

    assert (look.bundles, look.tried) == ((), {entry.digest})
    assert "get_blob" not in shelf.registry.methods()


def test_looks_reads_all_of_a_list_in_parts(shelf):
    contents = {b"%d" % number for number in range(MAX_BUNDLES * 2 + 3)}
    for content in contents:
        shelf.bundle(content)

    looks = list(shelf.finder().looks("referrers", SUBJECT.digest))

    assert [len(look.bundles) for look in looks] == [MAX_BUNDLES, MAX_BUNDLES, 3]
    assert {data for look in looks for data in look.bundles} == contents
    assert [bool(look.mark) for look in looks] == [True, True, False]
    assert sum(name in ("referrers", "resolve_tag") for name in shelf.registry.methods()) <= 1


def test_looks_takes_so_many_and_goes_on_behind(shelf):
    contents = {b"%d" % number for number in range(25)}
    for content in contents:
        shelf.bundle(content)
    finder = shelf.finder()

    found, after = [], ""
    for _ in range(3):
        for look in finder.looks("referrers", SUBJECT.digest, after=after, limit=10):
            found.append(set(look.bundles))
            after = look.mark

    assert [len(part) for part in found] == [10, 10, 5]
    assert set.union(*found) == contents
    assert after == ""


def test_looks_begins_anew_where_nothing_is_behind(shelf):
    shelf.bundle(b"one")

    assert first(shelf.finder(), "referrers", SUBJECT.digest, after="9\n9").bundles == (b"one",)


def test_looks_takes_first_what_names_a_key_that_is_asked_for():
    shelf = Shelf()
    for number in range(40):
        shelf.bundle(b"%d" % number)
        shelf.bundle(b"x%d" % number, signer="of somebody else")
    shelf.bundle(b"the one", signer="alice's", annotated=False)

    look = first(shelf.finder(), "referrers", SUBJECT.digest, signers={"alice's"})

    assert look.bundles[0] == b"the one"


@pytest.mark.parametrize("named", [True, False])
def test_looks_has_a_limit_for_named_ones_and_one_for_others(named):
    """Neither kind hides the other, however many there are."""
    shelf = Shelf()
    for number in range(40):
        shelf.bundle(b"%d" % number, signer="alice's" if named else "")
    shelf.bundle(b"the one", signer="" if named else "alice's")

    found: list[bytes] = []
    for look in shelf.finder().looks("referrers", SUBJECT.digest, signers={"alice's"}, limit=5):
        found += look.bundles
        after = look.mark

    assert b"the one" in found
    assert len(found) == 6
    again = list(
        shelf.finder().looks(
            "referrers", SUBJECT.digest, after=after, signers={"alice's"}, limit=100
        )
    )
    assert not {data for look in again for data in look.bundles} & set(found)


def test_look_takes_first_what_says_that_it_is_a_messages():
    shelf = Shelf()
    for number in range(MAX_BUNDLES * 2):
        shelf.bundle(b"%d" % number, annotated=False)
    shelf.bundle(b"the one")

    assert first(shelf.finder(), "referrers", SUBJECT.digest).bundles[0] == b"the one"


def test_look_tells_what_could_not_be_read(shelf):
    shelf.bundle(b"gone", inline=False, blob=False)
    shelf.bundle(b"x" * (MAX_BUNDLE_BYTES + 1), inline=False)
    shelf.bundle(b"good")

    look = first(shelf.finder(), "referrers", SUBJECT.digest)

    assert look.bundles == (b"good",)
    assert len(look.problems) == 2
    assert any("1048577 bytes; at most 1048576" in problem for problem in look.problems)
    assert len(look.tried) == 3


def test_look_tells_what_an_index_only_claims():
    shelf = Shelf(referrers=False)
    wrong = shelf.bundle(b"of another", subject=OTHER, listed=False)
    missing = shelf.bundle(b"soon gone", listed=False)
    anchor, _ = ManifestBuilder.inbox_anchor("rt", shelf.clock.now().date()).build()
    other = shelf.inner.push_manifest(REPOSITORY, anchor, MEDIA_TYPE_MANIFEST)
    silent = Descriptor(media_type=other.media_type, digest=other.digest, size=other.size)
    receipt = replace(other, artifact_type="application/vnd.dockercomms.receipt.v1")
    put_index(shelf.inner, REPOSITORY, SUBJECT.digest, [wrong, missing, silent])
    shelf.inner._repositories[REPOSITORY].manifests.pop(missing.digest)

    look = first(shelf.finder(), "referrers", SUBJECT.digest)

    assert look.bundles == ()
    assert len(look.problems) == 3
    assert any("its subject is" in problem for problem in look.problems)
    put_index(shelf.inner, REPOSITORY, SUBJECT.digest, [receipt])
    assert first(shelf.finder(), "referrers", SUBJECT.digest).problems == ()


def test_look_refuses_a_huge_manifest():
    shelf = Shelf()
    layer = shelf.put_blob(b"small")
    annotations = {"x": "y" * MAX_BUNDLE_BYTES}
    data, _ = ManifestBuilder.bundle(SUBJECT, annotations, layer).build()
    shelf.inner.push_manifest(REPOSITORY, data, MEDIA_TYPE_MANIFEST)

    (problem,) = first(shelf.finder(), "referrers", SUBJECT.digest).problems

    assert "at most 1048576" in problem


def failing(shelf: Shelf, method: str, error: Exception) -> BundleFinder:
    def before(name, said):
        if name == method:
            raise error

    shelf.registry.before = before
    return shelf.finder()


@pytest.mark.parametrize(
    ("method", "source"),
    [
        ("referrers", "referrers"),
        ("get_manifest", "referrers"),
        ("tag_pages", "tags"),
        ("get_tag", "tags"),
    ],
)
@pytest.mark.parametrize("error", [NetworkError("cut"), RegistryError("busy", status=503)])
def test_look_passes_on_that_the_registry_cannot_tell(method, source, error):
    shelf = Shelf()
    shelf.bundle(b"one", tagged=True)

    with pytest.raises(type(error)):
        first(failing(shelf, method, error), source, SUBJECT.digest)


@pytest.mark.parametrize("error", [Denied("no lists", status=403), RegistryError("no", status=405)])
def test_look_takes_tags_that_may_not_be_listed_for_none(error):
    shelf = Shelf()
    shelf.bundle(b"one", tagged=True)

    assert first(failing(shelf, "tag_pages", error), "tags", SUBJECT.digest).bundles == ()


def test_look_ends_where_tags_have_no_end(monkeypatch):
    class Endless:
        def tag_pages(self, repository, *, start_after=None, page_size=None):
            number = 0
            while True:
                number += 1
                yield TagPage((f"a{number:09}",), has_link=True)

    assert first(BundleFinder(Endless(), "r"), "tags", SUBJECT.digest).bundles == ()


def test_layer_content_proves_what_it_returns():
    shelf = Shelf()
    layer = shelf.put_blob(b"content")

    assert layer_content(shelf.registry, REPOSITORY, layer) == b"content"
    assert layer_content(None, REPOSITORY, replace(layer, data=b"content")) == b"content"
    with pytest.raises(DigestMismatch):
        layer_content(None, REPOSITORY, replace(layer, data=b"c0ntent"))
    with pytest.raises(BlobUnknown):
        layer_content(shelf.registry, REPOSITORY, replace(layer, digest=digest_of(b"gone")))


def test_limit_error_is_no_more_than_a_problem():
    shelf = Shelf()
    shelf.bundle(b"one")

    (problem,) = first(
        failing(shelf, "get_manifest", LimitError("too much")), "referrers", SUBJECT.digest
    ).problems

    assert problem.endswith("too much")
