"""`Registry`: an `oras.provider.Registry` for programs that are written for oras-py.

It has the methods of oras-py over the client of this package, with its logins, time limits,
retries, resumed transfers and verified digests. Failures raise errors of `dockercomms.errors`
instead of `ValueError`.
Source: oras-py 0.2.43, `oras/provider.py`; docs/oras.md lists the differences.
"""

from __future__ import annotations

import itertools
import json as json_codec
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from http import HTTPStatus
from http.client import responses
from pathlib import Path
from typing import Any, Self, cast
from urllib.parse import urlsplit

import jsonschema
import oras.container  # noqa: TID251 - the face of oras-py
import oras.provider  # noqa: TID251 - the same
import oras.schemas  # noqa: TID251 - the same
import requests  # noqa: TID251 - the same

from dockercomms.errors import DigestMismatch, NotFoundError, ProtocolError
from dockercomms.oci.auth.auth import BACKEND_NAME, scoped_auth_class
from dockercomms.oci.auth.credentials import Credentials, DockerConfig
from dockercomms.oci.auth.token import Scope
from dockercomms.oci.client import Client, ClientPool
from dockercomms.oci.content import ByteStream, read_facts, referrer_entry
from dockercomms.oci.images.extract import copy_stream, is_folder, new_file
from dockercomms.oci.images.pull import save_artifact
from dockercomms.oci.interface import BlobReader, BlobSource, read_all
from dockercomms.oci.model import (
    ANNOTATION_TITLE,
    MAX_MANIFEST_BYTES,
    MEDIA_TYPE_IMAGE_LAYER_GZIP,
    MEDIA_TYPE_MANIFEST,
    Descriptor,
    digest_of,
    matches,
    parse_digest,
)
from dockercomms.oci.reference import Reference
from dockercomms.oci.remote.exchange import Response, body_of
from dockercomms.oci.remote.registry import HTTPRegistry
from dockercomms.oci.remote.retry import RetryPolicy
from dockercomms.oci.remote.session import TIMEOUT_SECONDS
from dockercomms.oci.strict_json import parse_json
from dockercomms.oci.tag_schema import append_entry
from dockercomms.platforms.clock import Clock
from dockercomms.platforms.files import local_errors, make_folder
from dockercomms.transport.unpack import unpacked_layer

_ENDPOINT = re.compile(r"/v2/(.+?)/(?:manifests/|blobs/(uploads/)?|tags/list|referrers/)")
_CONTENT = re.compile(r"/(?:manifests|blobs)/([a-z0-9]+:[0-9a-f]+)$")
_BELOW_500 = frozenset(range(100, 500)) - {429}


