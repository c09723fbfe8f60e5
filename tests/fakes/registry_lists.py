"""Tag lists, the catalogue and referrers, as a fake registry gives them."""

from __future__ import annotations

import threading
from hashlib import sha256 as hash_sha256
from typing import Any
from urllib.parse import quote

from dockercomms.platforms.clock import Clock
from tests.fakes.registry_answers import RefusedError, error, json_answer
from tests.fakes.registry_quirks import Quirks
from tests.fakes.registry_state import Repository, Store, StoredManifest
from tests.fakes.registry_wire import Answer, DropConnectionError, Request

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"


class ListApi:
    """GET of lists with pages."""

    def __init__(self, store: Store, clock: Clock, lock: threading.RLock) -> None:
        self._store = store
        self._clock = clock
        self._lock = lock

    def tags(self, request: Request, quirks: Quirks, origin: str, name: str) -> Answer:
        """Answer with a page of the tag list."""
        if request.method != "GET":
            return error(405, "UNSUPPORTED")
        if quirks.tags_status != 200:
            code = {401: "UNAUTHORIZED", 403: "DENIED"}.get(quirks.tags_status, "UNSUPPORTED")
            return error(quirks.tags_status, code)
        with self._lock:
            repository = self._store.repositories.get(name)
            answers = {quirks.unknown_repository_tags}
            if request.first("last"):
                answers.add(quirks.unknown_repository_tags_last)
            if repository is None and answers == {404}:
                return error(404, "NAME_UNKNOWN")
            tags = [] if repository is None else [*repository.tags, *repository.ghost_tags()]
        if quirks.tags_sorted:
            tags.sort()
        else:
            # Any order but the sorted one, and the same each time.
            tags.sort(key=lambda tag: hash_sha256(tag.encode()).digest())
        return self._page(request, quirks, origin, name, tags)

    def _page(
        self, request: Request, quirks: Quirks, origin: str, name: str, tags: list[str]
    ) -> Answer:
        size = _page_size(request, quirks)
        listed = _listed(request, quirks, tags)
        page = listed if listed is None or size is None else listed[:size]
        more = page is not None and listed is not None and len(page) < len(listed)
        after_the_end = quirks.tags_link == "always" and size is not None
        headers = {}
        if page and quirks.tags_link != "never" and (more or after_the_end):
            following: dict[str, object] = {"last": page[-1]}
            if quirks.tags_link == "loop":
                following = {"last": request.first("last") or "-"}
            elif not quirks.tags_by_last:
                following = {"next": _start(request) + len(page)}
            headers["Link"] = self._link(
                quirks, origin, f"/v2/{name}/tags/list", **following, n=size
            )
        return json_answer({"name": name, "tags": page}, **headers)

    def _link(self, quirks: Quirks, origin: str, path: str, **query: object) -> str:
        text = "&".join(
            f"{key}={quote(str(value), safe='')}"
            for key, value in query.items()
            if value is not None
        )
        base = origin if quirks.tags_link_absolute else ""
        return f'<{base}{path}?{text}>; rel="next"'

    def catalog(self, request: Request, quirks: Quirks, origin: str) -> Answer:
        """Answer with the names of the repositories."""
        if not quirks.catalog:
            return error(404, "UNSUPPORTED")
        with self._lock:
            names = sorted(self._store.repositories)
        last = request.first("last")
        names = [name for name in names if not last or name > last]
        size = int(request.first("n") or len(names))
        headers = {}
        if size and size < len(names):
            headers["Link"] = self._link(
                quirks, origin, "/v2/_catalog", last=names[size - 1], n=size
            )
        return json_answer({"repositories": names[:size]}, **headers)

    def referrers(
        self, request: Request, quirks: Quirks, origin: str, name: str, digest: str
    ) -> Answer:
        """Answer with a page of the referrers of `digest`."""
        with self._lock:
            repository = self._store.repositories.get(name)
            if repository is None and quirks.referrers_unknown_repository == 404:
                return error(404, "NAME_UNKNOWN")
            entries = self._entries(quirks, repository or Repository(), digest)
        wanted = request.first("artifactType")
        headers = {}
        if wanted and quirks.referrers_filter:
            entries = [entry for entry in entries if entry.get("artifactType") == wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        start = int(request.first("start") or 0)
        if quirks.referrers_page is not None and start + quirks.referrers_page < len(entries):
            following = start + quirks.referrers_page
            headers["Link"] = self._link(
                quirks, origin, request.path, artifactType=wanted or None, start=following
            )
            entries = entries[start:following]
        else:
            entries = entries[start:]
        index = {
            "schemaVersion": 2,
            "mediaType": _INDEX_TYPE,
            "manifests": None if quirks.referrers_empty_null and not entries else entries,
        }
        answer = json_answer(index, **headers)
        answer.headers["Content-Type"] = _INDEX_TYPE
        return answer

    def _entries(self, quirks: Quirks, repository: Repository, digest: str) -> list[dict[str, Any]]:
        now = self._clock.monotonic()
        return [
            _entry(quirks, own, manifest)
            for own, manifest in repository.referrers(digest)
            if manifest.listed_at is not None and manifest.listed_at <= now
        ]


def _entry(quirks: Quirks, digest: str, manifest: StoredManifest) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "mediaType": manifest.media_type,
        "digest": digest,
        "size": len(manifest.data),
    }
    config = manifest.parsed.get("config")
    config_type = config.get("mediaType") if isinstance(config, dict) else None
    artifact_type = manifest.parsed.get("artifactType") or config_type
    if quirks.referrers_artifact_type == "config":
        artifact_type = config_type
    if artifact_type:
        entry["artifactType"] = artifact_type
    if quirks.referrers_annotations and manifest.parsed.get("annotations"):
        entry["annotations"] = manifest.parsed["annotations"]
    return entry


def _page_size(request: Request, quirks: Quirks) -> int | None:
    """Return the number of tags in a page, or `None` for all tags. Refuses invalid sizes."""
    text = request.first("n") if quirks.tags_n == "obeyed" else ""
    if text and not text.isdecimal():
        raise RefusedError(error(400, "PAGINATION_NUMBER_INVALID"))
    size = int(text) if text else quirks.tags_default_page
    if size == 0 and quirks.tags_n_zero == "drop":
        raise DropConnectionError
    if size == 0 and quirks.tags_n_zero == "default":
        size = quirks.tags_default_page
    if text and quirks.tags_n_max is not None and int(text) > quirks.tags_n_max:
        raise RefusedError(error(quirks.tags_n_max_status, "UNSUPPORTED", "n is too large"))
    if quirks.tags_page_max is not None:
        size = quirks.tags_page_max if size is None else min(size, quirks.tags_page_max)
    return size


def _listed(request: Request, quirks: Quirks, tags: list[str]) -> list[str] | None:
    """Return the tags from the requested position on, or `None` for a JSON null."""
    last = request.first("last")
    if last and quirks.tags_last == "must-exist" and last not in tags:
        raise RefusedError(error(404, "NAME_UNKNOWN", "no such tag"))
    if last and quirks.tags_last == "opaque-405":
        raise RefusedError(error(405, "UNSUPPORTED", "invalid next token provided"))
    if not quirks.tags_by_last:
        return tags[_start(request) :]
    listed = [tag for tag in tags if tag > last]
    if listed or not tags:
        return listed
    return {"empty": [], "null": None, "whole": tags}[quirks.tags_past_end]


def _start(request: Request) -> int:
    """Return the position in a Link of a registry that does not go by `last`."""
    return int(request.first("next") or 0)
