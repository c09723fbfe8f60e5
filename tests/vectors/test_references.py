"""References against the measured behaviour of docker-library/meta-scripts' ParseRef."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dockercomms.errors import UsageError
from dockercomms.oci.reference import Reference

FILE = Path(__file__).parents[2] / "spec" / "vectors" / "seeds" / "references.json"
PARSERS = {
    "meta_scripts_ParseRef",
    "cue_ociref_Parse",
    "cue_ociref_ParseRelative",
    "docker_oci_ociref_Parse",
    "docker_oci_ociref_ParseRelative",
    "distribution_ParseNormalizedNamed",
    "go_containerregistry_ParseReference",
    "oras_go_ParseReference",
    "agentfile_ParseReference",
}
ROW_KEYS = {"ok", "error", "host", "repository", "tag", "digest", "string", "extra"}


def load() -> dict[str, dict[str, object]]:
    """Return what ParseRef made of each input; a key that nobody expects is an error."""
    rows = {}
    for row in json.loads(FILE.read_text("utf-8")):
        assert set(row) == PARSERS | {"input"}
        assert set(row["meta_scripts_ParseRef"]) <= ROW_KEYS
        rows[row["input"]] = row["meta_scripts_ParseRef"]
    return rows


ROWS = load()
R255 = "r" * 255

REFUSED_HERE = {
    "a_b.com/repo": "what stands before the slash looks like a host and is none: a slip must not "
    "become a repository on Docker Hub",
    "ex.com:0/r": "nothing can be reached at port 0",
    R255: "with library/ it is longer than any registry takes; distribution refuses it as well",
    f"docker.io/{R255}": "the same",
}
"""References that ParseRef accepts and we refuse, with the reason."""

ANOTHER_ADDRESS_HERE = {
    "localhost/repo": ("localhost", "repo"),
}
"""localhost is a host by default, as docker and distribution read it: (host, repository)."""

ANOTHER_TEXT_HERE = {
    "docker.io/localhost/repo": "docker.io/localhost/repo",
    "docker.io/library/x/y": "library/x/y",
}
"""Full form to the short form we print; ParseRef's own reads back as another reference."""


def described(reference: Reference) -> dict[str, object]:
    """Return what a row of the file says about a reference."""
    digest = reference.digest
    return {
        "host": reference.host,
        "repository": reference.repository,
        "tag": reference.tag,
        "digest": digest,
        "string": str(reference),
        "full": reference.full(),
        "json": json.loads(reference.to_json()),
        "without_own_digest": str(reference.without_digest(digest or "")),
    }


def expected(row: dict[str, object]) -> dict[str, object]:
    """Return what a row of the file says, in the form of `described`."""
    extra = row["extra"]
    assert isinstance(extra, dict)
    plain = {key: row.get(key) for key in ("host", "repository", "tag", "digest", "string")}
    out = {**plain, **extra}
    text = ANOTHER_TEXT_HERE.get(str(extra["full"]))
    if text is not None:
        out.update(string=text, json=text, without_own_digest=text)
    return out


@pytest.mark.parametrize("text", ROWS, ids=lambda text: repr(text)[:60])
def test_reference_parse_agrees_with_parse_ref(text: str) -> None:
    row = ROWS[text]
    if not row["ok"] or text in REFUSED_HERE:
        with pytest.raises(UsageError):
            Reference.parse(text, localhost_is_host=False)
        return
    assert described(Reference.parse(text, localhost_is_host=False)) == expected(row)


@pytest.mark.parametrize("text", ROWS, ids=lambda text: repr(text)[:60])
def test_reference_parse_takes_localhost_for_a_host_by_default(text: str) -> None:
    try:
        other = Reference.parse(text, localhost_is_host=False)
    except UsageError:
        with pytest.raises(UsageError):
            Reference.parse(text)
        return
    ours = Reference.parse(text)
    if text in ANOTHER_ADDRESS_HERE:
        assert (ours.host, ours.repository) == ANOTHER_ADDRESS_HERE[text]
    else:
        assert ours == other


@pytest.mark.parametrize("text", ROWS, ids=lambda text: repr(text)[:60])
def test_reference_prints_what_it_parses(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.full()) == reference
    assert Reference.from_text(reference.to_text()) == reference
    assert Reference.from_json(reference.to_json()) == reference


def test_reference_vectors_hold_the_deliberate_differences() -> None:
    assert len(ROWS) == 198
    assert set(ANOTHER_ADDRESS_HERE) <= set(ROWS)
    assert set(REFUSED_HERE) <= set(ROWS)
    assert all(ROWS[text]["ok"] for text in (*REFUSED_HERE, *ANOTHER_ADDRESS_HERE))
