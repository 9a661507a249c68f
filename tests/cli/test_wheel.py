"""The wheel, installed where there is no checkout: run it with ``make wheel-check``."""

import json
import shutil
import site
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("adaptmtl", "cli", "adapters_zoo", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    copy = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / part, copy / part)
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", copy / "dist", copy], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return next((copy / "dist").glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_one_package_and_every_declaration(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"adaptmtl"}
    held = {name.removeprefix("adaptmtl/") for name in names}
    for path in (ROOT / "adapters_zoo").rglob("*.yaml"):
        assert path.relative_to(ROOT).as_posix() in held
    for folder, prefix in ((ROOT / "adaptmtl", ""), (ROOT / "cli", "cli/")):
        for path in folder.rglob("*.py"):
            assert prefix + path.relative_to(folder).as_posix() in held
    assert "py.typed" in held


@pytest.mark.slow
def test_installed_wheel_runs_outside_the_checkout(wheel, tmp_path):
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, cwd=tmp_path)
    # The dependencies are those of this environment; its own .pth files, such as an editable install, are not read.
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv), "platbase": str(venv)}))
    (packages / "dependencies.pth").write_text(
        "\n".join([sysconfig.get_path("purelib"), *site.getsitepackages()]) + "\n"
    )

    def run(*command):
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    where = run(python, "-c", "import adaptmtl.cli.main, adaptmtl.adapters_zoo as z; print(z.__file__)")
    assert Path(where.strip()).is_relative_to(venv)
    assert run(venv / "bin" / "adaptmtl", "--version").startswith("adaptmtl ")
    listed = json.loads(run(venv / "bin" / "adaptmtl", "tasks", "list", "--json"))
    assert len(listed["tasks"]) == len(list((ROOT / "adapters_zoo" / "tasks").glob("*.yaml")))
    run(python, "-c", "from adaptmtl import fuse, check, Zoo")
