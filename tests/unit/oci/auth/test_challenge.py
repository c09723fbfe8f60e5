from __future__ import annotations

import pytest

from dockercomms.oci.auth.token import Challenge, parse_challenges

HUB = (
    'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
    'scope="repository:library/alpine:pull"'
)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], []),
        ([""], []),
        ([" , ,"], []),
        (["Basic"], [("basic", {})]),
        (['Basic realm="Registry Realm"'], [("basic", {"realm": "Registry Realm"})]),
        (['BASIC REALM="r"'], [("basic", {"realm": "r"})]),
        (
            [HUB],
            [
                (
                    "bearer",
                    {
                        "realm": "https://auth.docker.io/token",
                        "service": "registry.docker.io",
                        "scope": "repository:library/alpine:pull",
                    },
                )
            ],
        ),
        # several in one header, several headers, both
        (
            ['Bearer realm="https://a/t",service="s", Basic realm="r"'],
            [("bearer", {"realm": "https://a/t", "service": "s"}), ("basic", {"realm": "r"})],
        ),
        (
            ['Basic realm="r"', 'Bearer realm="https://a/t"'],
            [("basic", {"realm": "r"}), ("bearer", {"realm": "https://a/t"})],
        ),
        (
            ["Negotiate, NTLM", 'Basic realm="r",charset="UTF-8"'],
            [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "r", "charset": "UTF-8"})],
        ),
        (
            ['Negotiate dG9rZW4=, Basic realm="r"'],
            [("negotiate", {}), ("basic", {"realm": "r"})],
        ),
        # commas, escapes and equals signs inside quotes
        (
            ['Bearer realm="https://a/t?x=1,2",scope="repository:a:pull,push"'],
            [("bearer", {"realm": "https://a/t?x=1,2", "scope": "repository:a:pull,push"})],
        ),
        (
            [r'Basic realm="say \"hi\" \\ now", Bearer realm="x"'],
            [("basic", {"realm": r'say "hi" \ now'}), ("bearer", {"realm": "x"})],
        ),
        (['Basic realm=""'], [("basic", {"realm": ""})]),
        # what registries do beside the grammar
        (
            ["Bearer realm=https://a/t,service=s"],
            [("bearer", {"realm": "https://a/t", "service": "s"})],
        ),
        (
            ['Bearer realm = "https://a/t" , service = "s"'],
            [("bearer", {"realm": "https://a/t", "service": "s"})],
        ),
        (
            ['Bearer realm="https://a/t" service="s"'],
            [("bearer", {"realm": "https://a/t", "service": "s"})],
        ),
        # what cannot be read ends its header, and only that
        (
            ['Bearer realm="https://a/t', 'Basic realm="r"'],
            [("bearer", {}), ("basic", {"realm": "r"})],
        ),
        (['realm="x"'], []),
        (['Bearer realm="x", "y", Basic'], [("bearer", {"realm": "x"})]),
    ],
)
def test_parse_challenges_reads_all_headers(
    headers: list[str], expected: list[tuple[str, dict[str, str]]]
) -> None:
    found = parse_challenges(headers)
    assert [(one.scheme, dict(one.parameters)) for one in found] == expected


def test_challenge_get_returns_the_first_of_a_name() -> None:
    (challenge,) = parse_challenges(['Bearer realm="first",realm="second"'])
    assert challenge.get("realm") == "first"
    assert challenge.get("service") == ""


def test_challenge_is_a_value() -> None:
    assert Challenge("basic", (("realm", "r"),)) == parse_challenges(["Basic realm=r"])[0]


def test_parse_challenges_is_linear_on_hostile_text() -> None:
    for text in ('Bearer realm="' + "\\" * 60_000, "Bearer " + "a" * 60_000, "," * 60_000):
        assert len(parse_challenges([text])) <= 1
