"""The tables of docs/journal-format.md are the code's layouts."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdp_container.journal.block_map import MAP_HEADER_FIELDS
from cdp_container.journal.record import FILE_HEADER_FIELDS, RECORD_FIELDS
from cdp_container.journal.shared import SPLITTER_FIELDS, STREAMER_FIELDS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "journal-format.md").read_text()
TYPES = {"B": "u8", "H": "u16", "I": "u32", "Q": "u64", "q": "i64"}


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("File header", FILE_HEADER_FIELDS),
        ("Record", RECORD_FIELDS),
        ("Map header", MAP_HEADER_FIELDS),
        ("Splitter page", SPLITTER_FIELDS),
        ("Streamer page", STREAMER_FIELDS),
    ],
)
def test_the_table_is_the_layout(title: str, fields: Sequence[tuple[str, str]]) -> None:
    at, layout = 0, []
    for name, code in fields:
        size = struct.calcsize("<" + code)
        layout.append((str(at), str(size), TYPES.get(code, "bytes"), name))
        at += size
    section = DOCUMENT.split(f"### {title}\n")[1].split("\n#")[0]
    assert re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \| (\w+) \|", section, re.MULTILINE) == layout
