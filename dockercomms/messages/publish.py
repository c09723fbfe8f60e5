"""Publication of manifests: anchors, tags, the bell and the fallback index.

`send` and `receipts` decide which manifests to publish. One PUT of a manifest with its tag is the
publication; the steps after it are best effort, and their failure does not undo it.

Source: SPEC.md sections 5 and 6.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime
from typing import Literal

from dockercomms.errors import (
    DockerCommsError,
    NotFoundError,
    Notice,
    NoticeHook,
    NoticeKind,
    ProtocolError,
    RegistryError,
)
from dockercomms.oci.interface import Registry
from dockercomms.oci.model import (
    EMPTY_CONFIG,
    EMPTY_CONFIG_BYTES,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    Digest,
    digest_of,
)
from dockercomms.oci.tag_schema import append_entry, put_index
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.records import dataclass
from dockercomms.protocol.header import (
    ARTIFACT_TYPE_INBOX,
    IMAGE_CONFIG,
    IMAGE_CONFIG_BYTES,
    MAX_FALLBACK_INDEX_ENTRIES,
    MAX_INLINE_BYTES,
    MEDIA_TYPE_BUNDLE_CONFIG,
    PREDICATE_TYPE_MESSAGE,
    PROTOCOL_VERSION,
    VERSION,
    ManifestForm,
)
from dockercomms.protocol.manifest import ManifestBuilder
from dockercomms.protocol.tags import anchor_tag, bell_tag, bundle_tag, receipts_anchor_tag
from dockercomms.state import State
from dockercomms.state.progress import Capabilities
from dockercomms.trust.bundle import (
    BUNDLE_CONTENT,
    BUNDLE_PREDICATE_TYPE,
    named_signer,
    parse_bundle_json,
)

ReferrersIndex = Literal["auto", "never", "always"]
"""When to write the fallback index; auto: if the registry has no referrers API."""

FormChoice = Literal["auto", "artifact", "image"]
"""The form of manifests (SPEC.md 2.9); auto: the one that the registry accepts."""

_FORM_STATUSES = frozenset({400, 405, 415})
"""Statuses of registries that refuse unknown artifact types: GitLab, Quay 400 or 415; ECR 405."""

REFUSED_STATUSES = frozenset({400, 403, 409, 412})
"""Statuses that refuse to move a tag: immutable tags (ECR, Harbor), tag policies, conditions."""

_UNMOVABLE_STATUSES = REFUSED_STATUSES | {405}


def was_refused(error: RegistryError) -> bool:
    """Return whether the registry refused to move a tag, so the tag's present digest decides."""
    return error.status in REFUSED_STATUSES


