"""Encoded rows on disk: made chunk by chunk in bounded memory, kept by key, and read back as memory maps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from adaptmtl.registry import is_ours
from adaptmtl.storage import key_of, publish_folder, read_json, write_json
from adaptmtl.tasks.check_rows import Where, normalise
from adaptmtl.tasks.columns import parse_columns
from adaptmtl.tasks.encode import encode
from adaptmtl.tasks.encoded import EncodedRows
from adaptmtl.tasks.kind import kinds
from adaptmtl.tasks.rows import Row, Split
from adaptmtl.tasks.sources.local import json_rows, read_file, read_text, table_rows
from adaptmtl.tasks.sources.mirror import read_parquet_batches
from adaptmtl.tasks.spec import FileRows, TaskSpec
from adaptmtl.workspace import Workspace

#: What kept products depend on beside their inputs: raise it when the encoding changes.
VERSION = 1
#: Rows that are tokenised at a time.
CHUNK_ROWS = 10_000
_META = "encoded.json"
_ARRAYS = ("input_ids", "token_type_ids", "offsets", "unit_offsets", "feature_row", "labels", "words", "spans")


def encode_kept(
    workspace: Workspace,
    split: Split,
    spec: TaskSpec,
    tokenizer: Callable[[], Any],
    tokenizer_key: str,
    *,
    max_length: int,
    stride: int | None = None,
    labelled: bool = True,
) -> EncodedRows:
    """Tokenises the rows of a split, or returns what an earlier command kept of the same rows.

    Args:
        workspace: products lie in ``home/encoded/<key>/``.
        split: rows in the columns of the task's kind.
        spec: the task.
        tokenizer: loads a fast Hugging Face tokenizer; called only where the rows were not kept.
        tokenizer_key: hash that stands for the tokenizer, such as that of its backbone.
        max_length: as in :func:`adaptmtl.tasks.encode.encode`.
        stride: as there.
        labelled: as there.
    """
    if not is_ours(spec.kind):
        return encode(split, spec, tokenizer(), max_length=max_length, stride=stride, labelled=labelled)
    key = key_of(
        step="encoded", version=VERSION, rows=split.fingerprint, kind=spec.kind, labels=spec.label_names,
        tokenizers=version("tokenizers"), tokenizer=tokenizer_key, max_length=max_length, stride=stride,
        labelled=labelled,
    )  # fmt: skip
    folder = workspace.folder("encoded", key)
    if (held := read_encoded(folder)) is not None:
        return held
    chunks = (Split(split.rows[start : start + CHUNK_ROWS]) for start in range(0, len(split), CHUNK_ROWS))
    how: dict[str, Any] = {"max_length": max_length, "stride": stride, "labelled": labelled}
    loaded = tokenizer()
    write_encoded(folder, (encode(chunk, spec, loaded, **how) for chunk in chunks))
    made = read_encoded(folder)
    return made if made is not None else encode(split, spec, loaded, **how)


def stream_encoded(
    source: FileRows, spec: TaskSpec, tokenizer: Any, folder: Path, *, max_length: int, stride: int | None = None
) -> EncodedRows:
    """Reads, checks and tokenises a file of any size, holding 10,000 rows at a time.

    Args:
        source: ``train`` is the file: csv, tsv, jsonl or parquet (other endings are read whole).
        spec: the task, with its ``label_names`` where the kind has any.
        tokenizer: a fast Hugging Face tokenizer.
        folder: where the arrays go; replaced by what is there already, if it is sound.
        max_length: as in :func:`adaptmtl.tasks.encode.encode`.
        stride: as there.

    Returns:
        The encoded rows, as memory maps.

    Raises:
        DataError: the first row that cannot be used; names file, row and column.
    """
    path = Path(source.train).expanduser()
    where = Where(spec.name, "train", parse_columns(source.columns), str(path))

    def chunks() -> Iterator[EncodedRows]:
        first = 1
        for raw in _chunked(stream_rows(path)):
            rows, _ = normalise(raw, spec, spec.label_names, where, {}, first)
            first += len(raw)
            yield encode(Split(tuple(rows)), spec, tokenizer, max_length=max_length, stride=stride)

    write_encoded(folder, chunks())
    made = read_encoded(folder)
    assert made is not None
    return made


def stream_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file as they are read; other endings than csv, tsv, jsonl and parquet are read whole.

    Raises:
        DataError: the file is missing or malformed.
    """
    ending = path.suffix.lower()
    if not path.is_file() or ending not in (".csv", ".tsv", ".jsonl", ".parquet"):
        yield from read_file(path)
        return
    if ending == ".parquet":
        yield from read_parquet_batches(path, CHUNK_ROWS)
        return
    try:
        with path.open(encoding="utf-8-sig", newline="" if ending != ".jsonl" else "\n") as file:
            yield from json_rows(file, path) if ending == ".jsonl" else table_rows(file, path, _MARKS[ending])
    except UnicodeDecodeError:
        read_text(path)  # tells where
        raise


def write_encoded(folder: Path, chunks: Iterable[EncodedRows]) -> None:
    """Writes encoded rows, chunk after chunk, as one; whole or not at all."""
    with publish_folder(folder) as temporary, ExitStack() as open_files:
        files: dict[str, Any] = {}
        shapes: dict[str, dict[str, Any]] = {}
        kind, rows, features, units, tokens, truncated = None, 0, 0, 0, 0, 0
        for chunk in chunks:
            shift = {"offsets": tokens, "unit_offsets": features, "feature_row": rows}
            for name in _ARRAYS:
                values = getattr(chunk, name)
                if values is None:
                    continue
                if name in shift:
                    values = values + np.asarray(shift[name], values.dtype)
                if name in ("offsets", "unit_offsets") and kind is not None:
                    values = values[1:]  # its first is the last of the chunk before
                if name not in files:
                    files[name] = open_files.enter_context((temporary / f"{name}.bin").open("wb"))
                    shapes[name] = {"dtype": str(values.dtype), "shape": [0, *values.shape[1:]]}
                files[name].write(np.ascontiguousarray(values).tobytes())
                shapes[name]["shape"][0] += len(values)
            kind = chunk.kind
            rows, features, units = rows + chunk.n_rows, features + chunk.n_features, units + chunk.n_units
            tokens, truncated = tokens + chunk.n_tokens, truncated + chunk.truncated
        if kind is not None:
            facts = {"kind": str(kind), "n_rows": rows, "truncated": truncated, "arrays": shapes}
            write_json(temporary / _META, facts)


def read_encoded(folder: Path) -> EncodedRows | None:
    """Returns what :func:`write_encoded` wrote, as memory maps; None where it is not there or not whole."""
    facts = read_json(folder / _META)
    if not isinstance(facts, dict):
        return None
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(_ARRAYS)
    for name, one in facts["arrays"].items():
        dtype, shape = np.dtype(one["dtype"]), tuple(one["shape"])
        path = folder / f"{name}.bin"
        if not path.is_file() or path.stat().st_size != dtype.itemsize * int(np.prod(shape)):
            return None
        arrays[name] = np.memmap(path, dtype, "r", shape=shape) if path.stat().st_size else np.empty(shape, dtype)
    return EncodedRows(kind=kinds[facts["kind"]], n_rows=facts["n_rows"], truncated=facts["truncated"], **arrays)  # type: ignore[arg-type]


def _chunked(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK_ROWS:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


_MARKS = {".csv": ",", ".tsv": "\t"}
