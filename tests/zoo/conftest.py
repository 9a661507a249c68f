"""Small adapters made from a seed, a home of their own and a Hub on the loopback device."""

import pytest

from adaptmtl.workspace import Workspace
from adaptmtl.zoo.store import Zoo


@pytest.fixture
def workspace(tmp_path):
    return Workspace(home=tmp_path / "home", mirror=None, offline=False)


@pytest.fixture
def zoo(workspace):
    return Zoo(workspace)
