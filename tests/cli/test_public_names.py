"""``import adaptmtl`` is quick, and every public name is there."""

import subprocess
import sys

import pytest

import adaptmtl


def test_importing_the_package_imports_no_model_code():
    heavy = {"torch", "numpy", "pydantic", "transformers"}
    code = f"import sys, adaptmtl; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_public_name_can_be_had():
    assert {"train_adapters", "rank_sources", "fuse", "check", "load_predictor"} <= set(adaptmtl.__all__)
    for name in adaptmtl.__all__:
        assert getattr(adaptmtl, name) is not None
    assert set(adaptmtl.__all__) <= set(dir(adaptmtl))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'adaptmtl' has no attribute 'fuze'"):
        adaptmtl.fuze  # noqa: B018
