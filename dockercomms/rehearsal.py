"""A registry to rehearse on: it answers like another one and keeps nothing."""

from __future__ import annotations

from datetime import datetime

from dockercomms.oci.checked import VerifyingReader
from dockercomms.oci.interface import BlobSource, ProgressHook, Reader
from dockercomms.oci.memory import MemoryRegistry
from dockercomms.oci.model import READ_BYTES, Descriptor, Digest


class Rehearsal(MemoryRegistry):
    """Reads and checks every blob that is pushed, and lets it go; asks `real` what it has.

    Args:
        real: The registry whose place this takes.
    """

    def __init__(self, real: Reader) -> None:
        super().__init__()
        self._real = real

    def resolve_blob(self, repository: str, digest: Digest) -> Descriptor:
        """Ask the real registry."""
        return self._real.resolve_blob(repository, digest)

    def push_blob(
        self,
        repository: str,  # noqa: ARG002 - nothing is pushed there
        descriptor: Descriptor,
        source: BlobSource,
        *,
        progress: ProgressHook | None = None,
    ) -> Descriptor:
        """Read the source to its end and check it, as a registry would."""
        done = 0
        with source() as stream:
            checked = VerifyingReader(stream, descriptor)
            while piece := checked.read(READ_BYTES):
                done += len(piece)
                if progress is not None:
                    progress(done, descriptor.size)
        return descriptor

    def server_time(self) -> datetime | None:
        """Ask the real registry."""
        return self._real.server_time()
