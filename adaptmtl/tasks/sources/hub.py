"""Rows from the Hugging Face Hub, through ``datasets``; code of a data set is never run."""

from __future__ import annotations

from typing import Any

import datasets

from adaptmtl.errors import DataError, OfflineError, suggest
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.spec import HubRows
from adaptmtl.workspace import Workspace

_CONVERTED = "refs/convert/parquet"


def read_hub(source: HubRows, workspace: Workspace) -> RawRows:
    """Reads a data set at its pinned revision, from the local cache of ``datasets`` where it is there.

    A data set that the Hub holds as a script is read from the Hub's own parquet conversion instead. A data set that
    has only one of the two splits gets the other cut from it (seeded), which a note states.

    Args:
        source: the data set.
        workspace: ``offline`` allows the cache only.

    Raises:
        OfflineError: the rows are not in the cache, and the network is off or did not answer.
        DataError: the data set, its configuration or a split does not exist.
    """
    held = _load(source, workspace)
    train, validation = (held.get(source.splits.get(part, part)) for part in ("train", "validation"))
    notes: tuple[str, ...] = ()
    if train is None and validation is None:
        wanted = ", ".join(source.splits.values())
        raise DataError(f"{source.id}: no split {wanted} on the Hub{suggest(wanted, held)}; it has {', '.join(held)}")
    if train is None or validation is None:
        one = source.splits.get("train" if validation is None else "validation", "train")
        notes = (f"the Hub has only the split {one!r}: train and validation are both cut from it, seeded",)
    rows = train if train is not None else validation
    assert rows is not None
    return RawRows(
        train=rows.to_list(),
        validation=None if train is None or validation is None else validation.to_list(),
        origin=f"hub {source.id}/{source.config or 'default'}@{source.revision or 'main'}",
        notes=notes,
        class_names=_class_names(rows.features),
    )


def _load(source: HubRows, workspace: Workspace) -> dict[str, Any]:
    name = f"{source.id}{'/' + source.config if source.config else ''}"
    before = datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE
    if workspace.offline:
        datasets.config.HF_HUB_OFFLINE = datasets.config.HF_DATASETS_OFFLINE = True
    try:
        return _attempt(source)
    except DataError:
        raise
    except (ConnectionError, TimeoutError) as error:
        raise OfflineError(_offline(name, "the Hub did not answer or the network is off")) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        if workspace.offline:
            raise OfflineError(_offline(name, "the network is off and the cache does not hold it")) from error
        raise DataError(f"{name}: no such data set or no access ({_first_line(error)}); check its id") from error
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        if workspace.offline or _is_network(error):
            raise OfflineError(_offline(name, _first_line(error))) from error
        raise DataError(f"{name}: cannot be read from the Hub ({_first_line(error)})") from error
    finally:
        datasets.config.HF_HUB_OFFLINE, datasets.config.HF_DATASETS_OFFLINE = before


def _attempt(source: HubRows) -> dict[str, Any]:
    try:
        return dict(datasets.load_dataset(source.id, source.config, revision=source.revision))
    except RuntimeError as error:
        if "scripts are no longer supported" not in str(error):
            raise
    base = f"hf://datasets/{source.id}@{_CONVERTED.replace('/', '%2F')}/{source.config or 'default'}"
    held: dict[str, Any] = {}
    for split in dict.fromkeys(source.splits.values()):
        try:
            held[split] = datasets.load_dataset("parquet", data_files=f"{base}/{split}/*.parquet", split="train")
        except FileNotFoundError:
            continue
    return held


def _class_names(features: Any) -> dict[str, tuple[str, ...]]:
    found = {}
    for column, feature in features.items():
        inner = getattr(feature, "feature", feature)
        if isinstance(inner, datasets.ClassLabel):
            found[column] = tuple(inner.names)
    return found


def _offline(name: str, why: str) -> str:
    return (
        f"{name} is needed from the Hub, but {why}; give --mirror a folder that holds it as "
        "<hub id>/<config>/<split>.parquet, or run once with the network so that the cache of datasets has it"
    )


def _is_network(error: BaseException) -> bool:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | TimeoutError) or "Connect" in type(seen).__name__:
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
