"""Keys: written, read back, and everything else ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp_container.format import keys
from cdp_container.format.keys import KeyKind, ParsedKey, parse_key

EPOCHS = st.integers(1, keys.EPOCH_MAX)
NUMBERS = st.integers(1, keys.NUMBER_MAX)


def test_keys_as_the_document_writes_them() -> None:
    assert keys.segment_key(3, 17) == "log/0000000003/000000000017"
    assert keys.pack_key(3, 17) == "packs/0000000003/000000000017"
    assert keys.ledger_key(3, 17) == "packs/0000000003/ledger-000000000017"
    assert keys.catalog_key(3, 1, 17) == "catalog/0000000003/1-000000000017"
    assert keys.epoch_key(3) == "domain/epochs/0000000003"
    assert keys.gc_key(3, 17) == "domain/gc/0000000003/000000000017"
    assert keys.gc_final_key(3, 17) == "domain/gc/0000000003/final-000000000017"
    assert keys.config_key(b"\xab" * 32) == "domain/config/" + "ab" * 32
    assert keys.segment_key(3, 17).startswith(keys.log_prefix(3))


@given(EPOCHS, NUMBERS, st.integers(0, 9))
def test_keys_come_back(epoch: int, number: int, level: int) -> None:
    assert parse_key(keys.segment_key(epoch, number)) == ParsedKey(KeyKind.SEGMENT, epoch, number)
    assert parse_key(keys.pack_key(epoch, number)) == ParsedKey(KeyKind.PACK, epoch, number)
    assert parse_key(keys.ledger_key(epoch, number)) == ParsedKey(KeyKind.LEDGER, epoch, number)
    assert parse_key(keys.catalog_key(epoch, level, number)) == ParsedKey(
        KeyKind.CATALOG, epoch, number, level
    )
    assert parse_key(keys.epoch_key(epoch)) == ParsedKey(KeyKind.EPOCH_RECORD, epoch)
    assert parse_key(keys.gc_key(epoch, number)) == ParsedKey(KeyKind.GC, epoch, number)
    assert parse_key(keys.gc_final_key(epoch, number)) == ParsedKey(KeyKind.GC_FINAL, epoch, number)


def test_keys_without_numbers() -> None:
    assert parse_key("domain/owner") == ParsedKey(KeyKind.OWNER)
    assert parse_key("domain/holds") == ParsedKey(KeyKind.HOLDS)
    assert parse_key("domain/requests/x-1") == ParsedKey(KeyKind.REQUEST, name="x-1")
    assert parse_key("domain/config/" + "0a" * 32) == ParsedKey(KeyKind.CONFIG, name="0a" * 32)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "log/0000000003/000000000000",
        "log/0000000000/000000000001",
        "log/3/000000000001",
        "log/0000000003/00000000001",
        "log/0000000003/0000000000011",
        "log/0000000003/000000000001\n",
        "log/0000000003/00000000000\u0661",
        "log/0000000003/000000000001/x",
        "/log/0000000003/000000000001",
        "catalog/0000000003/x-000000000001",
        "packs/0000000003/ledger-",
        "domain/config/" + "0A" * 32,
        "domain/owner/x",
        "domain/requests/",
        "domain/../log/0000000003/000000000001",
    ],
)
def test_other_keys_are_unknown(key: str) -> None:
    assert parse_key(key) is None


@given(st.text())
def test_any_text_is_a_key_or_unknown(key: str) -> None:
    parse_key(key)


@pytest.mark.parametrize("number", [0, -1, keys.NUMBER_MAX + 1])
def test_numbers_that_no_key_has(number: int) -> None:
    with pytest.raises(AssertionError):
        keys.segment_key(1, number)
