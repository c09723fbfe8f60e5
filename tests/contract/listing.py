"""The contract of lists: tags page by page, and repositories."""

from __future__ import annotations

import pytest

from dockercomms.errors import NameUnknown, Unsupported
from dockercomms.oci.interface import Registry, TagPage
from tests.contract.capabilities import Capabilities, push_empty_config, push_manifest

TAGS = (
    *(f"inbox-20261120-{number:04d}" for number in range(9)),
    "A",
    "Z9",
    "_under",
    "a",
    "b-2",
    "b.1",
    "b_3",
    "zz",
)


def fill(registry: Registry, repository: str) -> list[str]:
    """Push one manifest under every tag of TAGS; returns them bytewise sorted."""
    push_empty_config(registry, repository)
    push_manifest(registry, repository, "listed", tags=TAGS)
    return sorted(TAGS)


def listed(registry: Registry, repository: str, **options: object) -> list[str]:
    """Return the tags, in the order in which they came."""
    return list(registry.tags(repository, **options))  # type: ignore[arg-type]


class ListingContract:
    """The contract of every store for lists. Its tests loop: filling a repository is slow."""

    def test_tags_are_each_listed_once(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        expected = fill(registry, repository)
        for page_size in (None, 1, 2, len(TAGS), len(TAGS) - 1, 1000):
            found = listed(registry, repository, page_size=page_size)
            if not capabilities.sorted_tags:
                found.sort()
            assert found == expected, page_size

    def test_tag_pages_are_no_larger_than_asked(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        expected = fill(registry, repository)
        for page_size in (1, 2, 1000):
            pages = list(registry.tag_pages(repository, page_size=page_size))
            assert sorted(tag for page in pages for tag in page.tags) == expected
            assert all(isinstance(page, TagPage) for page in pages)
            if capabilities.obeys_page_size:
                assert max(len(page.tags) for page in pages) <= page_size

    @pytest.mark.parametrize("page_size", [None, 1, 2, 1000])
    def test_tags_start_after_one_of_them(
        self,
        registry: Registry,
        repository: str,
        capabilities: Capabilities,
        page_size: int | None,
    ) -> None:
        expected = fill(registry, repository)
        for mark in ("A", "b.1", "inbox-20261120-0003", "zz"):
            found = listed(registry, repository, start_after=mark, page_size=page_size)
            behind = [tag for tag in expected if tag > mark]
            if capabilities.obeys_start_after and not capabilities.wraps_past_end:
                assert found == behind, mark
            else:
                assert set(behind) <= set(found) <= set(expected), mark
                assert len(found) == len(set(found)), mark

    def test_tags_start_after_what_is_no_tag(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        expected = fill(registry, repository)
        for mark in ("0", "inbox-20261120-00035", "zzz"):
            if capabilities.start_after_must_exist:
                with pytest.raises(NameUnknown):
                    listed(registry, repository, start_after=mark)
                continue
            found = listed(registry, repository, start_after=mark)
            behind = [tag for tag in expected if tag > mark]
            if capabilities.obeys_start_after and not capabilities.wraps_past_end:
                assert found == behind, mark
            else:
                assert set(behind) <= set(found), mark

    def test_tags_stop_at_the_limit(self, registry: Registry, repository: str) -> None:
        expected = fill(registry, repository)
        for limit in (0, 1, 3, 1000):
            found = listed(registry, repository, limit=limit, page_size=2)
            assert len(found) == min(limit, len(expected))
            assert set(found) <= set(expected)

    def test_tags_may_be_left_early(self, registry: Registry, repository: str) -> None:
        fill(registry, repository)
        assert next(iter(registry.tags(repository, page_size=1))) in TAGS

    def test_tags_of_a_repository_without_any_are_none(
        self, registry: Registry, repository: str
    ) -> None:
        push_empty_config(registry, repository)
        try:
            assert listed(registry, repository) == []
        except NameUnknown:
            pass  # some stores know a repository only once it holds a manifest

    def test_tags_of_unknown_repository(self, registry: Registry, repository: str) -> None:
        try:
            assert listed(registry, repository) == []
        except NameUnknown:
            pass  # the interface leaves this to the store

    def test_repositories_are_listed(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        push_empty_config(registry, repository)
        push_manifest(registry, repository, "any", tags=("any",))
        if not capabilities.catalogue:
            with pytest.raises(Unsupported):
                list(registry.repositories())
            return
        assert repository in list(registry.repositories())
        if capabilities.catalogue_pages:
            for page_size in (1, 2, 1000):
                assert repository in list(registry.repositories(page_size=page_size))
            assert repository not in list(registry.repositories(start_after=repository))
        assert len(list(registry.repositories(limit=1))) == 1
