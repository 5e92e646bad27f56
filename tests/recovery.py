"""A recovery site for tests: what the independent reader makes of a store that holds a container.

It has nothing of the site that wrote: only the store and the passphrase.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

from cdp_container.format.keys import LOG_PREFIX
from cdp_container.format.place import Place
from cdp_container.format.preamble import parse_preamble
from cdp_container.store.api import Store
from tests.reader import Container, Cut, Layer, Object, ReaderError

DECODED_BYTES_MAX = 64 << 20
"""Of objects that are kept decoded; those beyond are decoded each time."""


class Decoded(Container):
    """Decodes an object once: whoever judges every cut asks for those before it each time."""

    def __init__(
        self, read: Callable[[str], bytes], list_keys: Callable[[], list[str]], passphrase: str | None
    ) -> None:
        self._decoded: dict[str, Object] = {}
        self._room_bytes = DECODED_BYTES_MAX
        super().__init__(read, list_keys, passphrase)

    def get(self, key: str, digest: str | None = None) -> Object:
        if key in self._decoded:
            self.kept = {key: self._decoded[key]}
        found = super().get(key, digest)
        if key not in self._decoded and len(found.data) <= self._room_bytes:
            self._decoded[key] = found
            self._room_bytes -= len(found.data)
        return found


class Recovery:
    """A container as it stands now; what is put later does not show."""

    def __init__(self, store: Store, passphrase: str | None = None) -> None:
        keys = [found.key for found in store.list("")]
        self._container = Decoded(lambda key: store.get(key).data, lambda: keys, passphrase)
        self._cuts: dict[Place, Cut] = {}
        for key in keys:
            if key.startswith(LOG_PREFIX):
                preamble = parse_preamble(store.get(key).data, key)
                if preamble.complete:
                    self._add(preamble.place)

    def _add(self, place: Place) -> None:
        """Take a cut that was written, if it counts."""
        try:
            cut = self._container.cut(place.epoch, place.cut)
        except ReaderError:
            return
        if _place(cut) == place:
            self._cuts[place] = cut

    @property
    def cuts(self) -> list[Place]:
        """Every complete cut that counts, oldest first."""
        return sorted(self._cuts)

    @property
    def newest(self) -> Place:
        """The cut that is restored where nothing else is said."""
        return _place(self._container.newest_cut())

    def markers(self) -> dict[str, Place]:
        """The cuts that have names."""
        of_cuts = {name: place for place in self.cuts for name in getattr(self._cuts[place], "names", ())}
        listed: dict[str, Any] = getattr(self._container, "markers", dict)()
        return of_cuts | {name: Place(*getattr(cut, "place", cut)) for name, cut in listed.items()}

    def is_whole(self, space: bytes, place: Place) -> bool:
        """Whether a volume is whole at a cut."""
        return space not in self._cuts[place].not_whole

    def tree(self, tree: bytes, place: Place) -> dict[bytes, tuple[dict[str, Any], bytes]]:
        """The names of a tree at a cut: what is said of each, and a file's content."""
        names: dict[bytes, dict[str, Any]] = {}
        history = self._container.history(self._cuts[place].place)
        for layer in history:
            found = self._container.get(layer.key)
            for name, _, order, key_at, key_bytes, value_at, value_bytes in found.rows[b"records"]:
                key = found.parts[b"blob"][key_at : key_at + key_bytes]
                if order != layer.row or key[:16] != tree:
                    continue
                match name.rstrip(b"\0"):
                    case b"name+":
                        value = found.parts[b"blob"][value_at : value_at + value_bytes]
                        names[key[16:]] = json.loads(value)
                    case b"name-":
                        names.pop(key[16:], None)
                    case b"tree-":
                        names.clear()
        return {path: (value, self._content(history, value)) for path, value in names.items()}

    def skewed(self) -> set[tuple[int, int]]:
        """The cuts (epoch and number) that name files which changed while they were taken."""
        found = set()
        for layer in self._container.history(self._cuts[self.newest].place):
            read = self._container.get(layer.key)
            for name, _, _, key_at, key_bytes, _, _ in read.rows[b"records"]:
                if name.rstrip(b"\0") == b"skew":
                    found.add(struct.unpack("<QQ", read.parts[b"blob"][key_at : key_at + key_bytes]))
        return found

    def _content(self, history: list[Layer], value: dict[str, Any]) -> bytes:
        target = BytesIO()
        size_bytes: int = value.get("size_bytes") or 0
        if value.get("space"):
            for _, layers in itertools.groupby(history, lambda layer: layer.place[:2]):
                self._container.apply(list(layers), bytes.fromhex(value["space"]), target)
        return target.getvalue()[:size_bytes].ljust(size_bytes, b"\0")

    def restored(self, volume: str, place: Place | None = None) -> bytes:
        """A volume as it was at a cut, by default the newest."""
        target = BytesIO()
        cut = self._cuts[self.newest if place is None else place]
        size_bytes = self._container.restore(volume, target, cut)
        return target.getvalue().ljust(size_bytes, b"\0")


def _place(cut: Cut) -> Place:
    epoch, number, seq = cut.place
    return Place(epoch, number, seq)
