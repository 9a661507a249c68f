"""AdaptMTL: one small adapter per task, estimates of which tasks will help a new one, fusion, and an honest check.

Names are imported when they are first used, so that ``import adaptmtl`` is quick and imports no model code.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adaptmtl.adapters.methods import LoraMethod
    from adaptmtl.errors import AdaptMTLError
    from adaptmtl.evaluation.check import check
    from adaptmtl.evaluation.predict import load_predictor
    from adaptmtl.fusion.fuse import fuse
    from adaptmtl.selection.budget import Budget
    from adaptmtl.selection.reading import rank_sources
    from adaptmtl.tasks.catalogue import load_catalogue
    from adaptmtl.tasks.infer import infer_task
    from adaptmtl.tasks.own import add_tasks, known_tasks
    from adaptmtl.training.recipe import Encoding, Recipe
    from adaptmtl.training.setup import Setup, make_setup
    from adaptmtl.workspace import Workspace
    from adaptmtl.zoo.build import train_adapters
    from adaptmtl.zoo.hub import pull, push
    from adaptmtl.zoo.store import Zoo

    __version__: str

__all__ = [
    "AdaptMTLError",
    "Budget",
    "Encoding",
    "LoraMethod",
    "Recipe",
    "Setup",
    "Workspace",
    "Zoo",
    "__version__",
    "add_tasks",
    "check",
    "fuse",
    "infer_task",
    "known_tasks",
    "load_catalogue",
    "load_predictor",
    "make_setup",
    "pull",
    "push",
    "rank_sources",
    "train_adapters",
]

_HOMES = {
    "AdaptMTLError": "adaptmtl.errors",
    "Budget": "adaptmtl.selection.budget",
    "Encoding": "adaptmtl.training.recipe",
    "LoraMethod": "adaptmtl.adapters.methods",
    "Recipe": "adaptmtl.training.recipe",
    "Setup": "adaptmtl.training.setup",
    "Workspace": "adaptmtl.workspace",
    "Zoo": "adaptmtl.zoo.store",
    "add_tasks": "adaptmtl.tasks.own",
    "check": "adaptmtl.evaluation.check",
    "fuse": "adaptmtl.fusion.fuse",
    "infer_task": "adaptmtl.tasks.infer",
    "known_tasks": "adaptmtl.tasks.own",
    "load_catalogue": "adaptmtl.tasks.catalogue",
    "load_predictor": "adaptmtl.evaluation.predict",
    "make_setup": "adaptmtl.training.setup",
    "pull": "adaptmtl.zoo.hub",
    "push": "adaptmtl.zoo.hub",
    "rank_sources": "adaptmtl.selection.reading",
    "train_adapters": "adaptmtl.zoo.build",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("adaptmtl")
    if name not in _HOMES:
        raise AttributeError(f"module 'adaptmtl' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