def bundle_layer(content: bytes) -> Descriptor:
    """Return the layer of a bundle's manifest; a small bundle is inline, which saves a request."""
    layer = Descriptor.of(content, MEDIA_TYPE_BUNDLE_CONFIG)
    return replace(layer, data=content) if len(content) <= MAX_INLINE_BYTES else layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Publisher:
    """A repository to publish in, with its state. Safe for several threads."""

    registry: Registry
    repository: str
    repo: str
    """The repository's canonical name, its key in the state."""
    state: State
    clock: Clock
    on_notice: NoticeHook | None = None
    index: ReferrersIndex = "auto"
    """When to add receipts to the fallback index."""
    manifest_form: FormChoice = "auto"
    """The form of manifests; auto: the image form if the repository refuses the artifact form."""

    def notify(self, kind: NoticeKind, text: str) -> None:
        """Pass a notice to the caller's hook."""
        if self.on_notice is not None:
            self.on_notice(Notice(kind, text))

    def now(self) -> datetime:
        """Return the time of publication by the registry's clock, or by ours before its answer."""
        return self.registry.server_time() or self.clock.now()

    # --- before publication ----------------------------------------------------------------------

    def form(self) -> ManifestForm:
        """Return the form in which manifests are written."""
        if self.manifest_form != "auto":
            return self.manifest_form
        needed = self.state.progress.image_form(self.repo) == "needed"
        return "image" if needed else "artifact"

    def learns_image_form(self, error: RegistryError) -> bool:
        """Test whether a manifest was refused for its form; if so, use the image form from now on.

        It pushes a sample manifest in each form, by its digest. The form was the reason only if the
        registry refuses the artifact form and accepts the image form.
        """
        if error.status not in _FORM_STATUSES or self.manifest_form != "auto":
            return False
        if self.form() == "image":
            return False
        try:
            self._push_sample("artifact")
        except RegistryError as refused:
            if refused.status not in _FORM_STATUSES:
                return False
        else:
            return False
        try:
            self.ensure_config("image", ask=True)
            self._push_sample("image")
        except RegistryError:
            return False
        self.state.progress.note_image_form(self.repo, "needed")
        return True

    def _push_sample(self, form: ManifestForm) -> None:
        """Push a manifest like ours, with a subject, that receivers ignore."""
        subject = ManifestBuilder(ARTIFACT_TYPE_INBOX, form=form).build()[1].bare()
        sample = ManifestBuilder(ARTIFACT_TYPE_INBOX, subject, {VERSION: PROTOCOL_VERSION})
        data, _ = sample.in_form(form).build()
        self.registry.push_manifest(self.repository, data, MEDIA_TYPE_MANIFEST)

    def ensure_config(self, form: ManifestForm | None = None, *, ask: bool = False) -> None:
        """Push the config blobs that our manifests name, unless the registry has them.

        Once confirmed they count as present, since the day's anchor refers to them.

        Args:
            form: The form of manifests; by default the present one.
            ask: Ask the registry in any case.
        """
        self._ensure_blob(EMPTY_CONFIG, EMPTY_CONFIG_BYTES, ask=ask)
        if (form or self.form()) == "image":
            self._ensure_blob(IMAGE_CONFIG, IMAGE_CONFIG_BYTES, ask=ask)

    def _ensure_blob(self, blob: Descriptor, content: bytes, *, ask: bool) -> None:
        known = self.state.sends.confirmed(self.repo, blob.digest) is not None
        if known and not ask:
            return
        try:
            self.registry.resolve_blob(self.repository, blob.digest)
        except NotFoundError:
            self.registry.push_blob(self.repository, blob, lambda: io.BytesIO(content))
        self.state.sends.record(self.repo, confirmed={blob.digest: self.clock.now()})

    def ensure_anchor(
        self,
        rt: str,
        day: date,
        kind: Literal["receipts"] | None = None,
        *,
        form: ManifestForm | None = None,
    ) -> Descriptor:
        """Ensure that a day's anchor is under its tag; return its descriptor.

        Asks the registry once a day. It overwrites another manifest under that tag. If the registry
        refuses that, or the tag has the same anchor in the other form, which other senders rely on,
        the anchor is pushed by its digest alone.

        Args:
            rt: The recipient's part of tags.
            day: The day.
            kind: "receipts" for the receipts anchor.
            form: Its form; by default the present one.
        """
        form = form or self.form()
        builder = ManifestBuilder.inbox_anchor(rt, day, kind, form=form)
        data, descriptor = builder.build()
        tag = anchor_tag(rt, day) if kind is None else receipts_anchor_tag(rt, day)
        # Without any answer of the registry its clock is unknown, so ask it anyway.
        if (
            self.state.sends.anchor(self.repo, tag) == descriptor.digest
            and self.registry.server_time() is not None
        ):
            return descriptor
        found = self._tagged(tag)
        other = builder.in_form("artifact" if form == "image" else "image").build()[1].digest
        if found == other:
            self.ensure_config(form)
            self.registry.push_manifest(self.repository, data, MEDIA_TYPE_MANIFEST)
        elif found != descriptor.digest:
            try:
                self.ensure_config(form)
                self.put(data, tag=tag)
            except RegistryError as error:
                if not was_refused(error):
                    raise
                self.registry.push_manifest(self.repository, data, MEDIA_TYPE_MANIFEST)
                self.notify("anchor-untagged", f"{self.repo}:{tag}: not tagged: {error}")
        self.state.sends.record_anchor(self.repo, tag, descriptor.digest, now=self.clock.now())
        return descriptor

    def draw_time(
        self,
        rt: str,
        kind: Literal["receipts"] | None = None,
        *,
        form: ManifestForm | None = None,
    ) -> datetime:
        """Return the time of publication, now, after ensuring the anchor of its day."""
        while True:
            now = self.now()
            self.ensure_anchor(rt, now.date(), kind, form=form)
            drawn = self.now()
            if drawn.date() == now.date():
                return drawn

    def hear_clock(self, rt: str) -> None:
        """Send a request if the registry has not answered yet, to learn its time."""
        if self.registry.server_time() is None:
            self.holds(bell_tag(rt), EMPTY_CONFIG.digest)

    # --- publication -----------------------------------------------------------------------------

    def holds(self, tag: str, digest: Digest) -> bool:
        """Return whether `tag` points at `digest`, by one HEAD."""
        return self._tagged(tag) == digest

    def _tagged(self, tag: str) -> Digest | None:
        try:
            return self.registry.resolve_tag(self.repository, tag).digest
        except NotFoundError:
            return None

    def put(self, data: bytes, *, tag: str) -> None:
        """Put a manifest under `tag`, which may point at it already and be immutable.

        Raises:
            RegistryError: refused, and the tag does not point at this manifest.
        """
        try:
            self.registry.push_manifest(self.repository, data, MEDIA_TYPE_MANIFEST, tags=(tag,))
        except RegistryError as error:
            if not was_refused(error) or not self.holds(tag, digest_of(data)):
                raise

    def push_layer(self, content: bytes) -> None:
        """Push the blob of a bundle, even if the manifest has it inline."""
        layer = bundle_layer(content)
        self.registry.push_blob(self.repository, layer, lambda: io.BytesIO(content))

    def push_bundle(
        self,
        subject: Descriptor,
        bundle: bytes,
        *,
        predicate_type: str = PREDICATE_TYPE_MESSAGE,
        index: ReferrersIndex,
        fresh: bool,
        form: ManifestForm | None = None,
    ) -> Digest:
        """Push the signature `bundle` of `subject` before or after it; return the bundle's digest.

        On registries without the referrers API, `fresh` writes the fallback index by one PUT: no
        other client knows the digest of an unpublished message. Otherwise the entry is appended. If
        the registry refuses to move the index's tag, receivers find the bundle by its own tag.
        """
        self.push_layer(bundle)
        layer = bundle_layer(bundle)
        annotations = {
            BUNDLE_CONTENT: "dsse-envelope",
            BUNDLE_PREDICATE_TYPE: predicate_type,
            VERSION: PROTOCOL_VERSION,
        }
        with suppress(ProtocolError):  # receivers judge a bundle that we cannot parse
            annotations |= named_signer(parse_bundle_json(bundle))
        builder = replace(ManifestBuilder.bundle(subject, annotations, layer), subject=subject)
        data, entry = builder.in_form(form or self.form()).build()
        self.put(data, tag=bundle_tag(subject.digest, self.now(), layer.digest))
        if index == "always" or (index == "auto" and not self.has_referrers()):
            self._index_bundle(subject.digest, entry, fresh=fresh)
        return entry.digest

    def _index_bundle(self, subject: Digest, entry: Descriptor, *, fresh: bool) -> None:
        try:
            if fresh:
                put_index(self.registry, self.repository, subject, (entry,))
            else:
                append_entry(self.registry, self.repository, subject, entry, max_entries=None)
        except RegistryError as error:
            if not was_refused(error):
                raise
            self.notify("not-indexed", f"{self.repo}: the index of {subject}: {error}")

    # --- after publication, best effort ----------------------------------------------------------

    def ring_bell(self, rt: str, data: bytes) -> None:
        """Move the recipient's bell to the message `data`; remember a refusal for a day."""
        known = self._capabilities()
        if known.bell is False:
            return
        try:
            self.registry.push_manifest(
                self.repository, data, MEDIA_TYPE_MANIFEST, tags=(bell_tag(rt),)
            )
        except RegistryError as error:
            if error.status in _UNMOVABLE_STATUSES:
                self.state.progress.set_capabilities(self.repo, replace(known, bell=False))
            self.notify("no-bell", f"{self.repo}:{bell_tag(rt)}: not moved: {error}")
        except DockerCommsError as error:
            self.notify("no-bell", f"{self.repo}:{bell_tag(rt)}: not moved: {error}")

    def add_to_index(self, subject: Digest, entry: Descriptor, mode: ReferrersIndex) -> None:
        """Append `entry` to the fallback index of `subject`, if `mode` asks for it."""
        try:
            if mode == "never" or (mode == "auto" and self.has_referrers()):
                return
            done = append_entry(
                self.registry,
                self.repository,
                subject,
                entry,
                max_entries=MAX_FALLBACK_INDEX_ENTRIES,
            )
        except DockerCommsError as error:
            self.notify("not-indexed", f"{self.repo}: the index of {subject}: {error}")
            return
        if not done:
            self.notify("not-indexed", f"{self.repo}: the index of {subject} is full")

    def _capabilities(self) -> Capabilities:
        return self.state.progress.capabilities(self.repo).believed(self.clock.now())

    def has_referrers(self) -> bool:
        """Return whether the registry has the referrers API. Asks it once a day."""
        known = self._capabilities()
        if known.referrers is not None:
            return known.referrers
        supported = self.registry.referrers_supported(self.repository)
        self.state.progress.set_capabilities(self.repo, replace(known, referrers=supported))
        return supported
