"""What we touch of oras is still as we use it: run this when the pin moves."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import oras  # noqa: TID251 - the surface itself
import oras.auth  # noqa: TID251
import oras.container  # noqa: TID251
import oras.provider  # noqa: TID251
import requests  # noqa: TID251

from dockercomms.oci.auth import BACKEND_NAME, scoped_auth_class
from dockercomms.oci.session import SessionCore, session_class


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


def test_do_request_has_the_parameters_that_ours_has():
    theirs = inspect.signature(inspect.unwrap(oras.provider.Registry.do_request)).parameters
    ours = inspect.signature(SessionCore.do_request).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {name: p.default for name, p in theirs.items()} == {
        name: ours[name].default for name in theirs
    }


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


def test_token_auth_methods_that_ours_replaces_are_there():
    for name in ("load_configs", "authenticate_request"):
        theirs = parameters(inspect.unwrap(getattr(oras.auth.TokenAuth, name)))
        assert parameters(getattr(scoped_auth_class(), name)) == theirs


def test_session_class_leaves_jsonschema_for_whoever_needs_it():
    code = (
        "import sys; from dockercomms.oci.session import session_class; session_class();"
        "assert 'attr' not in sys.modules, 'jsonschema is loaded';"
        "assert 'jsonschema' not in sys.modules, 'the stand-in is left';"
        "import oras.provider; oras.provider.jsonschema.validate({}, {'type': 'object'});"
        "assert 'attr' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_session_class_comes_before_what_it_overrides():
    mro = session_class().__mro__
    assert mro.index(SessionCore) < mro.index(oras.provider.Registry)
    assert session_class().do_request is SessionCore.do_request


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
