"""What is wrong with a configuration, in an administrator's words. PURE.

The libraries that find a fault speak to programmers, and some repeat the lines around it, which may hold a
secret: neither reaches a message. What does not belong here: what is wrong (`settings`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import yaml

from cdp_container.errors import counted

VALUE_CHARACTERS_MAX: Final = 80
NUMBER_SHOWN_MAX: Final = 1e15
"""Beyond it nobody meant the number, and some cannot even be printed."""

_SIZES: Final = (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1))
_RATES: Final = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1))
_DURATIONS: Final = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1), ("ms", 0.001))
_UNITS: Final[Mapping[str, Sequence[tuple[str, float]]]] = {
    "limit": _SIZES,
    "bytes_per_second": _RATES,
    "copy_rate": _RATES,
    "cut_every": _DURATIONS,
    "rpo_target": _DURATIONS,
    "lease": _DURATIONS,
    "timeout": _DURATIONS,
}
"""By key: in what its numbers are written."""

_PATTERNS: Final = {
    "recipients": "is no public key (64 of 0-9 and a-f)",
    "": "is no name (1 to 63 letters, digits, '.', '_' or '-'; the first is a letter or a digit)",
}

# What the parser says, or how it begins; in which words; and whether the fault is where it began to look.
_YAML: Final = (
    ("mapping values are not allowed here", "a ':' too many, or wrong indentation", False),
    ("could not find expected ':'", "a key without ':'", True),
    ("expected <block end>", "wrong indentation", False),
    ("found character '\\t'", "a tab: indent with spaces", False),
    ("found unexpected end of stream", "a quote that is never closed", True),
    ("expected the node content", "a value is missing, or a bracket is never closed", False),
    ("expected ',' or", "a comma is missing, or a bracket is never closed", True),
    ("found character", "a value that begins with this character needs quotes", False),
)


def yaml_words(error: Exception) -> str:
    """Where a page is no YAML, and why; without the lines themselves."""
    if isinstance(error, yaml.reader.ReaderError | UnicodeDecodeError):
        return "it is not text in UTF-8"
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem is None:
        return "it is nested too deeply, or has a value that nothing can be made of"
    problem = error.problem
    for begin, words, is_earlier in _YAML:
        if problem.startswith(begin):
            return f"{_line(error, is_earlier)}{words}"
    return f"{_line(error, False)}{problem}"


def _line(error: yaml.MarkedYAMLError, is_earlier: bool) -> str:
    marks = (error.context_mark, error.problem_mark)
    mark = next((mark for mark in (marks if is_earlier else reversed(marks)) if mark is not None), None)
    return "" if mark is None else f"line {mark.line + 1}: "


def fault_words(
    kind: str, message: str, value: object, limits: Mapping[str, Any], key: str, show: bool
) -> str:
    """One fault of one value.

    Args:
        kind: of the fault, as pydantic names it.
        message: of it; only our own checks' are repeated.
        value: what stands there.
        limits: what the check compares with, pydantic's `ctx`.
        key: the nearest key; an item of a list has its list's.
        show: whether the value may be repeated.
    """
    if value is None and kind != "value_error":
        return "has no value"
    words = _WORDS.get(kind)
    text = message.removeprefix("Value error, ") if words is None else words(limits, key)
    if not show or not isinstance(value, str | int | float | bool):
        return text
    if isinstance(value, str):
        return f"{value[:VALUE_CHARACTERS_MAX]!r} {text}"
    was_converted = kind in ("greater_than_equal", "less_than_equal")
    return f"{_written(value, key if was_converted else '')} {text}"


def _written(value: float, key: str) -> str:
    """A number with the unit that it has in a configuration."""
    if isinstance(value, bool):
        return str(value).lower()
    if not -NUMBER_SHOWN_MAX < value < NUMBER_SHOWN_MAX:
        return "this number"
    for unit, size in _UNITS.get(key, ()):
        count = value / size
        if count >= 1 and round(count, 6) == round(count):
            return f"{count:.0f}{unit}"
    return f"{value:g}"


_WORDS: Final[Mapping[str, Callable[[Mapping[str, Any], str], str]]] = {
    "string_type": lambda _, key: "is no text (put it in quotes)",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), lambda _, key: "is no whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), lambda _, key: "is no number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), lambda _, key: "is neither true nor false"),
    "finite_number": lambda _, key: "is no number",
    "list_type": lambda _, key: "must be a list (one item a line, each behind '- ')",
    "literal_error": lambda limits, key: f"must be {limits['expected']}",
    "string_pattern_mismatch": lambda _, key: _PATTERNS.get(key, _PATTERNS[""]),
    "string_too_short": lambda _, key: "is empty",
    "string_too_long": lambda limits, key: f"is longer than {limits['max_length']} characters",
    "too_short": lambda limits, key: f"needs {counted(limits['min_length'], 'item')} at least",
    "too_long": lambda limits, key: f"has more than {counted(limits['max_length'], 'item')}",
    "greater_than_equal": lambda limits, key: f"is too little: {_written(limits['ge'], key)} or more",
    "less_than_equal": lambda limits, key: f"is too much: {_written(limits['le'], key)} or less",
}
