from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.metadata import Root as Root_

from dockercomms.errors import ConfigError, LocalIOError, NetworkError, VerificationError
from dockercomms.trust.keyless import SigstoreRoots, check_root, fetch_public_root
from dockercomms.trust.policy import PUBLIC_ROOT, Root
from dockercomms.trust.roots import (
    MAX_ROOT_BYTES,
    embedded,
    public_root_age,
    read_root,
    root_path,
    updated_root,
)

PUBLIC = Root(name=PUBLIC_ROOT)


def test_public_root_is_the_one_that_sigstore_carries():
    assert root_path(PUBLIC) == embedded("trusted_root.json")
    assert {"tlogs", "ctlogs", "certificateAuthorities"} <= set(read_root(PUBLIC))


def test_what_sigstore_does_not_carry_is_said():
    with pytest.raises(ConfigError, match=r"with its nonsense\.json is not installed"):
        embedded("nonsense.json")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not valid JSON"),
        (b"[]", "a JSON object expected"),
        (b" " * (MAX_ROOT_BYTES + 1), "more than 1048576 bytes"),
    ],
)
def test_root_that_is_none_is_refused(tmp_path, data, text):
    path = tmp_path / "root.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=f"root acme: {path}: {text}"):
        read_root(Root(name="acme", path=path))


def test_root_that_is_missing_is_a_local_error(tmp_path):
    root = Root(name="acme", path=tmp_path / "none.json")
    with pytest.raises(LocalIOError, match=r"root acme: .*No such file"):
        read_root(root)
    with pytest.raises(LocalIOError, match=r"root acme: .*No such file"):
        SigstoreRoots().trusted(root)


@pytest.mark.parametrize("text", ["{}", "[]", '{"mediaType":"x"}', "nonsense"])
def test_root_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "root.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"root acme: {path}: not a trusted root"):
        SigstoreRoots().trusted(Root(name="acme", path=path))


def test_root_is_read_once(tmp_path):
    path = tmp_path / "root.json"
    path.write_bytes(embedded("trusted_root.json").read_bytes())
    roots, root = SigstoreRoots(), Root(name="acme", path=path)
    first, authorities = roots.trusted(root), roots.authorities(root)
    path.unlink()
    assert roots.trusted(root) is first
    assert roots.authorities(root) is authorities


# --- the public one, updated ---------------------------------------------------------------------


def test_public_root_that_was_updated_comes_first(tmp_path):
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    path = updated_root(environ)
    assert root_path(PUBLIC, environ) == embedded("trusted_root.json")
    assert public_root_age(environ).updated is None
    path.parent.mkdir()
    path.write_bytes(embedded("trusted_root.json").read_bytes())
    os.utime(path, (1e9, 1e9))
    age = public_root_age(environ)
    assert (root_path(PUBLIC, environ), age.updated) == (
        path,
        datetime(2001, 9, 9, 1, 46, 40, tzinfo=UTC),
    )
    assert age.newest.year >= 2025
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="others can write it"):
        root_path(PUBLIC, environ)
    assert root_path(PUBLIC, {}) == embedded("trusted_root.json")  # a process without a home


@pytest.mark.parametrize(
    "text", ["{}", '{"tlogs": 3}', '{"tlogs": [{"publicKey": {"validFor": {"start": "soon"}}}]}']
)
def test_root_without_a_time_is_refused(tmp_path, text):
    path = tmp_path / "dockercomms" / "sigstore-root.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match="none of its keys has a validity period"):
        public_root_age({"XDG_CONFIG_HOME": str(tmp_path)})
    with pytest.raises(ConfigError, match="where: not a trusted root"):
        check_root(text.encode(), where="where")


class TufRepository:
    """A TUF repository of one target on a loopback port."""

    def __init__(self, folder: Path, data: bytes, *, days: int = 1) -> None:
        self.signer = CryptoSigner.generate_ed25519()
        expires = (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0)
        root = Root_(expires=expires)
        for role in ("root", "timestamp", "snapshot", "targets"):
            root.add_key(self.signer.public_key, role)
        targets = Targets(expires=expires)
        target = TargetFile.from_data("trusted_root.json", data)
        targets.targets["trusted_root.json"] = target
        self.folder, self.root = folder, folder / "1.root.json"
        (folder / "targets").mkdir(parents=True)
        (folder / "targets" / f"{target.hashes['sha256']}.trusted_root.json").write_bytes(data)
        for name, role in (
            ("1.root.json", root),
            ("1.targets.json", targets),
            ("1.snapshot.json", Snapshot(expires=expires)),
            ("timestamp.json", Timestamp(expires=expires)),
        ):
            metadata = Metadata(role)
            metadata.sign(self.signer)
            metadata.to_file(str(folder / name))

    @contextlib.contextmanager
    def serving(self) -> Iterator[str]:
        class Quiet(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

        handler = functools.partial(Quiet, directory=str(self.folder))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()


@pytest.fixture
def own_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_public_root_is_fetched_as_tuf_prescribes(own_folders):
    data = embedded("trusted_root.json").read_bytes()
    repository = TufRepository(own_folders / "tuf", data)
    with repository.serving() as url:
        for _ in range(2):
            assert fetch_public_root(url, bootstrap=repository.root) == data


def test_public_root_that_is_not_proven_is_refused(own_folders):
    data = embedded("trusted_root.json").read_bytes()
    changed = TufRepository(own_folders / "changed", data)
    (target,) = (changed.folder / "targets").iterdir()
    target.write_bytes(data.replace(b"sigstore", b"sigstxre"))
    old = TufRepository(own_folders / "old", data, days=-1)
    foreign = TufRepository(own_folders / "foreign", data)
    for served, bootstrap in ((changed, changed), (old, old), (changed, foreign)):
        with served.serving() as url, pytest.raises(VerificationError, match=f"^{url}: Failed to"):
            fetch_public_root(url, bootstrap=bootstrap.root)
    with pytest.raises(NetworkError, match="Failed to refresh"):
        fetch_public_root("http://127.0.0.1:1", bootstrap=old.root)
