"""A working directory that may not be entered, or that was removed, stops no verb that needs none."""

from __future__ import annotations

import os

import pytest

from dockercomms.cli.config import load, project_file
from tests.cli.harness import invoke
from tests.faults.privileges import as_everybody

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")


def test_working_directory_that_may_not_be_entered_has_no_project_file(tmp_path):
    folder = tmp_path / "private"
    folder.mkdir()
    (folder / ".dockercomms.toml").write_text('format = "json"\n')
    folder.chmod(0o600)
    environ = {"HOME": str(tmp_path), "LOGNAME": "bob"}

    assert as_everybody(lambda: project_file(folder, environ)) is None
    assert as_everybody(lambda: load({}, environ=environ, folder=folder)).format == "text"


def test_working_directory_that_was_removed_is_named(tmp_path):
    box = f"oci-layout:{tmp_path}/box"
    gone = tmp_path / "gone"
    gone.mkdir()
    before = os.getcwd()
    os.chdir(gone)
    try:
        gone.rmdir()
        assert (
            invoke(["send", "--text", "x", "--to", "bob", "--me", "al", "--repo", box]).exit_code
            == 0
        )
        assert invoke(["inbox", "--me", "bob", "--repo", box]).exit_code == 0
        got = invoke(["recv", "--me", "bob", "--repo", box, "--no-verify"])
        assert (got.exit_code, "working directory" in got.stderr) == (8, True), got.stderr
    finally:
        os.chdir(before)
