"""The contract of upload sessions: chunks, resume, commit, cancel."""

from __future__ import annotations

import pytest

from dockercomms.errors import DigestInvalid, RangeInvalid, Unsupported, UploadUnknown
from dockercomms.oci.interface import BlobUpload, Registry
from dockercomms.oci.model import digest_of
from tests.contract.capabilities import Capabilities, content

CHUNK_BYTES = 16 * 1024
"""Above the least chunk that any server asked for (8,192)."""


class UploadContract:
    """The contract of every store for upload sessions."""

    @pytest.mark.parametrize("chunks", [0, 1, 3])
    @pytest.mark.parametrize("more", [-1, 0, 1])
    def test_upload_of_any_size_is_the_blob(
        self, registry: Registry, repository: str, chunks: int, more: int
    ) -> None:
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        data = content(max(0, chunks * upload.chunk_size + more))
        for start in range(0, len(data), 10_000):
            assert upload.write(data[start : start + 10_000]) == len(data[start : start + 10_000])
        assert upload.size == len(data)
        descriptor = upload.commit(digest_of(data))
        assert (descriptor.digest, descriptor.size) == (digest_of(data), len(data))
        with registry.get_blob(repository, descriptor.digest, size=len(data)) as reader:
            assert reader.read() == data

    def test_upload_takes_one_large_write(self, registry: Registry, repository: str) -> None:
        data = content(5 * CHUNK_BYTES + 3)
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(data)
        assert upload.commit(digest_of(data)).size == len(data)

    def test_upload_leaves_the_chunk_size_to_the_store(
        self, registry: Registry, repository: str
    ) -> None:
        upload = registry.upload(repository)
        assert upload.chunk_size > 0
        upload.cancel()

    def test_upload_resumes_where_the_store_is(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        data = content(3 * CHUNK_BYTES)
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(data[: CHUNK_BYTES + 5])
        upload.close()
        if not capabilities.upload_status:
            with pytest.raises(Unsupported):
                registry.resume_upload(repository, upload.id, chunk_size=CHUNK_BYTES)
            return
        again = registry.resume_upload(repository, upload.id, chunk_size=CHUNK_BYTES)
        assert again.size == CHUNK_BYTES + 5
        again.write(data[CHUNK_BYTES + 5 :])
        again.commit(digest_of(data))
        with registry.get_blob(repository, digest_of(data)) as reader:
            assert reader.read() == data

    def test_upload_resumes_several_times(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        if not capabilities.upload_status:
            pytest.skip("the store cannot resume")
        data = content(4 * CHUNK_BYTES)
        session = registry.upload(repository, chunk_size=CHUNK_BYTES)
        for number in range(4):
            session.write(data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])
            session.close()
            session = registry.resume_upload(repository, session.id, chunk_size=CHUNK_BYTES)
            assert session.size == (number + 1) * CHUNK_BYTES
        assert session.commit(digest_of(data)).size == len(data)

    @pytest.mark.parametrize("chunk_size", [1, 3, 1000])
    def test_upload_resumes_at_every_offset(
        self, registry: Registry, repository: str, capabilities: Capabilities, chunk_size: int
    ) -> None:
        """Asked for, or given where the store cannot be asked or takes bytes at any offset."""
        for held in range(8):
            data = b"seven b" + bytes([held])
            upload = registry.upload(repository, chunk_size=chunk_size)
            upload.write(data[:held])
            upload.close()
            told = capabilities.upload_status and (capabilities.upload_checks_offset or held != 1)
            offset = None if told else held
            again = registry.resume_upload(
                repository, upload.id, offset=offset, chunk_size=chunk_size
            )
            # 0-0 is what many say of one byte and of none
            assert again.size == held or (held, again.size) == (1, 0)
            again.write(data[again.size :])
            assert again.commit(digest_of(data)).size == len(data)
            with registry.get_blob(repository, digest_of(data)) as reader:
                assert reader.read() == data

    @pytest.mark.parametrize(("held", "offset"), [(0, None), (CHUNK_BYTES, CHUNK_BYTES)])
    def test_upload_resumes_before_the_first_byte_and_at_a_given_offset(
        self,
        registry: Registry,
        repository: str,
        capabilities: Capabilities,
        held: int,
        offset: int | None,
    ) -> None:
        if not capabilities.upload_status:
            pytest.skip("the store cannot resume")
        data = content(held + CHUNK_BYTES + 1)
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(data[:held])
        upload.close()
        again = registry.resume_upload(repository, upload.id, offset=offset, chunk_size=CHUNK_BYTES)
        assert again.size == held
        again.write(data[held:])
        assert again.commit(digest_of(data)).size == len(data)

    @pytest.mark.parametrize("offset", [CHUNK_BYTES - 1, CHUNK_BYTES + 1])
    def test_upload_at_a_wrong_offset_is_refused(
        self, registry: Registry, repository: str, capabilities: Capabilities, offset: int
    ) -> None:
        if not capabilities.upload_status:
            pytest.skip("the store cannot resume")
        data = content(2 * CHUNK_BYTES)
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(data[:CHUNK_BYTES])
        upload.close()

        def go_on() -> None:
            again = registry.resume_upload(
                repository, upload.id, offset=offset, chunk_size=CHUNK_BYTES
            )
            again.write(data[offset:])
            again.commit(digest_of(data))

        # Where the store does not look, the client's own count or the digest tells.
        late = () if capabilities.upload_checks_offset else (DigestInvalid,)
        with pytest.raises(capabilities.refusal(RangeInvalid, *late)):
            go_on()

    def test_upload_committed_as_other_content_is_refused(
        self, registry: Registry, repository: str
    ) -> None:
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(b"some bytes")
        with pytest.raises(DigestInvalid):
            upload.commit(digest_of(b"other bytes"))

    def test_upload_cancelled_is_gone(
        self, registry: Registry, repository: str, capabilities: Capabilities
    ) -> None:
        upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
        upload.write(content(CHUNK_BYTES + 1))
        upload.cancel()
        if capabilities.upload_status and capabilities.upload_cancel:
            with pytest.raises(UploadUnknown):
                registry.resume_upload(repository, upload.id)

    def test_upload_finished_refuses_more(self, registry: Registry, repository: str) -> None:
        def closed(upload: BlobUpload) -> None:
            upload.close()

        def cancelled(upload: BlobUpload) -> None:
            upload.cancel()

        def committed(upload: BlobUpload) -> None:
            upload.commit(digest_of(b""))

        for finish in (closed, cancelled, committed):
            upload = registry.upload(repository, chunk_size=CHUNK_BYTES)
            finish(upload)
            with pytest.raises(ValueError):
                upload.write(b"more")
            with pytest.raises(ValueError):
                upload.commit(digest_of(b""))
