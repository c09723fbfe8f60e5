"""Upload sessions as a fake registry keeps them."""

from __future__ import annotations

import re
import threading

from dockercomms.platforms.clock import Clock
from tests.fakes.registry_answers import error
from tests.fakes.registry_quirks import Quirks
from tests.fakes.registry_state import Store, StoredBlob, Upload, sha256
from tests.fakes.registry_wire import Answer, BrokenBodyError, DropConnectionError, Request

_RANGE = re.compile(r"(\d+)-(\d+)")


class UploadApi:
    """POST, PATCH, PUT, GET and DELETE below `/blobs/uploads/`."""

    def __init__(self, store: Store, clock: Clock, lock: threading.RLock) -> None:
        self._store = store
        self._clock = clock
        self._lock = lock

    def handle(
        self, request: Request, quirks: Quirks, origin: str, name: str, session: str
    ) -> Answer:
        """Answer a request for `session`, "" where one is opened."""
        if request.method == "POST" and not session:
            return self._open(request, quirks, origin, name)
        with self._lock:
            upload = self._store.uploads.get(session)
            if upload is None and not quirks.upload_sessions_known:
                upload = self._store.uploads[session] = Upload(name)
            if upload is None or upload.repository != name:
                return error(404, "BLOB_UPLOAD_UNKNOWN")
        stale = self._stale(request, quirks, upload, session)
        if stale is not None:
            return stale
        if request.method == "GET":
            if quirks.upload_status != 204:
                return error(quirks.upload_status, "METHOD_UNKNOWN")
            return self._state(204, quirks, origin, session, upload)
        if request.method == "PATCH":
            return self._patch(request, quirks, origin, session, upload)
        if request.method == "PUT":
            return self._close(request, quirks, origin, session, upload)
        if request.method == "DELETE":
            if quirks.cancel_upload != 204:
                return error(quirks.cancel_upload, "METHOD_UNKNOWN")
            self._forget(session)
            return Answer(204)
        return error(405, "UNSUPPORTED")

    def _forget(self, session: str) -> None:
        with self._lock:
            self._store.uploads.pop(session, None)

    def _location(self, origin: str, quirks: Quirks, session: str, upload: Upload) -> str:
        base = origin if quirks.absolute_location else ""
        # The offset stands in the URL, so that an old one can be told from the newest.
        return f"{base}/v2/{upload.repository}/blobs/uploads/{session}?_state=at-{len(upload.data)}"

    def _state(
        self, status: int, quirks: Quirks, origin: str, session: str, upload: Upload
    ) -> Answer:
        size = len(upload.data)
        headers = {
            "Location": self._location(origin, quirks, session, upload),
            "Docker-Upload-UUID": session,
        }
        if quirks.range_header:
            if quirks.range_stuck and size:
                upload.first = upload.first or size
            shown = upload.first or size
            headers["Range"] = f"0-{shown - 1}" if shown else quirks.empty_range
        if status == 202 and not size and quirks.min_chunk_bytes is not None:
            headers["OCI-Chunk-Min-Length"] = str(quirks.min_chunk_bytes)
        if status == 202 and quirks.max_chunk_header and quirks.max_chunk_bytes is not None:
            headers["OCI-Chunk-Max-Length"] = str(quirks.max_chunk_bytes)
        return Answer(status, headers)

    def _stale(
        self, request: Request, quirks: Quirks, upload: Upload, session: str
    ) -> Answer | None:
        if quirks.stale_location == 202:
            return None
        if request.method == "GET" and quirks.stale_location_status:
            return None
        if request.first("_state") == f"at-{len(upload.data)}":
            return None
        code = "RANGE_INVALID" if quirks.stale_location == 416 else "BLOB_UPLOAD_INVALID"
        return error(quirks.stale_location, code)

    def _open(self, request: Request, quirks: Quirks, origin: str, name: str) -> Answer:
        with self._lock:
            if name not in self._store.repositories:
                if quirks.push_makes_repository == "drop":
                    raise DropConnectionError
                if quirks.push_makes_repository == "404":
                    return error(404, "NAME_UNKNOWN", "no such repository")
                failed = self._store.failed_posts.get(name, 0)
                if failed < quirks.new_repository_500s:
                    self._store.failed_posts[name] = failed + 1
                    return error(500, "UNKNOWN")
        mount = request.first("mount")
        if mount:
            mounted = self._mount(request, quirks, name, mount)
            if mounted is not None:
                return mounted
        digest = request.first("digest")
        if digest and not mount and quirks.monolithic_post:
            data = request.body.read()
            if sha256(data) != digest:
                return error(400, "DIGEST_INVALID")
            return self._created(name, digest, data)
        with self._lock:
            session = self._store.open_upload(name)
            return self._state(202, quirks, origin, session, self._store.uploads[session])

    def _mount(self, request: Request, quirks: Quirks, name: str, digest: str) -> Answer | None:
        """Return the final answer of a mount, or `None` if a session is opened."""
        source = request.first("from")
        if quirks.mount == "refuse" or (not source and quirks.mount_without_from == 202):
            return None
        with self._lock:
            places = [source] if source else list(self._store.repositories)
            for place in places:
                repository = self._store.repositories.get(place)
                if repository is not None and digest in repository.blobs:
                    return self._created(name, digest, repository.blobs[digest].data)
            if quirks.mount_missing == 404:
                known = all(place in self._store.repositories for place in places)
                return error(404, "BLOB_UNKNOWN" if known else "NAME_UNKNOWN")
        return None

    def _created(self, name: str, digest: str, data: bytes) -> Answer:
        with self._lock:
            now = self._clock.monotonic()
            self._store.repository(name).blobs[digest] = StoredBlob(data, now)
        headers = {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest}
        return Answer(201, headers)

    def _patch(
        self, request: Request, quirks: Quirks, origin: str, session: str, upload: Upload
    ) -> Answer:
        with self._lock:
            refused = self._patch_fault(request, quirks, origin, session, upload)
        if refused is not None:
            return refused
        upload.patched = True
        self._take(request, quirks, session, upload)
        return self._state(202, quirks, origin, session, upload)

    def _patch_fault(
        self, request: Request, quirks: Quirks, origin: str, session: str, upload: Upload
    ) -> Answer | None:
        length = request.body.length
        if length is not None and length > (quirks.max_chunk_bytes or length):
            return error(416, "RANGE_INVALID")
        small = length is not None and length < (quirks.min_chunk_bytes or 0)
        if small and quirks.min_chunk_enforced:
            return error(416, "RANGE_INVALID")
        asked = request.headers.get("content-range", "")
        if not asked:
            if quirks.patch_without_range == "first-only" and upload.patched:
                return error(400, "BLOB_UPLOAD_INVALID")
            if quirks.patch_without_range == "at-zero" and upload.data:
                return error(416, "RANGE_INVALID")
            return None
        if asked == "0-0" and not quirks.first_byte_range:
            return error(400, "UNSUPPORTED")
        if quirks.patch_gap == "append":
            return None
        match = _RANGE.fullmatch(asked)
        size = len(upload.data)
        if match is None or int(match[1]) != size or int(match[2]) < size:
            extra = {}
            if quirks.range_on_416:
                state = self._state(416, quirks, origin, session, upload)
                extra = {key: state.headers[key] for key in ("Location", "Range")}
            return error(416, "RANGE_INVALID", **extra)
        if length is not None and length != int(match[2]) - int(match[1]) + 1:
            return error(400, "SIZE_INVALID")
        return None

    def _take(self, request: Request, quirks: Quirks, session: str, upload: Upload) -> None:
        """Add the body to the session; the registry's quirks decide about a broken body."""
        before = len(upload.data)
        try:
            for piece in request.body.pieces():
                upload.data += piece
        except BrokenBodyError:
            if quirks.broken_patch == "drop-bytes":
                del upload.data[before:]
            elif quirks.broken_patch == "drop-session":
                self._forget(session)
            raise

    def _close(
        self, request: Request, quirks: Quirks, origin: str, session: str, upload: Upload
    ) -> Answer:
        digest = request.first("digest")
        if not digest or upload.spoilt:
            return error(400, "DIGEST_INVALID")
        if not (quirks.put_takes_content or upload.patched):
            return error(404, "BLOB_UNKNOWN")
        refused = self._close_fault(request, quirks, origin, session, upload)
        if refused is not None:
            return refused
        self._take(request, quirks, session, upload)
        data = bytes(upload.data)
        if sha256(data) != digest:
            return self._spoilt(quirks, session, upload)
        self._forget(session)
        return self._created(upload.repository, digest, data)

    def _spoilt(self, quirks: Quirks, session: str, upload: Upload) -> Answer:
        if quirks.wrong_digest == "ends":
            self._forget(session)
        upload.spoilt = quirks.wrong_digest == "spoils"
        return error(400, "DIGEST_INVALID")

    def _close_fault(
        self, request: Request, quirks: Quirks, origin: str, session: str, upload: Upload
    ) -> Answer | None:
        asked = request.headers.get("content-range", "")
        match = _RANGE.fullmatch(asked)
        empty = request.body.length == 0
        if not asked or (quirks.empty_put_range if empty else quirks.put_range) == "ignore":
            return None
        size = len(upload.data)
        if match is None or int(match[1]) > int(match[2]) or int(match[1]) != size:
            return error(quirks.put_gap, "RANGE_INVALID" if quirks.put_gap == 416 else "UNKNOWN")
        length = request.body.length
        if length is not None and length != int(match[2]) - int(match[1]) + 1:
            return error(400, "SIZE_INVALID")
        return None
