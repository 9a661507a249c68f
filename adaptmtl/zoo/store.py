"""The zoo: adapters in folders named by their key, aliases beside them, an index that can always be rebuilt."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptmtl.adapters.bundle import CARD, Bundle, read_bundle, read_manifest, write_bundle
from adaptmtl.adapters.manifest import MANIFEST
from adaptmtl.errors import AdapterError, AdaptMTLError, UnknownNameError
from adaptmtl.storage import KEY_LENGTH, PARTIAL, publish_folder, write_atomic
from adaptmtl.workspace import Workspace
from adaptmtl.zoo.card import render_card
from adaptmtl.zoo.index import Entry, Index, read_entry

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


def check_alias(name: str) -> None:
    """Raises an AdaptMTLError when a name cannot be an alias."""
    if not _ALIAS.fullmatch(name):
        raise AdaptMTLError(f"{name!r} cannot be an alias: use letters, digits, '_', '.' and '-', at most 128")


class Zoo:
    """Content-addressed store of adapters below ``workspace.home``; safe for several processes at once.

    Args:
        workspace: whose ``home`` holds ``zoo/adapters/<key>/``, ``zoo/names/<alias>`` and ``zoo/index.sqlite``.
    """

    def __init__(self, workspace: Workspace):
        self.adapters = workspace.folder("zoo", "adapters")
        self.names = workspace.folder("zoo", "names")
        self._index = Index(workspace.folder("zoo", "index.sqlite"), self.adapters)

    def add(self, bundle: Bundle) -> Entry:
        """Stores an adapter; one that is there already and sound is kept as it is.

        Raises:
            AdapterError: weights that are not finite or do not fit together.
            StorageError: the disk is full or not writable; nothing half-written stays visible.
        """

        def fill(folder: Path) -> None:
            write_bundle(folder, bundle)

        return self._publish(bundle.manifest.key, fill)

    def adopt(self, folder: str | Path) -> Entry:
        """Stores a copy of an adapter's folder from elsewhere, byte for byte, after verifying the copy.

        Raises:
            AdapterError: the folder is not a sound adapter, or its key is taken by an adapter with other content.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        final = self.adapters / manifest.key
        if final.exists() and _is_sound(final) and read_manifest(final) != manifest:
            raise AdapterError(
                f"adapter {manifest.name} from {folder} has the key {manifest.key} of an adapter in the zoo but other "
                f"content: remove that one first (zoo remove {manifest.key}) if this one shall take its place"
            )

        def fill(target: Path) -> None:
            for name in (*manifest.files, MANIFEST):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, target / name)
            try:
                read_bundle(target)
            except AdapterError as error:  # the copy's temporary name says nothing to a person
                raise AdapterError(str(error).replace(str(target), str(folder))) from error

        return self._publish(manifest.key, fill)

    def get(self, name: str) -> Entry:
        """Finds an adapter by alias, key, name, or the beginning of one of these that fits no other adapter.

        Raises:
            UnknownNameError: no adapter is called so.
            AdaptMTLError: several adapters are.
            AdapterError: the adapter's folder is damaged.
        """
        entry = self._resolve(name)
        if entry.problem:
            raise AdapterError(entry.problem)
        return entry

    def find(
        self,
        *,
        task: str | None = None,
        method: str | None = None,
        backbone_hash: str | None = None,
        seed: int | None = None,
        kind: str | None = None,
    ) -> tuple[Entry, ...]:
        """Returns the sound adapters that fit every filter given, by name."""
        wanted = {"task": task, "method": method, "backbone_hash": backbone_hash, "seed": seed, "kind": kind}
        filters = {field: value for field, value in wanted.items() if value is not None}
        return tuple(one for one in self.entries() if all(getattr(one, key) == value for key, value in filters.items()))

    def entries(self) -> tuple[Entry, ...]:
        """Returns all sound adapters, by name; damaged folders are in :meth:`problems`."""
        return tuple(one for one in self._index.entries().values() if not one.problem)

    def problems(self) -> tuple[Entry, ...]:
        """Returns the damaged folders, which are never deleted, each with its ``problem``."""
        return tuple(one for one in self._index.entries().values() if one.problem)

    def alias(self, name: str, key: str) -> None:
        """Gives an adapter another name; an alias of that name moves to it.

        Args:
            name: letters, digits, ``_``, ``.`` and ``-``.
            key: the adapter's key, or anything else that :meth:`get` accepts.

        Raises:
            UnknownNameError: no adapter is called ``key``.
            AdaptMTLError: ``name`` cannot be a file name, or is another adapter's own name or key.
        """
        check_alias(name)
        entry = self.get(key)
        if taken := [one for one in self.entries() if name in (one.key, one.name) and one.key != entry.key]:
            raise AdaptMTLError(f"{name!r} is the name of adapter {taken[0].key} itself: choose another alias")
        write_atomic(self.names / name, entry.key + "\n")

    def aliases(self) -> dict[str, str]:
        """Returns key by alias, for the adapters that are there."""
        if not self.names.is_dir():
            return {}
        found = {}
        for path in sorted(self.names.iterdir()):
            if _ALIAS.fullmatch(path.name) and (key := _read_alias(path)) and (self.adapters / key).is_dir():
                found[path.name] = key
        return found

    def remove(self, name: str) -> Entry:
        """Deletes an adapter and its aliases; also one whose folder is damaged.

        Args:
            name: the whole name or key, or an alias; the beginning of one is not enough.

        Returns:
            What was deleted.

        Raises:
            UnknownNameError: no adapter is called so.
        """
        entry = self._resolve(name, whole=True)
        aliases = [alias for alias, key in self.aliases().items() if key == entry.key]
        if entry.path.is_symlink():
            entry.path.unlink()
        else:
            with _set_aside(entry.path) as trash:
                shutil.rmtree(trash)
        for alias in aliases:
            (self.names / alias).unlink(missing_ok=True)
        return entry

    def _publish(self, key: str, fill: Callable[[Path], None]) -> Entry:
        final = self.adapters / key
        if final.exists() and not _is_sound(final):
            _quarantine(final)
        if not final.exists():
            with publish_folder(final) as folder:
                fill(folder)
                (folder / CARD).write_text(render_card(read_manifest(folder)), encoding="utf-8")
        return read_entry(final)

    def _resolve(self, name: str, *, whole: bool = False) -> Entry:
        if _KEY.fullmatch(name) and (self.adapters / name).is_dir():  # the common case needs no listing
            return read_entry(self.adapters / name)
        entries = self._index.entries()
        aliases = self.aliases()
        if key := aliases.get(name):
            return entries[key]
        calls = [(alias, entries[key]) for alias, key in aliases.items() if key in entries]
        calls += [(call, one) for one in entries.values() for call in (one.name, one.key)]
        exact = {one.key: one for call, one in calls if call == name}
        begins = {one.key: one for call, one in calls if name and call.startswith(name) and not whole}
        found = exact or begins
        if not found:
            remedy = "'adaptmtl zoo list' shows all" if entries else "the zoo is empty"
            raise UnknownNameError("adapter", name, {call for call, _ in calls}, remedy)
        if len(found) > 1:
            listed = ", ".join(f"{one.name} ({one.key})" for one in list(found.values())[:8])
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise AdaptMTLError(f"adapter {name!r} could be {listed}{more}: give more of the name, or the key")
        return next(iter(found.values()))


def _is_sound(folder: Path) -> bool:
    try:
        return read_bundle(folder).manifest.key == folder.name
    except AdapterError:
        return False


def _read_alias(path: Path) -> str | None:
    try:
        key = path.read_text(encoding="utf-8", errors="replace").strip()
    except (FileNotFoundError, IsADirectoryError):
        return None
    return key if _ALIAS.fullmatch(key) else None


def _quarantine(folder: Path) -> None:
    """Moves a damaged folder out of the way of a sound one, for a person to look at."""
    place = folder.parent.parent / "damaged"
    place.mkdir(parents=True, exist_ok=True)
    folder.replace(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=place))


@contextmanager
def _set_aside(folder: Path) -> Iterator[Path]:
    """Renames a folder so that it is gone at once, however long deleting it takes."""
    trash = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent))
    folder.replace(trash)
    yield trash
