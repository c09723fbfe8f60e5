"""The distribution API as a fake registry speaks it: a request in, an answer out."""

from __future__ import annotations

import gzip
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dockercomms.platforms.clock import Clock
from tests.fakes.registry_answers import RefusedError, blob_answer, error, json_answer, not_found
from tests.fakes.registry_lists import ListApi
from tests.fakes.registry_quirks import Quirks
from tests.fakes.registry_state import Repository, Store, StoredManifest, sha256
from tests.fakes.registry_uploads import UploadApi
from tests.fakes.registry_wire import Answer, Request

_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_LIST_TYPE = "application/vnd.docker.distribution.manifest.list.v2+json"
_NAME = r"(?P<name>[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*)"
_UPLOAD = re.compile(rf"/v2/{_NAME}/blobs/uploads/(?P<session>[^/]*)")
_BLOB = re.compile(rf"/v2/{_NAME}/blobs/(?P<digest>[^/]+)")
_MANIFEST = re.compile(rf"/v2/{_NAME}/manifests/(?P<reference>[^/]+)")
_TAGS = re.compile(rf"/v2/{_NAME}/tags/list")
_REFERRERS = re.compile(rf"/v2/{_NAME}/referrers/(?P<digest>[^/]+)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_DASH_DIGEST = re.compile(r"sha256-[0-9a-f]{64}")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


Refuse = Callable[[str, str, tuple[str, ...]], Answer | None]
"""Takes the Authorization header, a repository ("": none) and what is to be done there; returns
the answer that refuses it, None to let it in."""


class RegistryApi:
    """The endpoints over a `Store`. All state is touched under one lock, bodies are read outside."""

    def __init__(self, store: Store, clock: Clock, refuse: Refuse, storage_url: str) -> None:
        self.store = store
        self.clock = clock
        self.lock = threading.RLock()
        self._refuse = refuse
        self._storage_url = storage_url
        self._asked = 0
        self._lists = ListApi(store, clock, self.lock)
        self._uploads = UploadApi(store, clock, self.lock)

    def handle(self, request: Request, quirks: Quirks, origin: str) -> Answer:
        """Answer `request`; `origin` is the start of absolute URLs."""
        try:
            answer = self._dispatch(request, quirks, origin)
        except RefusedError as refused:
            answer = refused.answer
        if quirks.errors_as_text and answer.status >= 400 and "Content-Type" in answer.headers:
            answer.headers["Content-Type"] = "text/plain; charset=utf-8"
        if quirks.pack_json and answer.body and "json" in answer.headers.get("Content-Type", ""):
            answer.headers["Content-Encoding"] = "gzip"
            answer.body = gzip.compress(answer.body)
        return answer

    def _dispatch(self, request: Request, quirks: Quirks, origin: str) -> Answer:
        if quirks.read_only and request.method not in {"GET", "HEAD"}:
            return error(405, "UNSUPPORTED", "only GET and HEAD are allowed")
        self._asked += 1
        if quirks.busy_every and self._asked % quirks.busy_every == 0:
            said = quirks.busy_seconds
            later = {} if said is None else {"Retry-After": str(said)}
            return error(429, "TOOMANYREQUESTS", **later)
        if quirks.unreferenced_blobs_live_seconds is not None:
            with self.lock:
                now = self.clock.monotonic()
                self.store.collect_blobs(now - quirks.unreferenced_blobs_live_seconds)
        path = request.path
        if quirks.redirect_relative and path.startswith("/storage/"):
            return self._blob(
                request,
                replace(quirks, redirect_blobs=False),
                path.removeprefix("/storage/"),
                request.first("blob"),
            )
        if path == "/login":
            return Answer(200, {"Content-Type": "text/html"}, b"<html>log in</html>")
        if quirks.redirect_lists and re.fullmatch(r"/v2/.+/(manifests|tags|referrers)/.+", path):
            return Answer(307, {"Location": f"{self._storage_url}{request.target}"})
        if path in {"/v2/", "/v2"}:
            return self._enter(request, "", ()) or json_answer({})
        if path == "/v2/_catalog":
            return self._enter(request, "", ("*",)) or self._lists.catalog(request, quirks, origin)
        if match := _REFERRERS.fullmatch(path):
            return self._referrers(request, quirks, origin, match["name"], match["digest"])
        if match := _UPLOAD.fullmatch(path):
            return self._enter_upload(request, match["name"]) or self._uploads.handle(
                request, quirks, origin, match["name"], match["session"]
            )
        if match := _TAGS.fullmatch(path):
            return self._enter(request, match["name"], ("pull",)) or self._lists.tags(
                request, quirks, origin, match["name"]
            )
        if match := _BLOB.fullmatch(path):
            return self._enter(request, match["name"], _actions(request.method)) or self._blob(
                request, quirks, match["name"], match["digest"]
            )
        if match := _MANIFEST.fullmatch(path):
            return self._enter(request, match["name"], _actions(request.method)) or self._manifest(
                request, quirks, match["name"], match["reference"]
            )
        return not_found()

    def _enter(self, request: Request, name: str, actions: tuple[str, ...]) -> Answer | None:
        return self._refuse(request.headers.get("authorization", ""), name, actions)

    def _enter_upload(self, request: Request, name: str) -> Answer | None:
        refused = self._enter(request, name, ("pull", "push"))
        source = request.first("from")
        if refused is None and request.method == "POST" and source:
            refused = self._enter(request, source, ("pull",))
        return refused

    def _referrers(
        self, request: Request, quirks: Quirks, origin: str, name: str, digest: str
    ) -> Answer:
        if not quirks.referrers and quirks.referrers_unsupported == "text-404":
            # Distribution's router does not know the path, so it never asks for credentials.
            return not_found()
        if not quirks.referrers and quirks.referrers_unsupported == "html-303":
            return Answer(303, {"Location": f"{origin}/login"})
        refused = self._enter(request, name, ("pull",))
        if refused is not None:
            return refused
        if not quirks.referrers:
            status = int(quirks.referrers_unsupported.removeprefix("json-"))
            return error(status, "METHOD_UNKNOWN" if status == 404 else "UNSUPPORTED")
        if not _DIGEST.fullmatch(digest):
            return error(400, "DIGEST_INVALID")
        return self._lists.referrers(request, quirks, origin, name, digest)

    # Blobs.

    def find_blob(self, quirks: Quirks, name: str, digest: str) -> bytes | None:
        """Return a blob's bytes."""
        repository = self.store.repositories.get(name)
        if repository is not None and digest in repository.blobs:
            return repository.blobs[digest].data
        if quirks.global_blobs:
            for other in self.store.repositories.values():
                if digest in other.blobs:
                    return other.blobs[digest].data
        return None

    def _blob(self, request: Request, quirks: Quirks, name: str, digest: str) -> Answer:
        if not _DIGEST.fullmatch(digest):
            return error(400, "DIGEST_INVALID")
        with self.lock:
            data = self.find_blob(quirks, name, digest)
            known = name in self.store.repositories
            if request.method == "DELETE":
                return self._delete_blob(quirks, name, digest)
        if request.method not in {"GET", "HEAD"}:
            return error(405, "UNSUPPORTED")
        if data is None:
            return error(404, "BLOB_UNKNOWN" if known else quirks.unknown_repository_blob_code)
        if quirks.redirect_blobs and request.method == "GET":
            host = "" if quirks.redirect_relative else self._storage_url
            location = f"{host}/storage/{name}?blob={digest}&signature=secret"
            return Answer(307, {"Location": location})
        return blob_answer(request, quirks, digest, data)

    def _delete_blob(self, quirks: Quirks, name: str, digest: str) -> Answer:
        if quirks.blob_delete != 202:
            return error(quirks.blob_delete, "UNSUPPORTED")
        repository = self.store.repositories.get(name)
        if repository is None or repository.blobs.pop(digest, None) is None:
            return error(404, "BLOB_UNKNOWN")
        return Answer(202)

    # Manifests.

    def _manifest(self, request: Request, quirks: Quirks, name: str, reference: str) -> Answer:
        if quirks.dash_digests and _DASH_DIGEST.fullmatch(reference):
            reference = reference.replace("-", ":", 1)
        if request.method == "PUT":
            return self._put_manifest(request, quirks, name, reference)
        with self.lock:
            repository = self.store.repositories.get(name)
            if repository is None:
                return error(404, quirks.unknown_repository_code)
            if request.method == "DELETE":
                return self._delete_manifest(quirks, repository, reference)
            digest = repository.tags.get(reference, reference)
            stored = repository.manifests.get(digest)
            if request.method == "HEAD" or quirks.delete_keeps_tags == "yes":
                stored = stored or repository.ghosts.get(reference)
        if request.method not in {"GET", "HEAD"}:
            return error(405, "UNSUPPORTED")
        if stored is None:
            return error(404, "MANIFEST_UNKNOWN")
        headers = {"Content-Type": stored.media_type}
        said = stored.digest_header or (digest if ":" in digest else sha256(stored.data))
        if quirks.digest_header:
            headers["Docker-Content-Digest"] = said
        if quirks.manifest_etag:
            headers["ETag"] = f'"{said}"'
            if request.headers.get("if-none-match", "").strip('"') == said:
                return Answer(304, headers)
        chunked = quirks.chunked_answers and request.method == "GET"
        return Answer(200, headers, stored.data, chunked=chunked)

    def _put_manifest(self, request: Request, quirks: Quirks, name: str, reference: str) -> Answer:
        data = request.body.read()
        limit = quirks.manifest_limit_bytes
        if limit is not None and len(data) > limit:
            code = "SIZE_INVALID" if quirks.manifest_limit_status == 413 else "MANIFEST_INVALID"
            return error(quirks.manifest_limit_status, code, "manifest too large")
        by_digest = ":" in reference
        tags = [] if by_digest else [reference]
        if by_digest and quirks.put_tags == "honoured":
            tags = request.query.get("tag", [])
        digest = sha256(data)
        if by_digest and quirks.put_digest_checked and reference != digest:
            return error(400, "DIGEST_INVALID")
        if any(not _valid_tag(tag, quirks) for tag in tags):
            return _bad_tag(quirks)
        media_type = request.headers.get("content-type", "application/octet-stream")
        with self.lock:
            if quirks.push_makes_repository != "yes" and name not in self.store.repositories:
                return error(404, "NAME_UNKNOWN", "no such repository")
            now = self.clock.monotonic()
            stored = StoredManifest(data, media_type, now)
            refused = self._manifest_fault(quirks, name, stored)
            repository = self.store.repositories.get(name)
            if refused is None and quirks.immutable_tags and repository is not None:
                refused = _tag_fault(quirks, repository, tags)
            if refused is not None:
                return refused
            self._store_manifest(quirks, name, digest, stored, tags)
            if by_digest and reference != digest:
                self.store.repository(name).ghosts[reference] = stored
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if stored.subject and quirks.subject_header and quirks.referrers:
            headers["OCI-Subject"] = stored.subject
        if by_digest and tags and quirks.put_tags_header:
            headers["OCI-Tag"] = ", ".join(tags)
        return Answer(201, headers)

    def _manifest_fault(self, quirks: Quirks, name: str, manifest: StoredManifest) -> Answer | None:
        parsed = manifest.parsed
        if parsed.get("schemaVersion") != 2:
            return error(400, "MANIFEST_INVALID")
        refused = _type_fault(quirks, parsed)
        if refused is not None:
            return refused
        if "layers" in parsed and parsed["layers"] is None and not quirks.layers_null:
            return error(400, "MANIFEST_INVALID", "layers")
        if "mediaType" not in parsed and not quirks.media_type_absent:
            return error(400, "MANIFEST_INVALID", "mediaType")
        repository = self.store.repositories.get(name, Repository())
        if manifest.media_type in {_INDEX_TYPE, _LIST_TYPE}:
            missing = [d for d in manifest.names("manifests") if d not in repository.manifests]
            status, code = quirks.missing_child, "MANIFEST_BLOB_UNKNOWN"
        else:
            missing = [
                digest
                for digest in manifest.names("config", "layers")
                if self.find_blob(quirks, name, digest) is None
            ]
            status, code = quirks.missing_blob, "MANIFEST_BLOB_UNKNOWN"
        if not missing or status == 201:
            return None
        return error(status, {404: "MANIFEST_UNKNOWN", 500: "UNKNOWN"}.get(status, code))

    def _store_manifest(
        self, quirks: Quirks, name: str, digest: str, manifest: StoredManifest, tags: list[str]
    ) -> None:
        repository = self.store.repository(name)
        known = repository.manifests.get(digest)
        if known is None or known.media_type != manifest.media_type:
            self._list(quirks, manifest)
            repository.manifests[digest] = manifest
        for tag in tags:
            before = repository.tags.get(tag)
            repository.tags[tag] = digest
            repository.ghosts.pop(tag, None)
            if before not in {None, digest} and quirks.moved_tag_drops_manifest:
                _drop_untagged(repository, str(before))

    def _list(self, quirks: Quirks, manifest: StoredManifest) -> None:
        """Decide when, and whether, the referrers API lists the manifest."""
        if manifest.subject is None:
            return
        self.store.subjects_pushed += 1
        every = quirks.referrers_lose_every
        if every and self.store.subjects_pushed % every == 0:
            return
        manifest.listed_at = manifest.stored_at + quirks.referrers_lag_seconds

    def _delete_manifest(self, quirks: Quirks, repository: Repository, reference: str) -> Answer:
        if ":" not in reference:
            if quirks.tag_delete != 202:
                return error(quirks.tag_delete, "UNSUPPORTED")
            found = repository.tags.pop(reference, None), repository.ghosts.pop(reference, None)
            return Answer(202) if any(found) else error(404, "MANIFEST_UNKNOWN")
        if quirks.manifest_delete != 202:
            code = "UNSUPPORTED" if quirks.manifest_delete == 405 else "NAME_UNKNOWN"
            return error(quirks.manifest_delete, code)
        if reference not in repository.manifests:
            return error(404, "MANIFEST_UNKNOWN")
        tags = [tag for tag, digest in repository.tags.items() if digest == reference]
        if tags and quirks.delete_refuses_tagged:
            return error(403, "DENIED", "still tagged")
        gone = repository.manifests.pop(reference)
        for tag in tags:
            del repository.tags[tag]
            if quirks.delete_keeps_tags != "no":
                repository.ghosts[tag] = gone
        if quirks.deleted_subject_drops_referrers:
            for digest, _ in list(repository.referrers(reference)):
                _drop_untagged(repository, digest)
        return Answer(202)


def _actions(method: str) -> tuple[str, ...]:
    if method == "DELETE":
        return ("delete",)
    return ("pull",) if method in {"GET", "HEAD"} else ("pull", "push")


def _type_fault(quirks: Quirks, parsed: dict[str, Any]) -> Answer | None:
    """Refuse the types that a registry does not know."""
    kind = parsed.get("artifactType")
    if quirks.manifest_types == "no-typed-subject-405":
        return error(405, "UNSUPPORTED") if kind and parsed.get("subject") else None
    if quirks.manifest_types == "any" or "config" not in parsed:
        return None
    unknown = kind or parsed["config"]["mediaType"]
    if unknown == "application/vnd.oci.image.config.v1+json":
        return None
    detail = f"unknown media type: {unknown}"
    status = int(quirks.manifest_types.removeprefix("known-"))
    return error(status, "MANIFEST_INVALID", "manifest invalid", detail=detail)


def _valid_tag(tag: str, quirks: Quirks) -> bool:
    if _TAG.fullmatch(tag) is None:
        return False
    return quirks.tag_limit is None or len(tag) <= quirks.tag_limit


def _bad_tag(quirks: Quirks) -> Answer:
    if quirks.bad_tag == "404-text":
        return not_found()
    return error(404, "UNKNOWN") if quirks.bad_tag == "404-json" else error(400, "TAG_INVALID")


def _tag_fault(quirks: Quirks, repository: Repository, tags: list[str]) -> Answer | None:
    codes = {400: "TAG_INVALID", 403: "DENIED", 409: "TAG_INVALID", 412: "PRECONDITION"}
    if any(tag in repository.tags for tag in tags):
        return error(quirks.immutable_tags, codes[quirks.immutable_tags], "the tag is immutable")
    return None


def _drop_untagged(repository: Repository, digest: str) -> None:
    if digest not in repository.tagged():
        repository.manifests.pop(digest, None)
