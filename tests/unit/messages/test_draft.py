from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dockercomms.errors import LimitError, UsageError
from dockercomms.oci.model import ANNOTATION_TITLE
from tests.fakes.mail import ALICE, BOB, message_of, open_mail


@pytest.fixture
def mail(tmp_path):
    yield from open_mail(tmp_path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"to": ""}, UsageError),
        ({"to": "b\udc80b"}, UsageError),
        ({"to": "b" * 4096}, UsageError),
        ({"title": "t" * 201}, LimitError),
        ({"title": "\udc80"}, UsageError),
        ({"text": "t" * 1025}, LimitError),
        ({"ttl_seconds": 0}, UsageError),
        ({"ttl_seconds": 10**12 + 1}, UsageError),
        ({"chunk_bytes": 0}, UsageError),
        ({"concurrency": 0}, UsageError),
        ({"concurrency": 65}, UsageError),
    ],
)
def test_send_refuses_wrong_arguments_before_a_request(mail, options, error):
    with pytest.raises(error):
        mail.send(**options)

    assert mail.registry.calls == []


def test_send_refuses_an_empty_sender(mail):
    with pytest.raises(UsageError, match="sender: empty"):
        with mail.mailbox(ALICE) as mailbox:
            mailbox.send([mail.file()], to=BOB, sender="")


def test_send_takes_a_ttl_beyond_the_calendar(mail):
    last = datetime(9998, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
    assert mail.send(ttl_seconds=10**12).expires_at == last


@pytest.mark.parametrize(("compress", "ending"), [("zstd", "tar.zst"), ("gzip", "tar.gz")])
def test_layers_have_the_file_names_by_which_oras_pulls_them(mail, compress, ending):
    sent = mail.send(compress=compress, chunk_bytes=1)

    layers = message_of(mail, sent).chunks

    titles = [chunk.descriptor.annotations[ANNOTATION_TITLE] for chunk in layers]
    assert titles == [f"chunk_{index}.{ending}" for index in range(len(layers))]
