"""Versions and git revision."""

import subprocess
import sys

import numpy
import torch

from stn.runs import provenance


def git(folder, *arguments):
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def test_provenance_names_versions_and_the_revision(tmp_path, monkeypatch):
    known = provenance.provenance()
    assert known["torch"] == torch.__version__
    assert known["numpy"] == numpy.__version__
    assert known["python"] == sys.version.split()[0]

    source = tmp_path / "source.py"
    source.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(source))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.provenance()["revision"] is None
    git(tmp_path, "init")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "-m", "a")
    assert provenance.provenance()["revision"] is None, "the repository does not hold the source"
    git(tmp_path, "add", "source.py")
    git(tmp_path, "commit", "-m", "b")
    git(tmp_path, "tag", "v1")
    revision = provenance.provenance()["revision"]
    assert len(revision) == 40
    assert int(revision, 16)
    source.write_text("changed")
    assert provenance.provenance()["revision"] == f"{revision}-dirty"
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance()["revision"] is None
