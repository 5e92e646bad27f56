"""The key block: opened by passphrase and by recipient; a wrong passphrase is told from a damaged block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cdp_container.errors import DamagedObject, KeyMissing, LimitExceeded, NewerFormat, WrongPassphrase
from cdp_container.format import keyblock, limits
from cdp_container.format.keyblock import KeyBlock, open_with_passphrase, open_with_recipient, parse_key_block
from tests.unit.format.samples import (
    CHEAP,
    DOMAIN,
    PASSPHRASE,
    PRIVATE_KEY,
    PUBLIC_KEY,
    RECIPIENT_PRIVATE,
    fixed,
    key_block,
)


def altered(wrap: int | None = None, **members: Any) -> KeyBlock:  # noqa: ANN401
    """The sample block with other members, of one of its wraps or of itself."""
    block = orjson.loads(key_block())
    (block if wrap is None else block["wraps"][wrap]).update(members)
    return parse_key_block(orjson.dumps(block), "k")


def flipped(text: str) -> str:
    return f"{int(text[0], 16) ^ 1:x}" + text[1:]


def test_both_ways_open() -> None:
    block = parse_key_block(key_block(), "k")
    assert open_with_passphrase(block, PASSPHRASE, DOMAIN, "k") == PRIVATE_KEY
    assert open_with_recipient(block, RECIPIENT_PRIVATE, DOMAIN, "k") == PRIVATE_KEY
    assert keyblock.key_check(block.public) == keyblock.key_check(PUBLIC_KEY)


def test_the_second_passphrase_opens_too() -> None:
    wraps = [
        keyblock.wrap_for_passphrase(PRIVATE_KEY, text, DOMAIN, fixed(text, 16), fixed(text, 12), CHEAP)
        for text in ("first", "zweites Wört")
    ]
    block = parse_key_block(keyblock.build_key_block(PUBLIC_KEY, wraps), "k")
    assert open_with_passphrase(block, "zweites Wört", DOMAIN, "k") == PRIVATE_KEY


@pytest.mark.parametrize("passphrase", ["", "correct horse", PASSPHRASE + " ", "\udcff"])
def test_wrong_passphrase(passphrase: str) -> None:
    with pytest.raises(WrongPassphrase) as raised:
        open_with_passphrase(parse_key_block(key_block(), "k"), passphrase, DOMAIN, "k")
    assert PASSPHRASE not in str(raised.value)


def test_right_passphrase_and_damaged_block() -> None:
    sealed = orjson.loads(key_block())["wraps"][0]["sealed"]
    for block in (altered(0, sealed=flipped(sealed)), altered(0, nonce="00" * 12), altered(public="11" * 32)):
        with pytest.raises(DamagedObject):
            open_with_passphrase(block, PASSPHRASE, DOMAIN, "k")
    with pytest.raises(DamagedObject):
        open_with_passphrase(parse_key_block(key_block(), "k"), PASSPHRASE, bytes(16), "k")


def test_damaged_recipient() -> None:
    sealed = orjson.loads(key_block())["wraps"][1]["sealed"]
    for block in (
        altered(1, sealed=flipped(sealed)),
        altered(1, sealed="00" * 80),
        altered(public="11" * 32),
    ):
        with pytest.raises(DamagedObject):
            open_with_recipient(block, RECIPIENT_PRIVATE, DOMAIN, "k")


def test_of_several_wraps_of_one_type_any_sound_one_opens() -> None:
    block = parse_key_block(key_block(), "k")
    passphrase_wrap, recipient_wrap = block.wraps
    stranger = keyblock.wrap_for_passphrase(
        fixed("another domain's", 32), PASSPHRASE, DOMAIN, fixed("s", 16), fixed("n", 12), CHEAP
    )
    for wraps in (
        (replace(passphrase_wrap, sealed=bytes(48)), replace(recipient_wrap, sealed=bytes(80)), *block.wraps),
        (stranger, recipient_wrap, passphrase_wrap),
    ):
        several = replace(block, wraps=wraps)
        assert open_with_passphrase(several, PASSPHRASE, DOMAIN, "k") == PRIVATE_KEY
        assert open_with_recipient(several, RECIPIENT_PRIVATE, DOMAIN, "k") == PRIVATE_KEY


def test_no_way_for_this_key() -> None:
    with pytest.raises(KeyMissing):
        open_with_recipient(parse_key_block(key_block(), "k"), fixed("stranger", 32), DOMAIN, "k")
    with pytest.raises(KeyMissing):
        open_with_passphrase(altered(wraps=[]), PASSPHRASE, DOMAIN, "k")


def test_unknown_types_and_members_are_skipped() -> None:
    block = altered(0, type="smartcard")
    assert len(block.wraps) == 1
    assert len(altered(0, kdf="argon2id").wraps) == 1
    assert altered(comment="hello") == parse_key_block(key_block(), "k")


@pytest.mark.parametrize(
    ("cost", "error"),
    [
        ({"n": limits.SCRYPT_N_MAX * 2}, LimitExceeded),
        ({"n": 2**63}, LimitExceeded),
        ({"r": limits.SCRYPT_R_MAX + 1}, LimitExceeded),
        ({"p": limits.SCRYPT_P_MAX + 1}, LimitExceeded),
        ({"n": 1000}, DamagedObject),
        ({"n": 1}, DamagedObject),
        ({"n": 0}, DamagedObject),
        ({"r": 0}, DamagedObject),
        ({"n": -2}, DamagedObject),
        ({"n": 2.0}, DamagedObject),
        ({"p": True}, DamagedObject),
    ],
)
def test_costs_that_no_reader_pays(cost: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        altered(0, **cost)


def test_all_wraps_together_cost_no_more_than_a_reader_pays() -> None:
    """A wrong passphrase is tried on each of them."""
    wrap = orjson.loads(key_block())["wraps"][0]
    dear = wrap | {"n": limits.SCRYPT_N_MAX, "r": limits.SCRYPT_R_MAX, "p": limits.SCRYPT_P_MAX}
    assert len(altered(wraps=[dear] * 2).wraps) == 2
    with pytest.raises(LimitExceeded, match="SCRYPT_WORK_MAX"):
        altered(wraps=[dear] * 2 + [wrap])
    usual = keyblock.ScryptCost()
    most = limits.SCRYPT_WORK_MAX // (usual.n * usual.r * usual.p)
    assert most == limits.KEY_WRAPS_MAX


def test_damaged_members() -> None:
    for wrap, members in (
        (None, {"public": "00"}),
        (None, {"public": 5}),
        (None, {"wraps": {}}),
        (None, {"wraps": [1]}),
        (None, {"format": 0}),
        (0, {"salt": "zz" * 16}),
        (0, {"check": "00" * 7}),
        (0, {"sealed": None}),
        (0, {"type": 1}),
        (1, {"public": "AA" * 32}),
    ):
        with pytest.raises(DamagedObject):
            altered(wrap, **members)


def test_too_large_and_too_new() -> None:
    with pytest.raises(NewerFormat):
        altered(format=2)
    with pytest.raises(LimitExceeded):
        altered(wraps=[{"type": "x"}] * (limits.KEY_WRAPS_MAX + 1))
    with pytest.raises(LimitExceeded):
        altered(comment="x" * limits.KEY_BLOCK_BYTES_MAX)
    wrap = keyblock.wrap_for_recipient(PRIVATE_KEY, PUBLIC_KEY, fixed("e", 32), DOMAIN)
    with pytest.raises(LimitExceeded):
        keyblock.build_key_block(PUBLIC_KEY, [wrap] * (limits.KEY_WRAPS_MAX + 1))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b'{"format": 1}'])
def test_no_key_block(data: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_key_block(data, "k")
