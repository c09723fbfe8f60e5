"""The parts of oras that we use: run this when the pin moves."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import oras  # noqa: TID251 - the surface itself
import oras.auth  # noqa: TID251
import oras.container  # noqa: TID251
import oras.provider  # noqa: TID251
import pytest
import requests  # noqa: TID251

from dockercomms.oci.auth.auth import BACKEND_NAME, scoped_auth_class
from dockercomms.oci.oras import Registry


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_registry_constructor_takes_what_we_pass():
    assert parameters(oras.provider.Registry.__init__) == [
        "self",
        "hostname",
        "insecure",
        "tls_verify",
        "auth_backend",
    ]


def test_registry_constructor_sets_what_we_use():
    registry = oras.provider.Registry("h.example", auth_backend="token")
    assert isinstance(registry.session, requests.Session)
    assert registry.prefix == "https"
    assert registry.hostname == "h.example"
    assert registry.headers == {}
    assert registry._tls_verify is True
    assert not registry.session.cookies.get_policy().allowed_domains()
    registry.session.close()


@pytest.mark.parametrize(
    "name", [name for name in vars(Registry) if hasattr(oras.provider.Registry, name)]
)
def test_ours_takes_what_theirs_takes(name):
    theirs = inspect.unwrap(getattr(oras.provider.Registry, name))
    if not inspect.isfunction(theirs):
        return
    theirs = inspect.signature(theirs).parameters
    ours = inspect.signature(getattr(Registry, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    optional = {key for key, one in theirs.items() if one.default is not one.empty}
    assert all(ours[key].default is not inspect.Parameter.empty for key in optional)
    assert all(
        one.default is not one.empty
        for one in list(ours.values())[len(theirs) :]
        if one.kind is not one.VAR_KEYWORD
    )


def test_inherited_methods_reach_the_network_by_do_request_only():
    """Another way out would miss authorisation, retries, and the mapping of errors."""
    source = inspect.getsource(oras.provider)
    source = source.replace(inspect.getsource(oras.provider.Registry.do_request), "")
    for way in (
        ".session.request(",
        ".session.get(",
        "requests.get(",
        "requests.post(",
        "urlopen(",
    ):
        assert way not in source


def test_auth_backends_is_a_table_that_makes_ours_without_arguments():
    cls = scoped_auth_class()
    assert oras.auth.auth_backends[BACKEND_NAME] is cls
    assert parameters(oras.auth.get_auth_backend) == [
        "name",
        "session",
        "insecure",
        "tls_verify",
        "kwargs",
    ]
    made = oras.auth.get_auth_backend(BACKEND_NAME, session=None, insecure=False)
    assert isinstance(made, cls)
    made.session.close()


def test_container_urls_are_the_specs():
    container = oras.container.Container("h.example:5000/team/box:v1")
    assert container.manifest_url() == "h.example:5000/v2/team/box/manifests/v1"
    assert container.get_blob_url("sha256:x") == "h.example:5000/v2/team/box/blobs/sha256:x"
    assert container.upload_blob_url() == "h.example:5000/v2/team/box/blobs/uploads/"
    assert container.tags_url() == "h.example:5000/v2/team/box/tags/list"
    assert container.api_prefix == "team/box"


def test_oras_has_one_exception_and_raises_it_nowhere():
    found = set()
    for info in pkgutil.walk_packages(oras.__path__, "oras."):
        if ".tests" in info.name or info.name.endswith(".ecr"):
            continue
        module = importlib.import_module(info.name)
        for _, item in inspect.getmembers(module, inspect.isclass):
            if issubclass(item, BaseException) and item.__module__.startswith("oras"):
                found.add(item.__name__)
        source = inspect.getsource(module) if Path(module.__file__).stat().st_size else ""
        assert "raise AuthenticationException" not in source
        assert "raise oras.auth.AuthenticationException" not in source
    assert found == {"AuthenticationException"}
