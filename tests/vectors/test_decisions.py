"""Every row in which ours differs from an original on purpose is told in the decision record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.vectors import (
    test_docker_credentials,
    test_ociclient_errors,
    test_ociclient_hosts,
    test_ociclient_listing_and_push,
    test_ociclient_ranges,
    test_ociclient_reading,
    test_references,
)

RECORD = (
    Path(__file__).parents[2] / "spec" / "decisions" / "010-differences-from-the-originals.md"
).read_text("utf-8")

ROWS = {
    "docker_credentials": [name for name, _ in test_docker_credentials.DIFFERENCES],
    "ociclient_errors": [*test_ociclient_errors.DIFFERENCES],
    "ociclient_hosts": [host or "the empty host" for host in test_ociclient_hosts.DIFFERENCES],
    "ociclient_listing_and_push": [
        *test_ociclient_listing_and_push.DIFFERENCES,
        *test_ociclient_listing_and_push.REQUESTS,
    ],
    "ociclient_ranges": [*test_ociclient_ranges.DIFFERENCES],
    "ociclient_reading": [*test_ociclient_reading.DIFFERENCES],
    "references": [
        *test_references.REFUSED_HERE,
        *test_references.ANOTHER_ADDRESS_HERE,
        *test_references.ANOTHER_TEXT_HERE,
    ],
}

TOLD_TOGETHER = {
    "GetManifest 301, body none": "GetManifest 301 with any body",
    "GetManifest 301, body text": "GetManifest 301 with any body",
    "GetManifest 202, body none": "GetManifest 202 and 204 with any body",
    "GetManifest 202, body text": "GetManifest 202 and 204 with any body",
    "GetManifest 204, body none": "GetManifest 202 and 204 with any body",
    "GetManifest 204, body text": "GetManifest 202 and 204 with any body",
    "GetBlob, unknown length (chunked)": "GetBlob and GetTag, unknown length (chunked)",
    "GetTag, unknown length (chunked)": "GetBlob and GetTag, unknown length (chunked)",
    "GetBlob, length too long": "GetBlob and GetTag, length too long",
    "GetTag, length too long": "GetBlob and GetTag, length too long",
    "GetTag, no digest header, 4194304 bytes": "GetTag, no digest header",
    "PushManifest, one tag, registry without ?tag=": "PushManifest with tags",
    "PushManifest, two tags, second fails": "PushManifest with tags",
    test_references.R255: "255 times `r`",
    f"docker.io/{test_references.R255}": "255 times `r`",
}


@pytest.mark.parametrize("file", ROWS)
def test_difference_is_in_the_record(file: str) -> None:
    told = "\n".join(re.findall(rf"^\| {file} \| .*$", RECORD, re.MULTILINE))
    for row in ROWS[file]:
        assert TOLD_TOGETHER.get(row, row) in told, row
