"""The document and the code say the same: every table of docs/container-format.md against our layouts."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import orjson
import pytest

from cdp_container.format import keys, layout, limits, seal
from cdp_container.format.credentials import CREDENTIALS_INFO
from cdp_container.format.keyblock import PASSPHRASE_CHECK_INFO, PASSPHRASE_WRAP_INFO, RECIPIENT_INFO
from cdp_container.format.layout import Layout, ObjectKind
from tests.unit.format import samples

DOCUMENT = (Path(__file__).parents[3] / "docs" / "container-format.md").read_text()
CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q", "i64": "q"}
Row = list[str]


def table(document: str, heading: str, first_column: str) -> list[Row]:
    """The cells of the first table below a heading whose first column is so named."""
    _, below = re.split(rf"^#+ {re.escape(heading)}$", document, maxsplit=1, flags=re.MULTILINE)
    body = re.split(r"^#", below, maxsplit=1, flags=re.MULTILINE)[0]
    lines = body[body.index(f"\n| {first_column} |") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def differences(document: str, found: Layout) -> list[str]:
    """What the document's table says otherwise than the layout."""
    rows = table(document, found.heading, "offset")
    wrong = []
    offset = 0
    for row, field in zip(rows, found.fields, strict=False):
        said = (int(row[0]), int(row[1]), row[2], row[3])
        if said != (offset, field.size_bytes, field.type, field.name):
            wrong.append(f"{found.heading}: {said}, but {field} at {offset}")
        offset += field.size_bytes
    code = "".join(f"{row[1]}s" if row[2] == "bytes" else CODES[row[2]] for row in rows)
    if len(rows) != len(found.fields) or struct.calcsize("<" + code) != found.size_bytes:
        wrong.append(f"{found.heading}: {len(rows)} rows, but {len(found.fields)} fields")
    return wrong


@pytest.mark.parametrize("found", layout.LAYOUTS, ids=lambda found: found.heading)
def test_layouts_are_those_of_the_document(found: Layout) -> None:
    assert differences(DOCUMENT, found) == []


@pytest.mark.parametrize("found", layout.LAYOUTS, ids=lambda found: found.heading)
def test_any_altered_row_is_noticed(found: Layout) -> None:
    for row in table(DOCUMENT, found.heading, "offset"):
        line = f"| {row[0]} | {row[1]} | {row[2]} | {row[3]} |"
        for altered in (
            f"| {row[0]} | {row[1]} | {row[2]} | {row[3]}x |",
            f"| {row[0]} | {int(row[1]) + 1} | {row[2]} | {row[3]} |",
            f"| {int(row[0]) + 1} | {row[1]} | {row[2]} | {row[3]} |",
            f"| {row[0]} | {row[1]} | {'bytes' if row[2] != 'bytes' else 'u64'} | {row[3]} |",
        ):
            at = DOCUMENT.index(f"### {found.heading}\n")
            document = DOCUMENT[:at] + DOCUMENT[at:].replace(line, altered, 1)
            assert differences(document, found), altered


def test_every_table_of_bytes_has_a_layout() -> None:
    tables = DOCUMENT.count("| offset | size | type | field | meaning |")
    assert tables == len(layout.LAYOUTS)


def test_limits() -> None:
    said = {row[0]: int(row[1]) for row in table(DOCUMENT, "7. Limits", "name")}
    assert said == {name: value for name, value in vars(limits).items() if name.isupper()}


def test_parts() -> None:
    said = {}
    for name, rows, where in table(DOCUMENT, "Part row", "name"):
        said[name.strip("`")] = (
            rows,
            frozenset(ObjectKind[kind.strip().upper()] for kind in where.split(",")),
        )
    assert list(said) == [part.name for part in layout.PARTS]
    headings = {found.heading.removesuffix(" row").lower(): found.size_bytes for found in layout.LAYOUTS}
    for part in layout.PARTS:
        rows, kinds = said[part.name]
        assert part.kinds == kinds
        size = re.match(r"(\d+) bytes", rows)
        if size:
            assert part.row_bytes == int(size[1])
        elif rows.startswith("bytes"):
            assert part.row_bytes == 1
        else:
            assert part.row_bytes == headings[rows.removesuffix(" rows")]


