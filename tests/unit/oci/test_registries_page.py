"""docs/registries.md: the table of registries says what the presets of the fake are set to."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fakes.presets import MEASURED, REPORTED, Preset
from tests.fakes.registry_quirks import Quirks

PAGE = Path(__file__).parents[3] / "docs" / "registries.md"


def test_table_of_registries_is_that_of_the_presets():
    wanted = [row(preset) for preset in (*MEASURED.values(), *REPORTED.values())]
    lines = PAGE.read_text().splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("|---")) + 1
    assert lines[begin : begin + len(wanted)] == wanted
    assert lines[begin + len(wanted)] == ""


def row(preset: Preset) -> str:
    quirks = preset.quirks
    cells = [referrers, manifests, uploads, tag_lists, deleting]
    said = [cell(quirks) for cell in cells] if not quirks.read_only else read_only(quirks)
    return "| " + " | ".join([preset.name, *said, source(preset)]) + " |"


def read_only(quirks: Quirks) -> list[str]:
    where = ", behind a redirect" if quirks.redirect_lists else ""
    return [f"yes{where}" if quirks.referrers else "no", f"read only{where}", "no", "any", "no"]


def referrers(quirks: Quirks) -> str:
    if not quirks.referrers:
        return "no: a web page" if quirks.referrers_unsupported == "html-303" else "no"
    late = quirks.referrers_lag_seconds
    return f"yes, up to {late:.0f} s late" if late else "yes"


def manifests(quirks: Quirks) -> str:
    said = {
        "any": "artifact form",
        "known-400": "image form: 400 to unknown types",
        "known-415": "image form: 415 to unknown types",
        "no-typed-subject-405": "image form: 405 to a type beside a subject",
    }[quirks.manifest_types]
    moved = quirks.immutable_tags
    return f"{said}; tags are not moved ({moved})" if moved else said


def uploads(quirks: Quirks) -> str:
    said = []
    if quirks.max_chunk_bytes:
        said.append(f"pieces up to {quirks.max_chunk_bytes // 2**20} MiB (else 416)")
    if quirks.min_chunk_bytes:
        said.append(f"pieces of {quirks.min_chunk_bytes // 2**10} KiB or more")
    if quirks.upload_status != 204:
        said.append("no resuming")
    if quirks.range_stuck:
        said.append("`Range` does not grow")
    if not quirks.put_takes_content:
        said.append("PATCH before PUT")
    if quirks.push_makes_repository != "yes":
        said.append("the repository must exist")
    return "; ".join(said) or "any piece"


def tag_lists(quirks: Quirks) -> str:
    said = [] if quirks.tags_sorted else ["unsorted"]
    if quirks.tags_default_page:
        said.append(f"pages of {quirks.tags_default_page}")
    if quirks.tags_n_max:
        said.append(f"{quirks.tags_n_max_status} above n={quirks.tags_n_max}")
    last = {
        "ignored": "no `last`",
        "must-exist": "`last` must exist",
        "opaque-405": "405 to `last`",
    }
    said += [last[quirks.tags_last]] if quirks.tags_last in last else []
    return "; ".join(said) or "sorted"


def deleting(quirks: Quirks) -> str:
    if quirks.manifest_delete != 202:
        return f"no: {quirks.manifest_delete}"
    if quirks.delete_refuses_tagged:
        return "tags, then the digest" if quirks.tag_delete == 202 else "only what has no tag"
    return "by tag and digest" if quirks.tag_delete == 202 else "by digest"


def source(preset: Preset) -> str:
    if not preset.sources:
        return "measured here"
    links = []
    for url in preset.sources:
        match = re.fullmatch(r"https://github\.com/([^/]+/[^/]+)/(?:issues|pull)/(\d+)", url)
        assert match, url
        links.append(f"[{match[1]}#{match[2]}]({url})")
    guess = f"; guessed: {preset.guessed}" if preset.guessed else ""
    return f"as reported in {', '.join(links)}{guess}"
