"""The key block: every way to a domain's private key, in clear in each preamble.

See docs/container-format.md, section 5. Made from random values that the caller gives. Asking for a
passphrase, and what the private key opens, does not belong here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from cdp_container.errors import DamagedObject, KeyMissing, LimitExceeded, WrongPassphrase
from cdp_container.format import limits
from cdp_container.format.jsontext import JsonObject, dump_object, load_object
from cdp_container.format.members import Members
from cdp_container.format.seal import KEY_BYTES, hkdf, public_of, unwrap_key, wrap_key

KEY_BLOCK_FORMAT: Final = 1
RECIPIENT_INFO: Final = b"cdp recipient v1"
PASSPHRASE_CHECK_INFO: Final = b"cdp passphrase check v1"
PASSPHRASE_WRAP_INFO: Final = b"cdp passphrase wrap v1"
CHECK_BYTES: Final = 8
NONCE_BYTES: Final = 12
SALT_BYTES: Final = 16
SEALED_KEY_BYTES: Final = KEY_BYTES + 16


@dataclass(frozen=True, slots=True)
class ScryptCost:
    """What trying one passphrase costs: 128 · n · r bytes of memory, and time in proportion to n · r · p."""

    n: int = 2**17
    r: int = 8
    p: int = 1


@dataclass(frozen=True, slots=True)
class PassphraseWrap:
    """The private key, sealed under a passphrase."""

    cost: ScryptCost
    salt: bytes
    check: bytes
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class RecipientWrap:
    """The private key, sealed to the public key of somebody else."""

    public: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class KeyBlock:
    """A domain's public key, and the known ways to its private key (wraps of unknown types are not kept)."""

    public: bytes
    wraps: tuple[PassphraseWrap | RecipientWrap, ...]


def key_check(public_key: bytes) -> str:
    """What a recovery kit prints, so that people can tell which domain a passphrase belongs to."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def wrap_for_passphrase(
    private_key: bytes, passphrase: str, domain: bytes, salt: bytes, nonce: bytes, cost: ScryptCost
) -> PassphraseWrap:
    """Seal the private key under a passphrase; salt (16 bytes) and nonce (12) are fresh random values."""
    assert len(salt) == SALT_BYTES, len(salt)
    assert len(nonce) == NONCE_BYTES, len(nonce)
    check, wrap_key_bytes = _stretch(passphrase, salt, cost, "the new passphrase")
    sealed = AESGCM(wrap_key_bytes).encrypt(nonce, private_key, domain)
    return PassphraseWrap(cost, salt, check, nonce, sealed)


def wrap_for_recipient(
    private_key: bytes, recipient_public: bytes, ephemeral_private: bytes, domain: bytes
) -> RecipientWrap:
    """Seal the private key to a recipient's public key; `ephemeral_private` is 32 fresh random bytes."""
    sealed = wrap_key(private_key, recipient_public, ephemeral_private, domain, RECIPIENT_INFO)
    return RecipientWrap(recipient_public, sealed)


def build_key_block(public_key: bytes, wraps: Sequence[PassphraseWrap | RecipientWrap]) -> bytes:
    """The key block as it stands in preambles.

    Raises:
        LimitExceeded: there are too many wraps.
    """
    data = dump_object(
        {
            "format": KEY_BLOCK_FORMAT,
            "public": public_key.hex(),
            "wraps": [_wrap_members(wrap) for wrap in wraps],
        }
    )
    again = parse_key_block(data, "the key block that is being built")
    assert again == KeyBlock(public_key, tuple(wraps)), "a key block must say what was put into it"
    return data


def parse_key_block(data: bytes, what: str) -> KeyBlock:
    """The key block of a preamble or of a configuration.

    Raises:
        DamagedObject: it is not a key block.
        NewerFormat: it is of a newer format.
        LimitExceeded: it is too long, or asks for more memory or time than a reader gives.
    """
    what = f"{what}, key block"
    members = Members(load_object(data, limits.KEY_BLOCK_BYTES_MAX, what), what)
    members.format_at_most(KEY_BLOCK_FORMAT)
    public = members.bytes("public", KEY_BYTES)
    wraps = members.objects("wraps")
    if len(wraps) > limits.KEY_WRAPS_MAX:
        raise LimitExceeded(what, f"{len(wraps)} wraps (KEY_WRAPS_MAX)")
    parsed = [_parse_wrap(wrap) for wrap in wraps]
    costs = [wrap.cost for wrap in parsed if isinstance(wrap, PassphraseWrap)]
    work = sum(cost.n * cost.r * cost.p for cost in costs)
    if work > limits.SCRYPT_WORK_MAX:
        raise LimitExceeded(what, f"trying a passphrase takes scrypt {work} steps (SCRYPT_WORK_MAX)")
    return KeyBlock(public, tuple(wrap for wrap in parsed if wrap is not None))


