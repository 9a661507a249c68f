from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_architectures import write_architecture

from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.workspace import Workspace


@pytest.fixture(scope="session")
def backbone_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Backbone]:
    """Returns the tiny backbone of an architecture, written once per run."""
    made: dict[str, Backbone] = {}
    workspace = Workspace(home=tmp_path_factory.mktemp("home"), mirror=None, offline=True)

    def get(case: str) -> Backbone:
        if case not in made:
            folder = write_architecture(case, tmp_path_factory.mktemp("architectures") / case)
            made[case] = resolve(str(folder), workspace)
        return made[case]

    return get
