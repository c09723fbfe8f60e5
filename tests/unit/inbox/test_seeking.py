from __future__ import annotations

import pytest

from dockercomms.errors import (
    LimitError,
    ManifestUnknown,
    NetworkError,
    NotFoundError,
    RegistryError,
)
from dockercomms.inbox.discover import seek_tags
from dockercomms.oci.interface import TagPage


class Pages:
    """A tag list that answers what each mark says, and notes the marks."""

    def __init__(self, answers):
        self.answers = answers
        self.asked = []

    def tag_pages(self, repository, *, start_after=None, page_size=None):
        self.asked.append(start_after)
        answer = self.answers.get(start_after, self.answers.get(None))
        if isinstance(answer, Exception):
            raise answer
        for tags in answer:
            yield TagPage(tuple(tags), has_link=tags is not answer[-1])


def test_seek_tags_stops_behind_the_prefix():
    pages = Pages({"b": [["b-1", "b-2", "c"], ["d"]]})

    found = seek_tags(pages, "r", "b-", start_after=["b"])

    assert list(found) == ["b-1", "b-2"]


def test_seek_tags_tries_mark_after_mark():
    pages = Pages(
        {"m1": ManifestUnknown("no tag"), "m2": ManifestUnknown("no tag"), None: [["b-1"]]}
    )

    assert list(seek_tags(pages, "r", "b-", start_after=["m1", "m2"])) == ["b-1"]
    assert pages.asked == ["m1", "m2", None]


def test_seek_tags_reads_all_where_marks_mean_nothing():
    pages = Pages({"m1": RegistryError("bad last", status=400), None: [["b-1"]]})

    assert list(seek_tags(pages, "r", "b-", start_after=["m1", "m2"])) == ["b-1"]
    assert pages.asked == ["m1", None]


def test_seek_tags_reads_unsorted_lists_to_their_end():
    whole = [["z", "b-2"], ["a", "b-1"]]
    pages = Pages({"b": [["z", "b-2"]], None: whole})

    assert set(seek_tags(pages, "r", "b-", start_after=["b"])) == {"b-1", "b-2"}


def test_seek_tags_stops_where_a_server_does_not_page():
    pages = Pages({None: [[f"b-{n:04d}" for n in range(1001)]]})

    assert len(list(seek_tags(pages, "r", "b-"))) == 1001


def test_seek_tags_passes_on_other_errors():
    for error in (RegistryError("down", status=500), NetworkError("cut")):
        with pytest.raises(type(error)):
            list(seek_tags(Pages({"b": error}), "r", "b-", start_after=["b"]))
    with pytest.raises(NotFoundError):
        list(seek_tags(Pages({None: NotFoundError("no such repository")}), "r", "b-"))


def test_seek_tags_does_not_go_on_for_ever():
    class Endless:
        def tag_pages(self, repository, *, start_after=None, page_size=None):
            while True:
                yield TagPage((), has_link=True)

    with pytest.raises(LimitError, match="1000 pages"):
        list(seek_tags(Endless(), "r", "b-"))
