"""Pages of YAML that people write: read into plain values, with the line of every place in them. PURE.

What makes a small page a large document is refused before anything is built from it. What a page must say
does not belong here (settings and their kin).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, TypeAlias

import yaml

from cdp_container.domain.config_words import yaml_words
from cdp_container.errors import ConfigInvalid

NESTING_MAX: Final = 16
"""No key of ours lies deeper than 4; the parser's time grows with the square of the depth."""

_OPENING: Final = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_CLOSING: Final = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

PagePlace: TypeAlias = tuple[str | int, ...]
"""Keys, and numbers of entries, from the top of a page on."""


def load_page(
    text: bytes, name: str, hint: str | None = None
) -> tuple[object, dict[PagePlace, int], list[str]]:
    """The document, the line of every place in it, and the faults of YAML that pydantic cannot see.

    Raises ConfigInvalid: it is no YAML, or not such as we read.
    """
    try:
        _refuse_bombs(text, name, hint)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{name} is refused", f"it is not YAML: {yaml_words(error)}", hint) from error
    lines: dict[PagePlace, int] = {}
    faults: list[str] = []
    for place, line, twice in _walk(root, ()):
        lines[place] = line
        if twice:
            faults.append(f"{name}:{line}: {dotted(place)}: stands there twice")
    return document, lines, faults


def _refuse_bombs(text: bytes, name: str, hint: str | None) -> None:
    """Refuse what makes a small page a large document, before anything is built from it."""
    depth = 0
    for token in yaml.scan(text):
        line = token.start_mark.line + 1
        if isinstance(token, yaml.AliasToken | yaml.AnchorToken):
            raise ConfigInvalid(
                f"{name} is refused", f"line {line}: anchors and aliases are not allowed", hint
            )
        if isinstance(token, _OPENING):
            depth += 1
        elif isinstance(token, _CLOSING):
            depth -= 1
        if depth > NESTING_MAX:
            raise ConfigInvalid(f"{name} is refused", f"line {line}: nested deeper than {NESTING_MAX}", hint)


def _walk(node: yaml.Node | None, place: PagePlace) -> Iterator[tuple[PagePlace, int, bool]]:
    if node is None:
        return
    yield place, node.start_mark.line + 1, False
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                yield (*place, name), key.start_mark.line + 1, True
            seen.add(name)
            yield from _walk(value, (*place, name))
            yield (*place, name), key.start_mark.line + 1, False
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, (*place, index))


def dotted(place: PagePlace) -> str:
    """A place as messages show it."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "(top)"
