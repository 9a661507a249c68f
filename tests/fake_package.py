"""Installed packages of third parties, as pip would leave them: a folder on the path with what is known of them."""

import subprocess
import sys
from pathlib import Path


def install(folder: Path, name: str, points: str) -> None:
    """Writes what names a package's entry points; its modules are the caller's."""
    facts = folder / f"{name}-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(points)


def build(source: Path, site: Path) -> None:
    """Puts what setuptools finds in a folder with a pyproject.toml into another one, as ``pip install`` would."""
    command = ["build_py", "--build-lib", str(site), "egg_info", "--egg-base", str(site)]
    done = subprocess.run(
        [sys.executable, "-c", "import setuptools; setuptools.setup()", *command],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