def test_record_kinds() -> None:
    rows = table(DOCUMENT, "Record row", "name")
    assert {row[0].strip("`"): row[1] == "yes" for row in rows} == layout.RECORD_KINDS


def meanings(heading: str, field: str) -> dict[int, str]:
    """`1 data (…), 2 zero (…)` in the meaning of a field, as a mapping."""
    row = next(row for row in table(DOCUMENT, heading, "offset") if row[3] == field)
    plain = re.sub(r"\(.*?\)|:.*", "", row[4])
    return {int(number): name.strip() for number, name in re.findall(r"(\d+) ([A-Za-z0-9- ]+)", plain)}


def test_numbers_of_kinds_codecs_and_ciphers() -> None:
    kinds = {kind.value: kind.name.lower().replace("_", " ") for kind in ObjectKind}
    assert meanings("Preamble", "kind") | meanings("Entry row", "kind") == kinds
    runs = {kind.value: kind.name.lower().replace("_", " ") for kind in layout.RunKind}
    assert meanings("Run row", "kind") == runs
    assert meanings("Extent row", "kind") == {kind.value: kind.name.lower() for kind in layout.ExtentKind}
    assert meanings("Preamble", "cipher") == {0: "none", 1: "AES-256-GCM"}
    assert "Codecs: 0 as it is, 1 zstd." in DOCUMENT
    assert [codec.value for codec in layout.Codec] == [0, 1]
    row = next(row for row in table(DOCUMENT, "Preamble", "offset") if row[3] == "magic")
    assert f"`{layout.OBJECT_MAGIC.hex(' ')}`" in row[4]


def test_infos_of_derived_keys() -> None:
    infos = (
        seal.INDEX_KEY_INFO, seal.CONTENT_KEY_INFO, seal.FRAMES_INFO, seal.INDEX_INFO,
        RECIPIENT_INFO, PASSPHRASE_CHECK_INFO, PASSPHRASE_WRAP_INFO, CREDENTIALS_INFO,
    )  # fmt: skip
    assert {info.decode() for info in infos} == set(re.findall(r"cdp [a-z ]+ v1", DOCUMENT))


def test_keys() -> None:
    shapes = {row[0].strip("`") for row in table(DOCUMENT, "1. Keys", "key")}
    assert shapes == {
        keys.OWNER_KEY,
        keys.HOLDS_KEY,
        keys.EPOCHS_PREFIX + "<epoch>",
        keys.CONFIG_PREFIX + "<digest>",
        keys.REQUESTS_PREFIX + "<id>",
        keys.GC_PREFIX + "<epoch>/<n>",
        keys.GC_PREFIX + "<epoch>/final-<n>",
        keys.LOG_PREFIX + "<epoch>/<seq>",
        keys.PACKS_PREFIX + "<epoch>/<n>",
        keys.PACKS_PREFIX + "<epoch>/ledger-<n>",
        keys.CATALOG_PREFIX + "<epoch>/<level>-<n>",
    }


@pytest.mark.parametrize("key", samples.domain_objects())
def test_members_of_objects_under_domain(key: str) -> None:
    names = {"config": "config/<digest>", "epochs": "epochs/<epoch>", "requests": "requests/<id>"}
    names |= {"gc": "gc/<epoch>/<n>", "final": "gc/<epoch>/final-<n>"}
    name = names.get(samples.name_of(key), samples.name_of(key))
    paragraph = re.split(r"\n- |\n\n|An entry", DOCUMENT.split(f"\n- `{name}`: ")[1])[0]
    spans = re.findall(r"`([^`]+)`", re.sub(r"\([^)]*\)", "", paragraph))
    members = {match[1] for span in spans if (match := re.match(r"([a-z_]+)(?:$|:)", span))}
    written = orjson.loads(samples.domain_objects()[key])
    assert set(written) == members