def open_with_passphrase(block: KeyBlock, passphrase: str, domain: bytes, what: str) -> bytes:
    """The domain's private key.

    Raises:
        WrongPassphrase: no wrap has this passphrase.
        KeyMissing: the block has no wrap for a passphrase at all.
        DamagedObject: the passphrase is right, and what it seals is nowhere what was written.
    """
    wraps = [wrap for wrap in block.wraps if isinstance(wrap, PassphraseWrap)]
    if not wraps:
        raise KeyMissing(what, "its key is not under a passphrase, only under keys of recipients")
    damaged: DamagedObject | None = None
    for wrap in wraps:
        check, wrap_key_bytes = _stretch(passphrase, wrap.salt, wrap.cost, what)
        if not hmac.compare_digest(check, wrap.check):
            continue
        try:
            private_key = AESGCM(wrap_key_bytes).decrypt(wrap.nonce, wrap.sealed, domain)
            return _proven(private_key, block, what)
        except InvalidTag:
            damaged = DamagedObject(what, "the passphrase is right, but the key under it is damaged")
        except DamagedObject as error:
            damaged = error  # another wrap of the same passphrase may be sound
    if damaged is not None:
        raise damaged
    raise WrongPassphrase(what, f"it does not open the key with the check {key_check(block.public)}")


def open_with_recipient(block: KeyBlock, recipient_private: bytes, domain: bytes, what: str) -> bytes:
    """The domain's private key, for the holder of a recipient's private key.

    Raises:
        KeyMissing: the block has no wrap for this recipient.
        DamagedObject: it has some, and none opens.
    """
    public = public_of(recipient_private)
    damaged: DamagedObject | None = None
    for wrap in block.wraps:
        if isinstance(wrap, RecipientWrap) and wrap.public == public:
            try:
                private_key = unwrap_key(wrap.sealed, recipient_private, domain, RECIPIENT_INFO, what)
                return _proven(private_key, block, what)
            except DamagedObject as error:
                damaged = error  # another wrap for the same recipient may be sound
    if damaged is not None:
        raise damaged
    checks = (
        f"the key with the check {key_check(block.public)} was not sealed to the one with {key_check(public)}"
    )
    raise KeyMissing(what, checks, "the key check on the recovery kit tells which key belongs to a domain")


def _proven(private_key: bytes, block: KeyBlock, what: str) -> bytes:
    """A key that opened must be the one whose public half seals everything."""
    if len(private_key) != KEY_BYTES or public_of(private_key) != block.public:
        raise DamagedObject(what, "the key that opened is not the domain's")
    return private_key


def _stretch(passphrase: str, salt: bytes, cost: ScryptCost, what: str) -> tuple[bytes, bytes]:
    """(check, wrapping key) of a passphrase."""
    try:
        encoded = passphrase.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WrongPassphrase(what, "the passphrase is not valid Unicode") from error
    try:
        key = Scrypt(salt=salt, length=KEY_BYTES, n=cost.n, r=cost.r, p=cost.p).derive(encoded)
    except MemoryError as error:
        mebibytes = 128 * cost.n * cost.r >> 20
        raise LimitExceeded(what, f"trying a passphrase takes {mebibytes} MiB of memory") from error
    return hkdf(key, b"", PASSPHRASE_CHECK_INFO)[:CHECK_BYTES], hkdf(key, b"", PASSPHRASE_WRAP_INFO)


def _wrap_members(wrap: PassphraseWrap | RecipientWrap) -> JsonObject:
    if isinstance(wrap, RecipientWrap):
        return {"type": "recipient", "public": wrap.public.hex(), "sealed": wrap.sealed.hex()}
    members: dict[str, Any] = {
        "type": "passphrase",
        "kdf": "scrypt",
        "n": wrap.cost.n,
        "r": wrap.cost.r,
        "p": wrap.cost.p,
    }
    for name in ("salt", "check", "nonce", "sealed"):
        members[name] = getattr(wrap, name).hex()
    return members


def _parse_wrap(members: Members) -> PassphraseWrap | RecipientWrap | None:
    """One wrap; None for a type (or a passphrase's kdf) that this version does not know."""
    kind = members.text("type")
    if kind == "recipient":
        return RecipientWrap(
            members.bytes("public", KEY_BYTES), members.bytes("sealed", KEY_BYTES + SEALED_KEY_BYTES)
        )
    if kind != "passphrase" or members.text("kdf") != "scrypt":
        return None
    cost = ScryptCost(members.number("n"), members.number("r"), members.number("p"))
    _check_cost(cost, members.what)
    return PassphraseWrap(
        cost=cost,
        salt=members.bytes("salt", SALT_BYTES),
        check=members.bytes("check", CHECK_BYTES),
        nonce=members.bytes("nonce", NONCE_BYTES),
        sealed=members.bytes("sealed", SEALED_KEY_BYTES),
    )


def _check_cost(cost: ScryptCost, what: str) -> None:
    if cost.n > limits.SCRYPT_N_MAX or cost.r > limits.SCRYPT_R_MAX or cost.p > limits.SCRYPT_P_MAX:
        raise LimitExceeded(what, f"scrypt with n {cost.n}, r {cost.r}, p {cost.p} (SCRYPT_..._MAX)")
    if cost.n < 2 or cost.n & (cost.n - 1) or not cost.r or not cost.p:
        raise DamagedObject(what, f"scrypt with n {cost.n}, r {cost.r}, p {cost.p} is not defined")
