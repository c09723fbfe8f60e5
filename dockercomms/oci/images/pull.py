r"""Pulls of artifacts to memory or a folder, and pullers of one file."""

from __future__ import annotations

import contextlib
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import field
from pathlib import Path
from typing import BinaryIO, Protocol, TypedDict, Unpack

from dockercomms.errors import LimitError, ProtocolError
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.content import ByteStream
from dockercomms.oci.images.extract import (
    MAX_FILE_BYTES,
    ExtractedFile,
    ReadProgress,
    copy_stream,
    extract_file,
    finish,
    is_folder,
    new_file,
    open_layer,
    save_file,
)
from dockercomms.oci.images.select import Fallback, ResolvedManifest, get_reference, resolve_content
from dockercomms.oci.interface import ProgressHook, Reader, read_all
from dockercomms.oci.model import ANNOTATION_TITLE, Descriptor, Manifest, Platform
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.platforms.files import local_errors
from dockercomms.platforms.records import dataclass

__all__ = [
    "MAX_ARTIFACT_BYTES",
    "MAX_FILE_BYTES",
    "Artifact",
    "ArtifactLayer",
    "ExtractedFile",
    "NoopPuller",
    "Puller",
    "RegistryOptions",
    "RemotePuller",
    "SavedLayer",
    "extract_file",
    "fetch_artifact",
    "noop_puller",
    "remote_puller",
    "save_artifact",
    "save_file",
]

MAX_ARTIFACT_BYTES = 256 * 2**20
"""The largest artifact in memory unless the caller sets another limit."""

NOOP_SCRIPT = b"#!/bin/sh\n"

_MAX_NAME_BYTES = 255
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]")


