"""A page that a person wrote, checked against what it may say: all faults at once, each with its place. PURE.

What a page may say is a model of pydantic; which words tell a fault is in `config_words`.
"""

from __future__ import annotations

import difflib
import typing
from collections.abc import Collection, Mapping
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from cdp_container.domain.config_words import fault_words
from cdp_container.domain.yaml_page import PagePlace, dotted, load_page
from cdp_container.errors import ConfigInvalid

PAGE_BYTES_MAX: Final = 1024 * 1024
"""What people write is a page or two; beyond this it is not one."""
FAULTS_SHOWN_MAX: Final = 50
"""Past this many faults a reader starts over anyway."""

_Model = TypeVar("_Model", bound=BaseModel)


def parse_page(
    model: type[_Model],
    text: bytes,
    name: str,
    example: str,
    hint: str | None = None,
    secretive: Collection[PagePlace] = (),
) -> tuple[_Model, dict[PagePlace, int]]:
    """What a page says, and the line of every place in it.

    Args:
        model: what it may say.
        text: of the page.
        name: what faults call it.
        example: a line of such a page.
        hint: of the error.
        secretive: keys at the top; what stands below them is never repeated.

    Raises ConfigInvalid with every fault.
    """
    if len(text) > PAGE_BYTES_MAX:
        raise ConfigInvalid(f"{name} is refused", f"it is larger than {PAGE_BYTES_MAX} bytes", hint)
    document, lines, faults = load_page(text, name, hint)
    try:
        found = model.model_validate(document)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            place: PagePlace = tuple(detail["loc"])
            reason = _reason(detail, place, model, example, place[:1] not in secretive)
            faults.append(f"{name}:{line_of(place, lines)}: {dotted(place)}: {reason}")
    else:
        if not faults:
            return found, lines
    shown = faults[:FAULTS_SHOWN_MAX]
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    raise ConfigInvalid(f"{name} is refused", "\n".join(["", *shown]), hint)


def line_of(place: PagePlace, lines: Mapping[PagePlace, int]) -> int:
    """The line of a place, or of the nearest place around it."""
    return next((lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in lines), 1)


def _reason(
    detail: ErrorDetails, place: PagePlace, model: type[BaseModel], example: str, may_show: bool
) -> str:
    if detail["type"] == "extra_forbidden":
        known = sorted(_model_at(model, place[:-1]).model_fields)
        near = difflib.get_close_matches(str(place[-1]), known, n=1)
        return "unknown key" + (f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})")
    if detail["type"] in ("model_type", "dict_type", "model_attributes_type"):
        return f"must be keys and values, like `{example}`"
    if detail["type"] == "missing":
        return "is missing"
    key = next((part for part in reversed(place) if isinstance(part, str)), "")
    return fault_words(detail["type"], detail["msg"], detail["input"], detail.get("ctx", {}), key, may_show)


def _model_at(model: type[BaseModel], place: PagePlace) -> type[BaseModel]:
    """The model of what stands at a place; keys of mappings and numbers of items lead to what is in them."""
    for part in place:
        field = model.model_fields.get(str(part))
        inner = None if field is None else _inner(field.annotation)
        model = model if inner is None else inner
    return model


def _inner(annotation: object) -> type[BaseModel] | None:
    parts = typing.get_args(annotation)
    if not parts:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return annotation
        return None
    return next((one for one in map(_inner, parts) if one is not None), None)
