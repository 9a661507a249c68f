"""Tiny task declarations and files for the task tests."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adaptmtl.storage import sha256_file
from adaptmtl.tasks.spec import ArchiveRows, TaskSpec
from adaptmtl.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("ADAPTMTL_ARCHIVES", raising=False)
    return Workspace(home=tmp_path / "home", mirror=tmp_path / "mirror", offline=True)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ArchiveRows]:
    """Writes a fake wheel into ADAPTMTL_ARCHIVES and returns a source that reads it."""
    folder = tmp_path / "wheels"
    folder.mkdir()

    def make(files: dict[str, str | bytes], reader: str, options: dict[str, Any], columns: dict | None = None):
        monkeypatch.setenv("ADAPTMTL_ARCHIVES", str(folder))
        path = folder / "Some_Data-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return ArchiveRows(
            package="some-data",
            version="1.0",
            sha256=sha256_file(path),
            reader=reader,
            options=options,
            columns=columns or {},
        )

    return make


@pytest.fixture
def make_task() -> Callable[..., TaskSpec]:
    """Builds a task from a kind and a source, with default label names where a kind needs them."""

    def make(kind: str, *rows: Any, **more: Any) -> TaskSpec:
        if kind == "sequence_classification":
            more.setdefault("label_names", ("no", "yes"))
        if kind == "token_classification":
            more.setdefault("label_names", ("O", "B-x", "I-x"))
        return TaskSpec.model_validate({"name": "tiny", "kind": kind, "rows": rows, **more})

    return make
