from __future__ import annotations

import pytest

from adaptmtl.backbone.load import Backbone, resolve
from adaptmtl.workspace import Workspace


@pytest.fixture
def backbone(tiny_backbone: str, workspace: Workspace) -> Backbone:
    return resolve(tiny_backbone, workspace)
