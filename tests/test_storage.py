"""Written files obey the process's umask, and keep the mode that somebody gave them."""

from __future__ import annotations

import pytest

from adaptmtl import storage
from adaptmtl.storage import publish_folder, write_atomic


def mode(path) -> str:
    return oct(path.stat().st_mode & 0o777)


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, "0o644", "0o755"), (0o077, "0o600", "0o700")])
def test_others_may_read_what_the_umask_lets_them(mask, file, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_UMASK", mask)
    write_atomic(tmp_path / "one.json", "{}")
    with publish_folder(tmp_path / "product") as made:
        write_atomic(made / "two.json", "{}")
    assert (mode(tmp_path / "one.json"), mode(tmp_path / "product")) == (file, folder)
    assert mode(tmp_path / "product" / "two.json") == file


def test_a_private_file_stays_private(tmp_path):
    path = tmp_path / "one.json"
    path.write_text("old")
    path.chmod(0o600)
    write_atomic(path, "new")
    assert (mode(path), path.read_text()) == ("0o600", "new")
