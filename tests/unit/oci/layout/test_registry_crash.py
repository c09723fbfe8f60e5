"""A process that dies at any file operation leaves a layout that is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dockercomms.oci.interface import read_all
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import EMPTY_CONFIG, MAX_MANIFEST_BYTES
from tests.contract.capabilities import push_empty_config, push_manifest

DIES = """
import io, json, os, sys
from pathlib import Path
import filelock
from dockercomms.oci.layout.registry import LayoutRegistry
from dockercomms.oci.model import EMPTY_CONFIG
from tests.contract.capabilities import push_empty_config, push_manifest

WATCHED = {"open", "os.rename", "os.remove", "os.mkdir", "os.utime"}

def work(folder, verb):
    registry = LayoutRegistry(folder, create=True)
    if verb == "delete":
        registry.delete_manifest("", registry.resolve_tag("", "before").digest)
    else:
        push_empty_config(registry, "")
        push_manifest(registry, "", "after", tags=("after", "bell"))
    if verb == "large":
        registry.close()

def pad(folder):
    # So large that a push does not write index.json, and closing it does.
    path = folder / "index.json"
    index = json.loads(path.read_bytes())
    one = {**index["manifests"][0], "digest": "sha256:" + "0" * 64}
    for number in range(1500):
        tag = {"org.opencontainers.image.ref.name": f"old-{number:04d}"}
        index["manifests"].append({**one, "annotations": tag})
    path.write_text(json.dumps(index))

def die_at(count):
    # Killed before the operation `count` that could change the folder; there is no clean-up.
    left = count
    def hook(event, arguments):
        nonlocal left
        if event in WATCHED and str(base) in str(arguments[0]):
            left -= 1
            if left < 0:
                os._exit(9)
    sys.addaudithook(hook)

base, verb = Path(sys.argv[1]), sys.argv[2]
count = 0
while True:
    folder = base / str(count)
    if verb != "create":
        registry = LayoutRegistry(folder, create=True)
        push_empty_config(registry, "")
        push_manifest(registry, "", "before", tags=("before", "bell"))
    if verb == "large":
        pad(folder)
    child = os.fork()
    if child == 0:
        die_at(count)
        work(folder, verb)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(count)
        sys.exit(0)
    count += 1
"""

OUTCOMES = {
    "create": ([], ["after", "bell"]),
    "push": (["before", "bell"], ["after", "before", "bell"]),
    "delete": (["before", "bell"], []),
    "large": (["before", "bell"], ["after", "before", "bell"]),
}


def new_tags(layout: LayoutRegistry) -> list[str]:
    return [tag for tag in layout.tags("") if not tag.startswith("old-")]


@pytest.mark.parametrize("verb", OUTCOMES)
def test_layout_is_whole_wherever_a_writer_dies(tmp_path: Path, verb: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, tmp_path, verb],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[4],
    )
    deaths = int(done.stdout)
    assert deaths > 5
    before, after = OUTCOMES[verb]
    for count in range(deaths):
        layout = LayoutRegistry(tmp_path / str(count), create=True)
        tags = new_tags(layout) if layout.exists() else []
        assert tags in (before, after)
        for tag in tags:
            read_all(layout.get_tag("", tag), MAX_MANIFEST_BYTES)
        # The next one goes on as if nothing had been.
        push_empty_config(layout, "")
        push_manifest(layout, "", "later", tags=("later",))
        assert new_tags(layout) == sorted([*tags, "later"])
        assert layout.resolve_blob("", EMPTY_CONFIG.digest).size == 2
    last = LayoutRegistry(tmp_path / str(deaths))
    assert new_tags(last) == after
    assert json.loads((tmp_path / str(deaths) / "oci-layout").read_bytes())
