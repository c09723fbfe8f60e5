from __future__ import annotations

import platform

import pytest

from dockercomms.errors import UsageError
from dockercomms.oci.model import Platform, normalize_names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("linux", "amd64", ""), "linux/amd64"),
        (("linux", "x86_64", ""), "linux/amd64"),
        (("Linux", "x86-64", "v1"), "linux/amd64"),
        (("linux", "amd64", "v3"), "linux/amd64/v3"),
        (("linux", "i386", ""), "linux/386"),
        (("linux", "i686", ""), "linux/386"),
        (("linux", "arm64", ""), "linux/arm64/v8"),
        (("linux", "aarch64", "8"), "linux/arm64/v8"),
        (("linux", "arm64", "v8.0"), "linux/arm64/v8"),
        (("linux", "arm64", "9"), "linux/arm64/v9"),
        (("linux", "arm", ""), "linux/arm/v7"),
        (("linux", "arm", "5"), "linux/arm/v5"),
        (("linux", "arm", "V6"), "linux/arm/v6"),
        (("linux", "armhf", ""), "linux/arm/v7"),
        (("linux", "armel", ""), "linux/arm/v6"),
        (("linux", "armv7l", ""), "linux/arm/v7"),
        (("linux", "mips64el", ""), "linux/mips64le"),
        (("linux", "loongarch64", ""), "linux/loong64"),
        (("macOS", "arm64", ""), "darwin/arm64/v8"),
        (("windows", "AMD64", ""), "windows/amd64"),
        (("linux", "riscv64", "7"), "linux/riscv64/7"),
        (("plan9", "strange", "odd"), "plan9/strange/odd"),
    ],
)
def test_normalize_names_gives_the_names_of_indexes(
    names: tuple[str, str, str], expected: str
) -> None:
    assert "/".join(part for part in normalize_names(*names) if part) == expected
    assert str(Platform(*names).normalized()) == expected
    assert Platform(*names).normalized().normalized() == Platform(*names).normalized()


def test_platform_normalized_keeps_the_rest() -> None:
    windows = Platform("windows", "x86_64", os_version="10.0.1", os_features=("win32k",))
    assert windows.normalized() == Platform(
        "windows", "amd64", os_version="10.0.1", os_features=("win32k",)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", Platform("linux", "amd64")),
        ("Linux/x86_64", Platform("linux", "amd64")),
        ("linux/arm64", Platform("linux", "arm64")),
        ("linux/arm64/8", Platform("linux", "arm64", "v8")),
        ("linux/arm", Platform("linux", "arm")),
        ("linux/armhf", Platform("linux", "arm", "v7")),
        ("linux/arm/v6", Platform("linux", "arm", "v6")),
    ],
)
def test_platform_parse_leaves_an_unnamed_variant_open(text: str, expected: Platform) -> None:
    assert Platform.parse(text) == expected
    assert Platform.parse(str(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "linux", "/", "linux/", "/amd64", "a/b/c/d", "linux/a b", "linux/arm/", "a/é"]
)
def test_platform_parse_refuses_anything_else(text: str) -> None:
    with pytest.raises(UsageError):
        Platform.parse(text)


def test_platform_host_names_this_machine() -> None:
    host = Platform.host()
    assert host == host.normalized()
    assert host.os == platform.system().lower()
    assert host.architecture