@dataclass(frozen=True, slots=True)
class ArtifactLayer:
    """A layer and its content."""

    descriptor: Descriptor
    data: bytes = field(repr=False)

    @property
    def title(self) -> str | None:
        """The layer's file name."""
        return self.descriptor.annotations.get(ANNOTATION_TITLE)


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact with all its layers."""

    descriptor: Descriptor
    manifest: Manifest
    layers: tuple[ArtifactLayer, ...]


def fetch_artifact(
    reader: Reader,
    ref: Reference,
    *,
    platform: Platform | None = None,
    fallback: Fallback = "none",
    limit: int = MAX_ARTIFACT_BYTES,
) -> Artifact:
    """Return the artifact `ref` with all its layers, in memory.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        platform: Selects an entry of an index; `None`: this machine's.
        fallback: The choice if no entry fits.
        limit: Size of all layers together, in bytes.

    Raises:
        LimitError: the layers are larger. ManifestUnknown, BlobUnknown, NameUnknown: the artifact
            or a layer is missing.
        PlatformNotFound: no entry of the index fits.
        IntegrityError: a layer has another digest or size than in the manifest.
    """
    resolved = _resolve(reader, ref, platform, fallback)
    size = sum(layer.size for layer in resolved.manifest.layers)
    if size > limit:
        raise LimitError(f"{ref.full()}: {size} bytes of layers; at most {limit}")
    layers = []
    for layer in resolved.manifest.layers:
        data, _ = read_all(open_layer(reader, ref.repository, layer), layer.size)
        layers.append(ArtifactLayer(layer, data))
    return Artifact(resolved.descriptor, resolved.manifest, tuple(layers))


@dataclass(frozen=True, slots=True)
class SavedLayer:
    """A layer and its file or folder."""

    descriptor: Descriptor
    path: Path


class Unpacker(Protocol):
    """Unpacks a layer that is the tar of a folder, such as `unpacked_layer` in `transport`."""

    def __call__(
        self, blob: ByteStream, layer: Descriptor, target: Path, *, overwrite: bool
    ) -> AbstractContextManager[None]:
        """Unpack `layer` beside `target`, and rename it to `target` when the block ends."""
        ...


def save_artifact(
    reader: Reader,
    ref: Reference,
    folder: Path,
    *,
    platform: Platform | None = None,
    fallback: Fallback = "none",
    overwrite: bool = False,
    unpack: Unpacker | None = None,
    folders: Callable[[Descriptor], bool] = is_folder,
    progress: ProgressHook | None = None,
) -> tuple[SavedLayer, ...]:
    """Write each layer of the artifact `ref` to a file in `folder`, named by its title.

    A title may name folders within `folder`, which are made. A layer without a title is named by
    its digest. Files get their names when all layers are whole.

    Args:
        reader: The store.
        ref: Digest, else tag, else `latest`.
        folder: The target folder, which must exist.
        platform: Selects an entry of an index; `None`: this machine's.
        fallback: The choice if no entry fits.
        overwrite: Whether to replace existing files.
        unpack: Unpacks layers that are folders; `None`: they become files, too.
        folders: Tells which layers are folders.
        progress: Called with the number of bytes read of all layers.

    Raises:
        ProtocolError: a title leads out of the folder, or two titles exclude each other.
        LocalIOError: a file exists, or cannot be written. ManifestUnknown, BlobUnknown,
            NameUnknown: the artifact or a layer is missing.
        PlatformNotFound: no entry of the index fits.
        IntegrityError: a layer has another digest or size than in the manifest.
    """
    resolved = _resolve(reader, ref, platform, fallback)
    layers = resolved.manifest.layers
    is_tar = [unpack is not None and folders(layer) for layer in layers]
    names = _file_names(layers, is_tar)
    counted = ReadProgress(progress, sum(layer.size for layer in layers))
    saved: list[SavedLayer] = []
    with contextlib.ExitStack() as stack:
        for name, layer, packed in zip(names, layers, is_tar, strict=True):
            target = stack.enter_context(_folders_of(folder, name))
            saved.append(SavedLayer(layer, target))
            if packed and unpack is not None:
                with open_layer(reader, ref.repository, layer) as blob:
                    content = counted.of(blob)
                    stack.enter_context(unpack(content, layer, target, overwrite=overwrite))
                continue
            stream = stack.enter_context(new_file(target, overwrite=overwrite))
            with open_layer(reader, ref.repository, layer) as blob:
                copy_stream(counted.of(blob), stream, str(target))
            finish(stream, str(target))
    return tuple(saved)


class Puller(Protocol):
    """Pulls the file that a reference stands for."""

    def __call__(self, ref: Reference | str, writer: BinaryIO) -> None:
        """Write the file to `writer`.

        Raises:
            DockerCommsError: the pull failed; no byte is written unless writing itself fails.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoopPuller:
    """Writes the same empty shell script for all references, for tests without a registry."""

    def __call__(self, ref: Reference | str, writer: BinaryIO) -> None:  # noqa: ARG002 - any
        """Write the 10 bytes."""
        with local_errors("writing the script"):
            writer.write(NOOP_SCRIPT)


class RegistryOptions(TypedDict, total=False):
    """The arguments of a remote puller for `HTTPRegistry`."""

    plain_http: bool | None
    insecure: bool
    ca_file: str | None
    timeout: float
    auth: DockerConfig | None
    credentials: Credentials | None
    retry: RetryPolicy | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePuller:
    """Pulls one file of the artifact that a reference names; see `remote_puller`."""

    open_reader: Callable[[str], AbstractContextManager[Reader]]
    name: str | None = None
    path: str | None = None
    annotation_keys: tuple[str, str] | None = None
    platform: Platform | None = None
    fallback: Fallback = "none"
    limit: int = MAX_FILE_BYTES

    def __call__(self, ref: Reference | str, writer: BinaryIO) -> None:
        """Write the file to `writer`; raises as `extract_file` and `resolve_manifest`."""
        if isinstance(ref, str):
            ref = Reference.parse(ref, default_host=None)
        with self.open_reader(ref.host) as reader:
            manifest = _resolve(reader, ref, self.platform, self.fallback).manifest
            name, path = self._wanted(manifest)
            extract_file(
                reader, ref.repository, manifest, writer, name=name, path=path, limit=self.limit
            )

    def _wanted(self, manifest: Manifest) -> tuple[str | None, str]:
        name, path = self.name, self.path
        if self.annotation_keys is not None:
            name_key, path_key = self.annotation_keys
            name = manifest.annotations.get(name_key) if name is None else name
            path = manifest.annotations.get(path_key) if path is None else path
        return name or None, path or ""


