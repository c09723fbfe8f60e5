"""The capabilities that each kind of server lacks, as measured on real servers.

The contract holds the real server, and the fake registry with its quirks, to the same table.
"""

from __future__ import annotations

from tests.contract.capabilities import Capabilities

SERVERS: dict[str, Capabilities] = {
    "distribution": Capabilities(referrers_api=False),
    "docker-registry-2.8": Capabilities(
        referrers_api=False,
        delete_tags=False,
        sorted_tags=False,
        obeys_page_size=False,
        obeys_start_after=False,
        upload_checks_offset=False,
        plain_errors=True,
    ),
    "zot": Capabilities(
        start_after_must_exist=True, mounts=False, delete_blobs=False, keeps_untagged=False
    ),
    "olareg": Capabilities(delete_blobs=False),
    "ggcr": Capabilities(
        referrers_artifact_type=False,
        wraps_past_end=True,
        upload_status=False,
        upload_cancel=False,
        mounts=False,
        catalogue_pages=False,
        checks_blobs=False,
        checks_json=False,
        delete_takes_tags=False,
        manifest_limit=False,
        plain_errors=True,
    ),
    "ocimem": Capabilities(
        upload_cancel=False,
        delete_takes_tags=False,
        manifest_limit=False,
        plain_errors=True,
    ),
}
