"""XML that somebody else wrote, read into elements: nothing outside of the text is ever looked at. PURE.

Names keep their prefixes as they were written, so a document that is written again means the same. What the
elements mean does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat  # what it must not do is refused below

from cdp_container.errors import CdpError

DEPTH_MAX: Final = 64
"""Elements within elements; a domain has about ten levels."""
ELEMENTS_MAX: Final = 20_000


def load_xml(text: str, fault: Callable[[str], CdpError]) -> Element:
    """The outermost element. Raises what `fault` makes of a reason: no XML, entities, or too much of it."""
    builder = TreeBuilder()
    depth = elements = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, elements
        depth, elements = depth + 1, elements + 1
        if depth > DEPTH_MAX or elements > ELEMENTS_MAX:
            raise fault("it has more elements than a domain has")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> NoReturn:
        raise fault("it has a document type or entities, which no domain has")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as error:
        raise fault(f"it is no XML: {error}") from error
    except UnicodeEncodeError as error:
        raise fault("it is no text") from error
    return builder.close()