def noop_puller() -> Puller:
    """Return a puller that makes no request."""
    return NoopPuller()


def remote_puller(
    *,
    name: str | None = None,
    path: str | None = None,
    annotation_keys: tuple[str, str] | None = None,
    platform: Platform | None = None,
    fallback: Fallback = "none",
    limit: int = MAX_FILE_BYTES,
    open_reader: Callable[[str], AbstractContextManager[Reader]] | None = None,
    **options: Unpack[RegistryOptions],
) -> Puller:
    """Return a puller of one file of an artifact in a registry.

    Args:
        name: The file; `None`: the name in the artifact's annotation, else its only layer.
        path: The file's folder; `None`: the folder in the artifact's annotation, else any.
        annotation_keys: The manifest's annotations for name and folder.
        platform: Selects an entry of an index; `None`: this machine's.
        fallback: The choice if no entry fits.
        limit: The largest file, in bytes.
        open_reader: Opens the registry of a host for one pull; `None`: an `HTTPRegistry`.
        options: The arguments of that `HTTPRegistry`.
    """
    return RemotePuller(
        open_reader=open_reader or (lambda host: HTTPRegistry(host, **options)),
        name=name,
        path=path,
        annotation_keys=annotation_keys,
        platform=platform,
        fallback=fallback,
        limit=limit,
    )


def _resolve(
    reader: Reader, ref: Reference, platform: Platform | None, fallback: Fallback
) -> ResolvedManifest:
    content = get_reference(reader, ref)
    return resolve_content(reader, ref.repository, content, platform=platform, fallback=fallback)


def _file_names(layers: tuple[Descriptor, ...], is_tar: list[bool]) -> tuple[tuple[str, ...], ...]:
    """Return folders and name of each layer's file; () for the layer that is `folder` itself.

    Raises:
        ProtocolError: a title leads out of the folder, or two titles exclude each other.
    """
    names: dict[tuple[str, ...], None] = {}
    for layer, packed in zip(layers, is_tar, strict=True):
        name = _file_name(layer, is_tar=packed)
        if name in names:
            raise ProtocolError(f"{layer.digest}: file name {'/'.join(name)!r:.200} is used twice")
        names[name] = None
    for name in names:
        if any(name[:length] in names for length in range(len(name))):
            raise ProtocolError(
                f"{'/'.join(name)!r:.200}: its folder is also a file of the artifact"
            )
    return tuple(names)


def _file_name(layer: Descriptor, *, is_tar: bool) -> tuple[str, ...]:
    title = layer.annotations.get(ANNOTATION_TITLE)
    if not title:
        return (layer.digest.replace(":", "-"),)
    if is_tar and title in (".", "./"):
        return ()
    title = title.removesuffix("/") if is_tar else title
    parts = tuple(part for part in title.split("/") if part != ".")
    if not parts or title.endswith("/.") or not all(map(_is_plain, parts)):
        raise ProtocolError(f"{layer.digest}: unsafe file name {title!r:.200}")
    return parts


def _is_plain(part: str) -> bool:
    return (
        part not in ("", "..")
        and _UNSAFE.search(part) is None
        and len(part.encode("utf-8", "surrogatepass")) <= _MAX_NAME_BYTES
    )


@contextlib.contextmanager
def _folders_of(folder: Path, name: tuple[str, ...]) -> Iterator[Path]:
    """Yield the path `name` in `folder`; if the block fails, remove the folders made for it.

    Raises:
        LocalIOError: a link or a file is in the place of a folder.
    """
    with contextlib.ExitStack() as undo:
        for part in name[:-1]:
            folder /= part
            with local_errors(str(folder)):
                try:
                    folder.mkdir()
                except FileExistsError:
                    if not stat.S_ISDIR(folder.lstat().st_mode):
                        raise
                else:
                    undo.callback(_remove_empty, folder)
        yield folder.joinpath(*name[-1:])
        undo.pop_all()


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process uses it by now
        folder.rmdir()