class Registry(oras.provider.Registry):  # type: ignore[misc] # oras has no types
    """A drop-in for `oras.provider.Registry` and `oras.client.OrasClient`. Close it at the end.

    One object may talk to several registries; each gets only its own login. Logins come, in this
    order, from `login` or `credentials` and the variables DOCKERCOMMS_USERNAME and
    DOCKERCOMMS_PASSWORD, all of them for `hostname` alone; then from the files and programs that
    `DockerConfig.load` names.

    Args:
        hostname: The registry of names without a host.
        insecure: Use HTTP for `hostname` (`None`: for all hosts); loopback addresses always may.
        tls_verify: False disables the check of certificates; a path names trusted ones.
        auth_backend: Ignored.
        credentials: The login for `hostname`.
        auth: The source of logins; `None`: this user's files.
        timeout: Seconds without a byte after which a request fails.
        retry: The policy of requests; `None`: as for `HTTPRegistry`.
        clock: The clock, also for waits.

    Raises:
        UsageError: `hostname` is no host, or is missing while there are credentials.
    """

    push: Callable[..., requests.Response]
    """The method of oras-py. Its annotation calls a subject a string; it takes an
    `oras.oci.Subject`."""

    def __init__(
        self,
        hostname: str | None = None,
        insecure: bool = False,  # noqa: FBT002 - the signature of oras
        tls_verify: bool | str = True,  # noqa: FBT002
        auth_backend: str = BACKEND_NAME,  # noqa: ARG002
        *,
        credentials: Credentials | None = None,
        auth: DockerConfig | None = None,
        timeout: float = TIMEOUT_SECONDS,
        retry: RetryPolicy | None = None,
        clock: Clock | None = None,
    ) -> None:
        scoped_auth_class()
        super().__init__(hostname, insecure, auth_backend=BACKEND_NAME)
        name = os.environ.get("DOCKERCOMMS_USERNAME")
        if credentials is None and hostname and name:
            password = os.environ.get("DOCKERCOMMS_PASSWORD", "")
            credentials = Credentials(username=name, password=password, source="the environment")
        self.auth.hostname, self.auth.config = hostname, auth
        if credentials is not None:
            self.auth.give(credentials)

        def make(host: str) -> HTTPRegistry:
            return HTTPRegistry(
                host,
                plain_http=True if insecure and hostname in (None, host) else None,
                insecure=tls_verify is False,
                ca_file=tls_verify if isinstance(tls_verify, str) else None,
                timeout=timeout,
                auth=self.auth,
                retry=retry,
                clock=clock,
            )

        self._pool = ClientPool(make)

    def client(self, target: Any) -> Client:
        """Return our own client of a name or container, for operations that oras-py lacks."""
        container = self.get_container(target)
        digest = None if container.digest is None else parse_digest(container.digest)
        reference = Reference(
            host=container.registry,
            repository=container.api_prefix,
            tag=container.tag,
            digest=digest,
        )
        return Client(reference, registry=self._pool.client_for(reference.host))

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._pool.close()
        self.session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def get_container(self, name: Any) -> Any:
        """Return the container of a name, read as `Reference.parse` does.

        Raises:
            UsageError: `name` is no name, or has no host.
        """
        if isinstance(name, oras.container.Container):
            return name
        reference = Reference.parse(name, default_host=self.hostname)
        container = oras.container.Container("registry.example/x")
        container.registry, container.namespace = reference.host, None
        container.repository, container.tag = reference.repository, reference.tag_or_latest
        container.digest = reference.digest
        return container

    def login(  # noqa: PLR0917 - the signature of oras
        self,
        username: str,
        password: str,
        password_stdin: bool = False,  # noqa: FBT002
        tls_verify: bool = True,  # noqa: ARG002, FBT002
        hostname: str | None = None,
        config_path: str | None = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """Use a login for a registry after the registry has accepted it; no file is written.

        Raises:
            UsageError: there is no host.
            Unauthorized: the registry refused the login.
        """
        if password_stdin:
            password = oras.utils.readline()
        self.auth.give(Credentials(username=username, password=password, source="login"), hostname)
        self._pool.close()
        host = hostname or self.hostname or ""
        self._pool.client_for(host).request("GET", "/v2/", ok=frozenset({200})).close()
        return {"Status": "Login Succeeded"}

    def logout(self, hostname: str) -> None:
        """Forget the login that was given for a registry."""
        self.auth.logout(hostname)
        self._pool.close()

    def do_request(  # noqa: PLR0917 - the signature of oras
        self,
        url: str,
        method: str = "GET",
        data: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        stream: bool = False,  # noqa: FBT002
        **_: object,
    ) -> requests.Response:
        """Return the answer to any request of oras-py's own: any status below 500 but 429.

        Unless `stream` is set, the body is read as a whole, at most `MAX_MANIFEST_BYTES`, and its
        digest is verified.

        Raises:
            DigestMismatch: the content differs from the digest in the address or in the header.
        """
        parts = urlsplit(url)
        response = self._pool.client_for(parts.netloc).request(
            method,
            parts._replace(scheme="", netloc="").geturl(),
            headers=headers,
            body=_encoded(json) if data is None and json is not None else _bytes(data),
            scope=scope_of(method, parts.path),
            ok=_BELOW_500,
        )
        if stream:
            return _answer(response.status, response.headers, response)
        content = body_of(response, MAX_MANIFEST_BYTES)
        named = _CONTENT.search(parts.path)
        digest = named[1] if named else response.headers.get("Docker-Content-Digest")
        read = method == "GET" and response.status == HTTPStatus.OK and digest
        if read and not matches(content, parse_digest(read)):
            raise DigestMismatch(f"{parts.path}: {read} expected, {digest_of(content)} received")
        return _answer(response.status, response.headers, content)

    def get_tags(self, container: Any, N: int | None = None) -> list[str]:  # noqa: N803
        """Return the tags of a repository, at most `N`."""
        return list(itertools.islice(self.client(container).tags(), N))

    def delete_tag(self, container: Any, tag: str) -> bool:
        """Delete one tag, but no other tag of its manifest; return whether it existed."""
        client = self.client(container)
        try:
            client.registry.delete_tag(client.repository, tag)
        except NotFoundError:
            return False
        return True

    def get_blob(
        self,
        container: Any,
        digest: str,
        stream: bool = False,  # noqa: FBT002
        head: bool = False,  # noqa: FBT002
    ) -> requests.Response:
        """Return a blob as the body of a response; reading it to the end verifies its digest.

        Raises:
            BlobUnknown: there is no such blob.
            IntegrityError: while the body is read: the content has another digest.
        """
        client = self.client(container)
        known = parse_digest(digest)
        if head:
            found = client.registry.resolve_blob(client.repository, known)
            return _answer(200, {"Content-Length": str(found.size)}, b"")
        reader = client.registry.get_blob(client.repository, known)
        headers = {"Content-Length": str(reader.descriptor.size), "Docker-Content-Digest": digest}
        answer = _answer(200, headers, reader)
        if not stream:
            with answer:
                _ = answer.content  # stores the content in the answer
        return answer

    def download_blob(self, container: Any, digest: str, outfile: str) -> str:
        """Write a blob to a file, which gets its name when it is whole and its digest proven.

        Raises:
            BlobUnknown: there is no such blob.
            IntegrityError: the content has another digest.
            LocalIOError: the file cannot be written.
        """
        client, target = self.client(container), Path(outfile)
        with local_errors(str(target.parent)):
            make_folder(target.parent.absolute())
        with (
            client.registry.get_blob(client.repository, parse_digest(digest)) as blob,
            new_file(target, overwrite=True) as stream,
        ):
            copy_stream(blob, stream, outfile)
        return outfile

    def upload_blob(
        self,
        blob: str,
        container: Any,
        layer: Mapping[str, Any],
        do_chunked: bool = False,  # noqa: ARG002, FBT002
        chunk_size: int = 0,  # noqa: ARG002
    ) -> requests.Response:
        """Push a file unless it is there; a broken push resumes at the registry's offset.

        Args:
            blob: The file.
            container: The target repository.
            layer: Its descriptor, as `oras.oci.NewLayer` makes it.
            do_chunked: Ignored: the registry's abilities decide.
            chunk_size: The same.
        """
        digest = parse_digest(layer["digest"])
        known = Descriptor(media_type=layer["mediaType"], digest=digest, size=layer["size"])
        self.client(container).push_blob(known, _opener(blob))
        return _answer(201, {"Docker-Content-Digest": digest}, b"")

    def put_upload(self, blob: str, container: Any, layer: Mapping[str, Any]) -> requests.Response:
        """Push a file; see `upload_blob`."""
        return self.upload_blob(blob, container, layer)

    def chunked_upload(
        self, blob: str, container: Any, layer: Mapping[str, Any], chunk_size: int = 0
    ) -> requests.Response:
        """Push a file; see `upload_blob`."""
        return self.upload_blob(blob, container, layer, chunk_size=chunk_size)

    def upload_manifest(self, manifest: dict[str, Any], container: Any) -> requests.Response:
        """Store a manifest or index under the container's tag, or digest.

        The bytes are those that `oras.oci.Subject.from_manifest` hashes. If the registry has no
        referrers API, this adds the manifest to the tag schema's index of its subject.

        Raises:
            ProtocolError: it is no manifest.
        """
        schema = oras.schemas.index if "manifests" in manifest else oras.schemas.manifest
        try:
            jsonschema.validate(manifest, schema=schema)
        except jsonschema.ValidationError as error:
            raise ProtocolError(f"manifest: {error.message:.200}") from error
        client, data = self.client(container), _encoded(manifest)
        media_type = manifest.get("mediaType") or MEDIA_TYPE_MANIFEST
        name = client.reference.digest or client.reference.tag_or_latest
        done = client.push_manifest(data, media_type, name)
        facts = read_facts(data, done.digest)
        if facts.subject is not None and not client.referrers_supported():
            entry = referrer_entry(done.bare(), facts)
            append_entry(client.registry, client.repository, facts.subject, entry)
        return _answer(201, {"Docker-Content-Digest": done.digest}, b"")

    def get_manifest(
        self,
        container: Any,
        allowed_media_type: Sequence[str] | None = None,
        validation_schema: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return a manifest, or an index, whose digest is proven.

        Args:
            container: The repository with tag or digest.
            allowed_media_type: The accepted media types; `None`: all.
            validation_schema: A JSON schema that it has to fit.

        Raises:
            ManifestUnknown: there is no such manifest.
            ProtocolError: it has another media type, or does not fit the schema.
        """
        data, found = read_all(self.client(container).fetch_manifest(), MAX_MANIFEST_BYTES)
        if allowed_media_type and found.media_type not in allowed_media_type:
            wanted = ", ".join(allowed_media_type)
            raise ProtocolError(f"{container}: {wanted} expected, {found.media_type} received")
        manifest = parse_json(data, where=str(container))
        if not isinstance(manifest, dict):
            raise ProtocolError(f"{container}: not a manifest")
        if validation_schema:
            jsonschema.validate(manifest, schema=validation_schema)
        return manifest

    def pull(
        self,
        target: str,
        config_path: str | None = None,
        allowed_media_type: Sequence[str] | None = None,
        overwrite: bool = True,  # noqa: FBT002
        outdir: str | None = None,
    ) -> list[str]:
        """Write all layers of an artifact into a folder, all or none; return their paths.

        A layer with a title and the media type of image layers is a folder that oras-py pushed.

        Args:
            target: The artifact; of an index, the manifest for this machine.
            config_path: The only file of logins to read.
            allowed_media_type: See `get_manifest`.
            overwrite: Whether to replace existing files.
            outdir: The folder, made if it is missing; `None`: a new temporary folder.

        Raises:
            ManifestUnknown, BlobUnknown: the artifact or a layer is missing.
            ProtocolError: a title leads out, or a folder breaks the rules of `unpacked_layer`.
            IntegrityError: a layer has another digest.
            LocalIOError: a file exists, or cannot be written.
        """
        self.auth.load_configs(target, configs=[config_path] if config_path else None)
        if allowed_media_type:
            self.get_manifest(target, allowed_media_type)
        folder = Path(outdir or tempfile.mkdtemp())
        with local_errors(str(folder)):
            make_folder(folder.absolute())
        client = self.client(target)
        saved = save_artifact(
            client.registry,
            client.reference,
            folder,
            overwrite=overwrite,
            unpack=_unpack,
            folders=lambda layer: is_folder(layer) or _is_folder_of_oras_py(layer),
        )
        return [str(one.path) for one in saved]


def scope_of(method: str, path: str) -> Scope:
    """Return the scope that a request needs, according to its method and path.

    Source: distribution-spec v1.1.1, "Endpoints".
    """
    match = _ENDPOINT.match(path)
    if match is None:
        return Scope.catalog()
    repository, uploads = match[1], match[2] is not None
    if method in {"GET", "HEAD"} and not uploads:
        return Scope.pull(repository)
    return (
        Scope.delete(repository) if method == "DELETE" and not uploads else Scope.push(repository)
    )


def _is_folder_of_oras_py(layer: Descriptor) -> bool:
    is_tar = layer.media_type == MEDIA_TYPE_IMAGE_LAYER_GZIP
    return is_tar and bool(layer.annotations.get(ANNOTATION_TITLE))


def _unpack(
    blob: ByteStream, layer: Descriptor, target: Path, *, overwrite: bool
) -> AbstractContextManager[None]:
    """Unpack a folder; one that oras-py pushed goes beside `target`, as with oras-py."""
    if not is_folder(layer):
        layer = replace(layer, annotations={**layer.annotations, ANNOTATION_TITLE: "."})
        target = target.parent
    return unpacked_layer(blob, layer, target, overwrite=overwrite)


def _opener(path: str) -> BlobSource:
    return lambda: Path(path).open("rb")


def _encoded(value: object) -> bytes:
    return json_codec.dumps(value, allow_nan=False).encode()


def _bytes(data: bytes | str | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data


class _Raw:
    """The body that `requests.Response` reads, under the method names of urllib3."""

    def __init__(self, reader: BlobReader | Response) -> None:
        self.read = reader.read
        self.close = self.release_conn = reader.close


def _answer(
    status: int, headers: Mapping[str, str], body: bytes | BlobReader | Response
) -> requests.Response:
    """Return a response as oras-py expects it: its body as bytes, or read from a stream."""
    made: Any = requests.Response()
    made.status_code, made.reason = status, responses.get(status, "")
    made.headers.update(headers)
    if isinstance(body, bytes):
        made._content = body  # noqa: SLF001 - as requests' own reader does
    else:
        made.raw = _Raw(body)
    made.request = requests.PreparedRequest()
    return cast("requests.Response", made)
