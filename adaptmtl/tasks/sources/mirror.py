"""Rows from a folder in the Hub's layout: ``<mirror>/<hub id>/<config or "default">/<split>.parquet``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow
import pyarrow.parquet

from adaptmtl.errors import DataError, suggest
from adaptmtl.tasks.columns import Expression, top_level
from adaptmtl.tasks.rows import Row
from adaptmtl.tasks.sources.raw import RawRows
from adaptmtl.tasks.spec import HubRows


def mirror_folder(source: HubRows, mirror: Path) -> Path:
    """Returns the folder that would hold the data set's splits."""
    return mirror / source.id / (source.config or "default")


def in_mirror(source: HubRows, mirror: Path | None) -> bool:
    """Tells whether the mirror holds this data set and configuration."""
    return mirror is not None and mirror_folder(source, mirror).is_dir()


def read_mirror(source: HubRows, expressions: Mapping[str, Expression], mirror: Path) -> RawRows:
    """Reads both splits of a data set, only the columns that the task uses.

    Args:
        source: the data set.
        expressions: the task's columns.
        mirror: the mirror folder.

    Raises:
        DataError: a split or a column is missing, or a file is broken.
    """
    folder = mirror_folder(source, mirror)
    if not folder.is_dir():
        raise DataError(f"mirror {mirror} has no {source.id}/{source.config or 'default'}; check --mirror")
    tables: dict[str, list[Row]] = {}
    class_names: dict[str, tuple[str, ...]] = {}
    for part, split in source.splits.items():
        path = folder / f"{split}.parquet"
        if not path.is_file():
            held = sorted(file.stem for file in folder.glob("*.parquet"))
            hint = suggest(split, held)
            raise DataError(f"{folder} has no split {split!r}{hint}; it holds {', '.join(held) or 'no parquet file'}")
        tables[part], names = read_parquet(path, top_level(expressions))
        class_names.update(names)
    if "train" not in tables:
        raise DataError(f"{source.id}: no split is named for train; add it to 'splits'")
    origin = f"mirror {source.id}/{source.config or 'default'}"
    return RawRows(tables["train"], tables.get("validation"), origin, class_names=class_names)


def read_parquet(path: Path, wanted: list[str] | None = None) -> tuple[list[Row], dict[str, tuple[str, ...]]]:
    """Reads a parquet file.

    Args:
        path: the file.
        wanted: column paths to read; None for all.

    Returns:
        Rows, and the names of class labels that the metadata of ``datasets`` states, by column.

    Raises:
        DataError: the file is broken or lacks a column.
    """
    try:
        file = pyarrow.parquet.ParquetFile(path)
        schema = file.schema_arrow
        columns = None if wanted is None else _present(wanted, schema.names, path)
        rows = file.read(columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({_first_line(error)}); fetch it again") from error
    return rows, _class_names(schema)


def read_parquet_batches(path: Path, rows: int) -> Iterator[Row]:
    """Yields the rows of a parquet file, so many of them in memory at a time.

    Raises:
        DataError: the file is broken.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file ({_first_line(error)}); fetch it again") from error


def _present(wanted: list[str], names: list[str], path: Path) -> list[str]:
    columns = []
    for column in wanted:
        top = column if column in names else column.split(".")[0]
        if top not in names:
            raise DataError(f"{path} has no column {top!r}{suggest(top, names)}; columns there: {', '.join(names)}")
        columns.append(top)
    return list(dict.fromkeys(columns))


def _class_names(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(raw)["info"]["features"] if raw else {}
    except (ValueError, KeyError, TypeError):
        return {}
    found = {}
    for column, feature in features.items():
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        inner = inner[0] if isinstance(inner, list) and inner else inner
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and inner.get("names"):
            found[column] = tuple(inner["names"])
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
