"""The ways in which registries differ, each a switch; `presets` sets them as real registries do.

`Quirks()` is a registry that does all of the distribution spec 1.1 in the most useful way. Each
field's docstring names a registry that does otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MANIFEST_LIMIT_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """One switch for each measured or reported difference between registries."""

    # Uploads.
    monolithic_post: bool = True
    """`POST ?digest=` takes the blob (201); distribution only opens a session (202)."""
    put_takes_content: bool = True
    """A closing PUT may hold the whole blob (Artifactory: 404 unless a PATCH came before)."""
    push_makes_repository: Literal["yes", "404", "drop"] = "yes"
    """A push to a new repository makes it; else it is answered 404 `NAME_UNKNOWN` (ECR, and Harbor
    without the project), or the connection is closed (ECR's upload)."""
    min_chunk_bytes: int | None = None
    """Sent as `OCI-Chunk-Min-Length` (ocimem: 8192)."""
    min_chunk_enforced: bool = False
    """A PATCH below the minimum is answered 416."""
    max_chunk_bytes: int | None = None
    """A longer PATCH is answered 416 (GHCR: 4 MiB)."""
    max_chunk_header: bool = False
    """`max_chunk_bytes` is announced as `OCI-Chunk-Max-Length`."""
    patch_gap: Literal["refuse", "append"] = "refuse"
    """A PATCH at a wrong offset: 416, or (docker-registry 2.8) appended to the stored bytes."""
    patch_without_range: Literal["append", "first-only", "at-zero"] = "append"
    """A PATCH without Content-Range: ggcr takes only the first (then 400); to ocimem it starts at
    byte 0 (then 416)."""
    first_byte_range: bool = True
    """A PATCH of `0-0`, one byte, is taken (ocimem reads it as no byte: 400)."""
    range_on_416: bool = False
    """The 416 of a wrong offset carries `Range` and `Location` (olareg)."""
    upload_status: int = 204
    """GET of a session; 400: no resuming (ggcr)."""
    upload_sessions_known: bool = True
    """A session must have been opened by POST; ggcr takes any id."""
    stale_location: Literal[202, 400, 404, 416] = 202
    """Answer to a PATCH, PUT or DELETE on a Location older than the session's offset."""
    stale_location_status: bool = True
    """GET of a stale Location works (docker-registry 2.8: it does not)."""
    broken_patch: Literal["keep", "drop-bytes", "drop-session"] = "keep"
    """A broken body: its bytes are kept, or dropped, or the session ends (zot)."""
    empty_put_range: Literal["refuse", "ignore"] = "refuse"
    """Closing PUT without body and with `Content-Range: n-(n-1)`: 416, or 201 (olareg)."""
    put_range: Literal["check", "ignore"] = "check"
    put_gap: Literal[416, 500] = 416
    """A closing PUT whose bytes begin elsewhere than the session ends (ocimem: 500)."""
    """The Content-Range of a closing PUT with a body is checked."""
    empty_range: str = "0-0"
    """`Range` of a session without bytes (olareg: `0--1`)."""
    range_stuck: bool = False
    """`Range` keeps its value after the first piece for each later piece (ECR)."""
    range_header: bool = True
    """Session answers carry `Range`."""
    cancel_upload: Literal[204, 400, 405] = 204
    """DELETE of a session (ggcr 400, ocimem 405)."""
    absolute_location: bool = False
    """`Location` is a whole URL (distribution) instead of a path."""
    new_repository_500s: int = 0
    """So many first POSTs to a repository that does not exist yet are answered 500."""
    wrong_digest: Literal["ends", "goes-on", "spoils"] = "ends"
    """After a closing PUT with a wrong digest the session is unknown (404), as it was, or answers
    400 to everything (ocimem)."""

    # Blobs.
    mount: Literal["mount", "refuse"] = "mount"
    """With `from`: 201, or 202 and a session (zot, ggcr)."""
    mount_without_from: Literal[201, 202] = 202
    """Without `from`: found anywhere (olareg: 201) or a session."""
    mount_missing: Literal[202, 404] = 202
    """The source has no such blob: a session, or 404 (ocimem)."""
    range_get: Literal["full", "closed-only", "ignored", "no-content-range"] = "full"
    """GET with Range; ggcr answers 416 to `bytes=a-` and to an end behind the last byte; some
    proxies answer 200 and the whole."""
    range_behind: Literal["refuse", "empty", "lie"] = "refuse"
    """A range that begins behind the last byte: 416, 206 without a byte (ocimem), or a 416 whose
    Content-Length is the blob's and whose body never comes (docker-registry 2.8)."""
    redirect_blobs: bool = False
    """Blob GETs are answered 307 to another host that refuses our credentials, as clouds do."""
    redirect_relative: bool = False
    """They are redirected to a path of the same host (Google)."""
    redirect_lists: bool = False
    """So are GET and HEAD of manifests, tag lists and referrers (registry.k8s.io)."""
    blob_delete: Literal[202, 404, 405] = 202
    """DELETE of a blob (zot 405)."""
    unreferenced_blobs_live_seconds: float | None = None
    """The lifetime of blobs that no manifest names; by default they stay."""
    global_blobs: bool = False
    """A blob pushed to one repository can be read through every other (ggcr)."""

    # Manifests.
    manifest_etag: bool = False
    """Manifests have an `ETag`, and `If-None-Match` is answered 304 (distribution)."""
    digest_header: bool = True
    """Manifests have `Docker-Content-Digest`."""
    chunked_answers: bool = False
    """Blobs and manifests come with `Transfer-Encoding: chunked` and no length."""
    manifest_limit_bytes: int | None = MANIFEST_LIMIT_BYTES
    """Larger manifests are refused."""
    manifest_limit_status: Literal[400, 413] = 400
    """The status of that refusal (zot 413)."""
    layers_null: bool = True
    """`"layers": null` is taken (zot: 400)."""
    media_type_absent: bool = True
    """A manifest without `mediaType` is taken."""
    manifest_types: Literal["any", "known-400", "known-415", "no-typed-subject-405"] = "any"
    """Artifact and config types that are not the image config's are refused (GitLab 400, Quay 415);
    or artifacts that have a type and a subject (ECR 405)."""
    dash_digests: bool = False
    """`sha256-HEX` is read as the digest `sha256:HEX` (GitLab)."""
    subject_header: bool = True
    """The PUT of a manifest with a subject is answered with `OCI-Subject` (ggcr: not)."""
    put_tags: Literal["honoured", "ignored"] = "honoured"
    """`PUT manifests/<digest>?tag=a`."""
    put_tags_header: bool = True
    """The honoured tags are listed in `OCI-Tag`."""
    put_digest_checked: bool = True
    """A PUT by digest of other bytes is refused (ggcr: taken)."""
    missing_blob: Literal[201, 400, 404, 500] = 400
    """PUT of a manifest one of whose blobs is not there (ggcr 201, ocimem 500)."""
    missing_child: Literal[201, 400, 404, 500] = 400
    """PUT of an index one of whose manifests is not there (ggcr 404, ocimem 500)."""
    immutable_tags: Literal[0, 400, 403, 409, 412] = 0
    """Moving a tag is refused with this status, even to the digest it has (0: allowed)."""
    tag_limit: int | None = 128
    """Longer tags are refused (ggcr: taken)."""
    bad_tag: Literal["400", "404-text", "404-json"] = "400"
    """The refusal of a malformed tag: distribution and ocimem do not know the path."""
    manifest_delete: Literal[202, 404, 405] = 202
    """DELETE by digest (GHCR 405, ECR 404)."""
    delete_refuses_tagged: bool = False
    """DELETE by digest is answered 403 while a tag points there (Docker Hub, Google)."""
    delete_keeps_tags: Literal["no", "head", "yes"] = "no"
    """After DELETE by digest its tags still answer (ggcr), or only to HEAD (ocimem)."""
    tag_delete: Literal[202, 400, 404, 405] = 202
    """DELETE by tag (docker-registry 2.8: 400)."""
    moved_tag_drops_manifest: bool = False
    """A manifest that loses its last tag to another is deleted at once (zot)."""
    deleted_subject_drops_referrers: bool = False
    """Deleting a manifest deletes its untagged referrers (olareg)."""

    # Tag lists.
    tags_sorted: bool = True
    """Tags come in byte order (docker-registry 2.8: unsorted)."""
    tags_n: Literal["obeyed", "ignored"] = "obeyed"
    """The `n` of a tag list."""
    tags_n_zero: Literal["empty", "drop", "default"] = "empty"
    """`n=0`: an empty page, a closed connection (olareg), or as if it was not there."""
    tags_n_max: int | None = None
    """A larger `n` is refused with `tags_n_max_status`."""
    tags_n_max_status: Literal[405, 413] = 413
    """The status of that refusal (Quay above 100: 413; ECR above 1000: 405)."""
    tags_page_max: int | None = None
    """A larger `n` is cut down to this (distribution's `maxtags`)."""
    tags_default_page: int | None = None
    """Page length without `n` (GHCR: 100); by default one page has all tags."""
    tags_last: Literal["obeyed", "ignored", "must-exist", "opaque-405"] = "obeyed"
    """The `last` of a tag list (docker-registry 2.8 ignores it; zot: 404 unless it is a tag; ECR:
    405 unless it comes from a Link)."""
    tags_past_end: Literal["empty", "null", "whole"] = "empty"
    """With `last` behind every tag: `[]`, `null` (ocimem) or the whole list (ggcr)."""
    tags_link: Literal["more", "never", "always", "loop"] = "more"
    """`Link` while there is more; never (ggcr); also after the last page (distribution); back to
    the same page for ever (a broken proxy)."""
    tags_link_absolute: bool = False
    """`Link` holds a whole URL."""
    tags_status: Literal[200, 401, 403, 405] = 200
    """Listing is forbidden."""
    unknown_repository_tags: Literal[200, 404] = 404
    """Tag list of a repository that does not exist."""
    unknown_repository_tags_last: Literal[200, 404] = 404
    """The same with `last`; distribution answers 200 and no tags."""
    catalog: bool = True
    """There is a catalogue."""

    # Referrers.
    referrers: bool = True
    """There is a referrers API."""
    referrers_unsupported: Literal["text-404", "json-404", "json-405", "json-400", "html-303"] = (
        "text-404"
    )
    """The answer without the API (distribution: plain text; ggcr: `METHOD_UNKNOWN`; GHCR and at
    times Google: a redirect to a web page)."""
    referrers_unknown_repository: Literal[200, 404] = 200
    """Of a repository that does not exist: an empty list, or 404 `NAME_UNKNOWN`."""
    referrers_filter: bool = True
    """`artifactType` is obeyed, and said to be, in `OCI-Filters-Applied`."""
    referrers_artifact_type: Literal["manifest", "config"] = "manifest"
    """An entry's artifactType; ggcr gives the config's media type."""
    referrers_annotations: bool = True
    """Entries carry the manifests' annotations."""
    referrers_page: int | None = None
    """Entries in a page, with `Link`."""
    referrers_empty_null: bool = False
    """No entries: `"manifests": null` (ocimem)."""
    referrers_lag_seconds: float = 0.0
    """Entries appear so long after their push (Quay: up to 60)."""
    referrers_lose_every: int = 0
    """Every n-th push with a subject never appears (olareg under concurrency); 0: all appear."""

    # Everything.
    errors_as_text: bool = False
    """Errors are JSON but say they are text/plain (ggcr)."""
    auth: Literal["none", "basic", "token"] = "none"
    """The authentication that a request without credentials is asked for."""
    auth_word: str = "Basic"
    """The name of `basic` in the challenge (Nexus: `BASIC`)."""
    read_only: bool = False
    """Everything but GET and HEAD is answered 405 (registry.k8s.io)."""
    busy_every: int = 0
    """Every n-th request is answered 429; 0 switches this off."""
    busy_seconds: int | None = None
    """The `Retry-After` of those answers; by default they have no such header."""
    unknown_repository_code: Literal["NAME_UNKNOWN", "MANIFEST_UNKNOWN"] = "NAME_UNKNOWN"
    """Error code of a manifest in a repository that does not exist."""
    unknown_repository_blob_code: Literal["BLOB_UNKNOWN", "NAME_UNKNOWN"] = "BLOB_UNKNOWN"
    """Error code of a blob in a repository that does not exist (ocimem: `NAME_UNKNOWN`)."""
    date_skew_seconds: float = 0.0
    """The server's clock runs ahead of the client's by this."""
    date_header: bool = True
    """Answers carry `Date`."""
    reads_refused_bodies: bool = False
    """A body is read although the answer is known before. Go's servers, and so the six measured
    ones, answer at once and close: who still sends more than fits into the sockets is reset."""
    pack_json: bool = False
    """JSON comes packed by gzip whatever `Accept-Encoding` says (proxies, CDNs)."""
    keep_alive: bool = True
    """Connections are used again."""

    def __post_init__(self) -> None:
        pages = (self.tags_page_max, self.tags_default_page)
        short = any(size is not None for size in pages)
        if self.tags_link == "never" and (
            short or (self.tags_n == "obeyed" and not self.tags_by_last)
        ):
            raise ValueError("nobody could list all tags: pages without any way to the next one")

    @property
    def tags_by_last(self) -> bool:
        """Return whether a tag list continues after `last`; otherwise its Link holds a position."""
        return self.tags_sorted and self.tags_last in {"obeyed", "must-exist"}
