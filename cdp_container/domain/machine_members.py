"""The members of a description as JSON has them, each with its type and its limit. PURE.

Which members there are, and what they mean, does not belong here (`machine`).
"""

from __future__ import annotations

import enum
from typing import Any, Final, TypeVar

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.jsontext import JsonObject
from cdp_container.format.layout import ID_BYTES

TEXT_CHARS_MAX: Final = 4_096
"""Of one text; a note may be longer."""
WORDS_MAX: Final = 1_000
"""Entries of one list of text."""

_Choice = TypeVar("_Choice", bound=enum.StrEnum)


class Said:
    """The members of one object of a description; what is asked for counts as known."""

    def __init__(self, members: JsonObject, what: str) -> None:
        self._members = members
        self._what = what
        self._known: set[str] = set()

    def fault(self, name: str, why: str) -> DamagedObject:
        """The error of one member."""
        return DamagedObject(self._what, f"its member {name!r} {why}")

    def unknown(self) -> dict[str, Any]:
        """The members that nothing was asked of."""
        return {name: value for name, value in self._members.items() if name not in self._known}

    def text(self, name: str, left_out: str | None = None, chars_max: int = TEXT_CHARS_MAX) -> str:
        """Printable text, line breaks aside; where it is left out, `left_out`, if there is one."""
        value = self._get(name)
        if value is None and left_out is not None:
            return left_out
        return self._checked(name, value, chars_max)

    def text_or_none(self, name: str, chars_max: int = TEXT_CHARS_MAX) -> str | None:
        """The same, None for null and what is left out."""
        value = self._get(name)
        return None if value is None else self._checked(name, value, chars_max)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of text."""
        return tuple(self._checked(name, value, TEXT_CHARS_MAX) for value in self._list(name, WORDS_MAX))

    def number(self, name: str, most: int, least: int, left_out: int) -> int:
        """A whole number from `least` to `most`."""
        found = self.number_or_none(name, most, least)
        return left_out if found is None else found

    def number_or_none(self, name: str, most: int, least: int) -> int | None:
        """The same, None for null and what is left out."""
        value = self._get(name)
        if value is None:
            return None
        if type(value) is not int or not least <= value <= most:
            raise self.fault(name, "is no whole number, or out of range")
        return value

    def flag(self, name: str) -> bool:
        """True or false; false where it is left out."""
        value = self._get(name)
        if value is not None and not isinstance(value, bool):
            raise self.fault(name, "is not true or false")
        return bool(value)

    def id_or_none(self, name: str) -> bytes | None:
        """An id in lower-case hex."""
        text = self.text_or_none(name)
        if text is None:
            return None
        try:
            found = bytes.fromhex(text)
        except ValueError:
            found = b""
        if len(found) != ID_BYTES or found.hex() != text:
            raise self.fault(name, "is no id")
        return found

    def choice(self, name: str, kinds: type[_Choice], left_out: _Choice) -> _Choice:
        """One of a few words."""
        value = self._get(name)
        return left_out if value is None else self.choice_of(value, name, kinds)

    def choice_of(self, value: object, name: str, kinds: type[_Choice]) -> _Choice:
        """The word that a value is."""
        if not isinstance(value, str) or value not in {kind.value for kind in kinds}:
            raise self.fault(name, f"is none of {', '.join(kinds)}")
        return kinds(value)

    def object_or_none(self, name: str) -> Said | None:
        """An object, None for null and what is left out."""
        value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.fault(name, "is no object")
        return Said(value, self._what)

    def objects(self, name: str, most: int) -> list[Said]:
        """A list of objects."""
        values = self._list(name, most)
        if not all(isinstance(value, dict) for value in values):
            raise self.fault(name, "is no list of objects")
        return [Said(value, self._what) for value in values]

    def _list(self, name: str, most: int) -> list[Any]:
        value = self._get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.fault(name, "is no list")
        if len(value) > most:
            raise LimitExceeded(self._what, f"its member {name!r} has {len(value)} entries, more than {most}")
        return value

    def _checked(self, name: str, value: object, chars_max: int) -> str:
        if not isinstance(value, str):
            raise self.fault(name, "is no text")
        if len(value) > chars_max:
            raise LimitExceeded(self._what, f"its member {name!r} has {len(value)} characters")
        if "\0" in value:
            raise self.fault(name, "has a zero byte")
        return value

    def _get(self, name: str) -> Any:  # noqa: ANN401  # the getters above decide what it is
        self._known.add(name)
        return self._members.get(name)
