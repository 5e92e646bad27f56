"""Typed access to the members of a JSON object.

Each getter returns what its name says or raises DamagedObject. Numbers are integers, bytes are hex. Which
members an object has does not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cdp_container.errors import DamagedObject, NewerFormat
from cdp_container.format.jsontext import JsonObject
from cdp_container.format.place import Place, is_place

U64_MAX: Final = 2**64 - 1
I64_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Members:
    """The members of one object; `what` names it in errors."""

    members: JsonObject
    what: str

    def format_at_most(self, newest: int) -> None:
        """NewerFormat where the member `format` is above `newest`."""
        version = self.number("format")
        if version > newest:
            raise NewerFormat(self.what, f"it is of format {version}, and this release knows {newest}")
        if version < 1:
            raise self.fault("format", "is not a format")

    def magic(self, expected: str) -> None:
        """DamagedObject where the member `magic` is another."""
        if self.text("magic") != expected:
            raise self.fault("magic", f"is not {expected!r}")

    def number(self, name: str, most: int = U64_MAX, least: int = 0) -> int:
        """An integer from `least` to `most`."""
        value = self._get(name)
        if type(value) is not int or not least <= value <= most:
            raise self.fault(name, "is not a whole number, or out of range")
        return value

    def time_ns(self, name: str) -> int:
        """Nanoseconds since 1970; negative before."""
        value = self._get(name)
        if type(value) is not int or not -I64_MAX - 1 <= value <= I64_MAX:
            raise self.fault(name, "is not a time in nanoseconds")
        return value

    def time_ns_or_none(self, name: str) -> int | None:
        """A time, or None for null."""
        return None if self._get(name) is None else self.time_ns(name)

    def text(self, name: str) -> str:
        """A string."""
        value = self._get(name)
        if not isinstance(value, str):
            raise self.fault(name, "is not a string")
        return value

    def text_or_none(self, name: str) -> str | None:
        """A string, or None for null."""
        return None if self._get(name) is None else self.text(name)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._get(name)
        if not isinstance(value, bool):
            raise self.fault(name, "is not true or false")
        return value

    def bytes(self, name: str, length: int) -> bytes:
        """Exactly `length` bytes, from lower-case hex."""
        text = self.text(name)
        try:
            value = bytes.fromhex(text)
        except ValueError as error:
            raise self.fault(name, "is not hex") from error
        if len(value) != length or value.hex() != text:
            raise self.fault(name, f"is not {length} bytes in hex")
        return value

    def place(self, name: str) -> Place:
        """A place: a cut, or none."""
        inner = self.object(name)
        place = Place(inner.number("epoch"), inner.number("cut"), inner.number("seq"))
        if not is_place(place):
            raise self.fault(name, "is neither a cut nor none")
        return place

    def object(self, name: str) -> Members:
        """An object."""
        value = self._get(name)
        if not isinstance(value, dict):
            raise self.fault(name, "is not an object")
        return Members(value, self.what)

    def object_or_none(self, name: str) -> Members | None:
        """An object, or None for null."""
        return None if self._get(name) is None else self.object(name)

    def objects(self, name: str) -> list[Members]:
        """A list of objects."""
        values = self._list(name)
        if not all(isinstance(value, dict) for value in values):
            raise self.fault(name, "is not a list of objects")
        return [Members(value, self.what) for value in values]

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        values = self._list(name)
        if not all(isinstance(value, str) for value in values):
            raise self.fault(name, "is not a list of strings")
        return tuple(values)

    def fault(self, name: str, why: str) -> DamagedObject:
        """The error of one member."""
        return DamagedObject(self.what, f"its member {name!r} {why}")

    def _list(self, name: str) -> list[Any]:
        value = self._get(name)
        if not isinstance(value, list):
            raise self.fault(name, "is not a list")
        return value

    def _get(self, name: str) -> Any:  # noqa: ANN401  # the getters above decide what it is
        if name not in self.members:
            raise self.fault(name, "is missing")
        return self.members[name]
