from __future__ import annotations

import base64

import pytest

from dockercomms.errors import ConfigError
from dockercomms.oci.remote.proxies import is_exempt, login_header, proxy_for, shown

URL = "https://registry.example/v2/"


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies, to set them in."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "request_method"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("*", "registry.example", 443),
        ("a.example, *", "registry.example", 443),
        ("registry.example", "registry.example", 443),
        ("registry.example", "sub.registry.example", 443),
        ("REGISTRY.Example", "Registry.EXAMPLE", 443),
        ("registry.example.", "registry.example", 443),
        ("registry.example", "registry.example.", 443),
        (".example", "registry.example", 443),
        ("*.example", "registry.example", 443),
        ("*.example", "a.registry.example", 443),
        ("registry.example:5000", "registry.example", 5000),
        (".example:5000", "registry.example", 5000),
        ("*.example:5000", "registry.example", 5000),
        ("a.example,registry.example", "registry.example", 443),
        ("a.example registry.example", "registry.example", 443),
        ("a.example,,  registry.example ,", "registry.example", 443),
        ("10.1.2.3", "10.1.2.3", 443),
        ("10.1.2.3:5000", "10.1.2.3", 5000),
        ("10.0.0.0/8", "10.1.2.3", 443),
        ("10.1.2.3/8", "10.1.2.3", 443),
        ("fd00::1", "fd00::1", 443),
        ("FD00::1", "fd00:0:0::1", 443),
        ("[fd00::1]", "fd00::1", 443),
        ("[fd00::1]:5000", "fd00::1", 5000),
        ("fd00::/8", "fd00::1", 443),
    ],
)
def test_is_exempt_knows_the_forms_of_gos_programs(no_proxy: str, host: str, port: int) -> None:
    assert is_exempt(no_proxy, host, port)


@pytest.mark.parametrize(
    ("no_proxy", "host", "port"),
    [
        ("", "registry.example", 443),
        (",", "registry.example", 443),
        (".", "registry.example", 443),
        (":443", "registry.example", 443),
        ("registry.example", "badregistry.example", 443),
        ("registry.example", "example", 443),
        (".example", "example", 443),
        ("*.registry.example", "registry.example", 443),
        ("registry.example:5000", "registry.example", 443),
        ("registry.example:port", "registry.example", 443),
        ("10.1.2.3", "110.1.2.3", 443),
        ("10.1.2.3:5000", "10.1.2.3", 443),
        ("10.0.0.0/8", "11.1.2.3", 443),
        ("10.0.0.0/8", "10.example", 443),
        ("10.0.0.0/99", "10.1.2.3", 443),
        ("10.0.0.0/8", "fd00::1", 443),
        ("fd00::1", "fd00::2", 443),
        ("[fd00::1]:5000", "fd00::1", 443),
        ("https://registry.example", "registry.example", 443),
    ],
)
def test_is_exempt_exempts_no_other_host(no_proxy: str, host: str, port: int) -> None:
    assert not is_exempt(no_proxy, host, port)


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("no", ["no_proxy", "NO_PROXY"])
def test_proxy_for_reads_both_spellings(setting: pytest.MonkeyPatch, name: str, no: str) -> None:
    setting.setenv(name, "http://proxy.example:3128")
    assert proxy_for(URL) == "http://proxy.example:3128"
    setting.setenv(no, "registry.example:443")
    assert proxy_for(URL) is None
    assert proxy_for("https://registry.example:5000/v2/") == "http://proxy.example:3128"


def test_proxy_for_is_that_of_the_scheme(setting: pytest.MonkeyPatch) -> None:
    assert proxy_for(URL) is None
    setting.setenv("http_proxy", "http://proxy.example:3128")
    assert proxy_for(URL) is None
    assert proxy_for("http://registry.example/v2/") == "http://proxy.example:3128"
    setting.setenv("no_proxy", "registry.example:80")
    assert proxy_for("http://registry.example/v2/") is None


@pytest.mark.parametrize("host", ["localhost:5000", "127.0.0.1", "[::1]:5000", "a.localhost"])
def test_proxy_for_leaves_loopback_alone(setting: pytest.MonkeyPatch, host: str) -> None:
    setting.setenv("https_proxy", "http://proxy.example:3128")
    assert proxy_for(f"https://{host}/v2/") is None


@pytest.mark.parametrize(
    ("value", "proxy", "name"),
    [
        ("proxy.example:3128", "http://proxy.example:3128", "proxy.example:3128"),
        ("ann:pw@proxy.example:3128", "http://ann:pw@proxy.example:3128", "proxy.example:3128"),
        (" http://proxy.example/ ", "http://proxy.example/", "proxy.example"),
        (
            "https://a%40b:p%2Fw@[fd00::1]:3128",
            "https://a%40b:p%2Fw@[fd00::1]:3128",
            "[fd00::1]:3128",
        ),
        ("http://ann:p@w@proxy.example", "http://ann:p@w@proxy.example", "proxy.example"),
    ],
)
def test_proxy_for_takes_every_form_of_an_address(
    setting: pytest.MonkeyPatch, value: str, proxy: str, name: str
) -> None:
    setting.setenv("https_proxy", value)
    assert proxy_for(URL) == proxy
    assert shown(proxy) == name


@pytest.mark.parametrize(
    "value",
    [
        "http://ann:hush#1@proxy.example:3128",
        "http://ann:hush/1@proxy.example:3128",
        "http://ann:hush?1@proxy.example:3128",
        "ann:9/hush@proxy.example:3128",
        "http://ann:hush@",
        "http://ann:hush@proxy.example:port",
        "http://ann:hush@proxy.example:0",
        "http://ann:hush@[proxy.example",
        "http://ann:hush",
    ],
)
def test_proxy_for_refuses_what_is_no_address_and_shows_nothing_of_it(
    setting: pytest.MonkeyPatch, value: str
) -> None:
    setting.setenv("https_proxy", value)
    with pytest.raises(ConfigError, match=r"^the proxy for https addresses") as caught:
        proxy_for(URL)
    assert "hush" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    assert caught.value.hint is not None


@pytest.mark.parametrize(
    ("proxy", "pair"),
    [
        ("http://proxy.example", None),
        ("http://ann:pw@proxy.example", "ann:pw"),
        ("http://ann@proxy.example", "ann:"),
        ("http://a%40b:p%3Aw%2F@proxy.example", "a@b:p:w/"),
        ("http://ann:pä€@proxy.example", "ann:pä€"),
        ("http://ann:p@w@proxy.example", "ann:p@w"),
    ],
)
def test_login_header_is_utf8(proxy: str, pair: str | None) -> None:
    expected = pair and "Basic " + base64.b64encode(pair.encode()).decode()
    assert login_header(proxy) == expected
