"""Any bytes, and sound objects with a little noise: a typed error or a sound object, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.errors import CdpError
from cdp_container.format import head
from cdp_container.format.index import Index, parse_index
from cdp_container.format.keyblock import parse_key_block
from cdp_container.format.layout import Codec, ObjectKind
from cdp_container.format.preamble import parse_preamble, preamble_need
from cdp_container.format.records import record_value
from tests.unit.format import samples
from tests.unit.format.samples import DOMAIN

KINDS = [ObjectKind.SEGMENT, ObjectKind.PACK, ObjectKind.CATALOG, ObjectKind.LEDGER]
MUTATIONS = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4
)


def refused_or_sound(parse: Callable[[], object]) -> None:
    with contextlib.suppress(CdpError):
        parse()


def mutate(data: bytes, mutations: list[tuple[int, bytes]]) -> bytes:
    mutated = bytearray(data)
    for at, noise in mutations:
        at %= len(mutated)
        mutated[at : at + len(noise)] = noise
    return bytes(mutated)


def look_everywhere(index: Index) -> None:
    """A parsed index may be trusted: nothing that reads it fails."""
    for extent in index.iter_extents():
        assert extent.frame is None or extent.position + extent.length <= index.frame(extent.frame).raw_length
    for frame in index.iter_frames():
        if frame.seal is not None:
            key = index.seal(frame.seal).key
            assert key is None or len(index.wrapped_key(key)) == 80
    list(index.iter_orders())
    list(index.iter_entries())
    list(index.iter_runs())
    for record in index.iter_records():
        refused_or_sound(lambda record=record: record_value(record, "k"))  # type: ignore[misc]


@given(st.binary(max_size=1000))
def test_any_bytes(data: bytes) -> None:
    for kind in KINDS:
        refused_or_sound(lambda kind=kind: parse_index(data, kind, 0, "k"))  # type: ignore[misc]
    refused_or_sound(lambda: parse_preamble(data, "k"))
    refused_or_sound(lambda: head.head_need(data, "k"))
    refused_or_sound(lambda: head.check_object(data, "k", DOMAIN))
    refused_or_sound(lambda: parse_key_block(data, "k"))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(samples.BUILDERS)), MUTATIONS)
def test_mutated_index(kind: str, mutations: list[tuple[int, bytes]]) -> None:
    built = SOUND[kind]
    preamble = parse_preamble(built.data, built.key)
    _, raw = head.open_sections(built.data, preamble, built.key, samples.reader(False))

    def parse() -> None:
        look_everywhere(parse_index(mutate(raw, mutations), preamble.kind, preamble.frames_stored, "k"))

    refused_or_sound(parse)


SOUND = {kind: build(False, Codec.NONE) for kind, build in samples.BUILDERS.items()}


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(samples.BUILDERS)), MUTATIONS)
def test_mutated_preamble_with_a_right_digest(kind: str, mutations: list[tuple[int, bytes]]) -> None:
    built = SOUND[kind]
    length = preamble_need(built.data, built.key)
    body = mutate(built.data[: length - 32], mutations)
    data = body + hashlib.sha256(body).digest() + built.data[length:]

    def parse() -> None:
        opened = head.open_head(data, built.key, None, samples.reader(False))
        look_everywhere(opened.index)

    refused_or_sound(parse)
    refused_or_sound(lambda: head.check_object(data, built.key, None))


@settings(max_examples=200, deadline=None)
@given(MUTATIONS)
def test_mutated_key_block(mutations: list[tuple[int, bytes]]) -> None:
    refused_or_sound(lambda: parse_key_block(mutate(samples.key_block(), mutations), "k"))


@pytest.mark.parametrize("filler", [b"\0", b"\xff", b"CDPI\x40\0\0\0"])
def test_large_nonsense_takes_little_memory(filler: bytes) -> None:
    raw = (b"CDPI\1\0\0\0" + filler * (1 << 20))[: 1 << 20]
    tracemalloc.start()
    try:
        for kind in KINDS:
            refused_or_sound(lambda kind=kind: parse_index(raw, kind, 0, "k"))  # type: ignore[misc]
        refused_or_sound(lambda: head.check_object(raw, "k", DOMAIN))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 << 20
