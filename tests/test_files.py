import os
import stat
from pathlib import Path

import pytest

from gem_activations.files import remove_leftovers, write_atomically


def interrupt(_):
    raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.json"]


def test_content_is_on_the_disk_before_it_has_the_name(tmp_path, monkeypatch):
    calls = []
    real_fsync, real_replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), real_fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (calls.append("replace"), real_replace(self, to))[1])
    write_atomically(tmp_path / "x", b"1")
    assert calls == ["fsync", "replace"]


def test_every_write_has_a_temporary_name_of_its_own_in_the_same_folder(tmp_path, monkeypatch):
    sources = []
    monkeypatch.setattr(Path, "replace", lambda self, _: sources.append(self))
    for _ in range(2):
        write_atomically(tmp_path / "x", b"1")
    assert len(set(sources)) == 2
    assert {source.parent for source in sources} == {tmp_path}


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_only_what_was_left_of_this_file_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "replace", lambda *_: None)  # As a writer that is killed before the rename.
    for name in ("x", "x", "x.y", "other"):
        write_atomically(tmp_path / name, b"1")
    (tmp_path / ".x.mine.tmp").write_bytes(b"1")
    remove_leftovers(tmp_path / "x")
    left = sorted(entry.name.split(".")[1:-2] for entry in tmp_path.iterdir())
    assert left == [["other"], ["x"], ["x", "y"]]
    assert (tmp_path / ".x.mine.tmp").exists()


def test_a_folder_that_cannot_be_made_is_an_oserror(tmp_path):
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(OSError, match="file"):
        write_atomically(tmp_path / "file" / "x", b"1")
