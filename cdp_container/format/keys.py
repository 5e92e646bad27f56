"""Object keys: strings from numbers and back (docs/container-format.md, section 1).

Bytes of objects do not belong here.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final

from cdp_container.format.layout import ObjectKind

OWNER_KEY: Final = "domain/owner"
HOLDS_KEY: Final = "domain/holds"
EPOCHS_PREFIX: Final = "domain/epochs/"
CONFIG_PREFIX: Final = "domain/config/"
REQUESTS_PREFIX: Final = "domain/requests/"
GC_PREFIX: Final = "domain/gc/"
LOG_PREFIX: Final = "log/"
PACKS_PREFIX: Final = "packs/"
CATALOG_PREFIX: Final = "catalog/"

EPOCH_MAX: Final = 10**10 - 1
NUMBER_MAX: Final = 10**12 - 1
LEVEL_MAX: Final = 9


class KeyKind(enum.Enum):
    """What stands under a key."""

    OWNER = "owner"
    EPOCH_RECORD = "epoch record"
    CONFIG = "config"
    HOLDS = "holds"
    REQUEST = "request"
    GC = "gc"
    GC_FINAL = "final list of gc"
    SEGMENT = "segment"
    PACK = "pack"
    LEDGER = "ledger"
    CATALOG = "catalog"


OBJECT_KINDS: Final = {
    KeyKind.SEGMENT: ObjectKind.SEGMENT,
    KeyKind.PACK: ObjectKind.PACK,
    KeyKind.LEDGER: ObjectKind.LEDGER,
    KeyKind.CATALOG: ObjectKind.CATALOG,
}
"""The keys under which objects of section 2 stand, and the kind that their preambles must name."""


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a key says; numbers that it does not name are 0, and `name` is a digest or request's id."""

    kind: KeyKind
    epoch: int = 0
    number: int = 0
    level: int = 0
    name: str = ""


_REQUEST_ID: Final = re.compile(r"[0-9a-f]{16}")
_EPOCH = r"(?P<epoch>[0-9]{10})"
_NUMBER = r"(?P<number>[0-9]{12})"
_PATTERNS: Final = (
    (KeyKind.SEGMENT, re.compile(rf"log/{_EPOCH}/{_NUMBER}")),
    (KeyKind.PACK, re.compile(rf"packs/{_EPOCH}/{_NUMBER}")),
    (KeyKind.LEDGER, re.compile(rf"packs/{_EPOCH}/ledger-{_NUMBER}")),
    (KeyKind.CATALOG, re.compile(rf"catalog/{_EPOCH}/(?P<level>[0-9])-{_NUMBER}")),
    (KeyKind.OWNER, re.compile(r"domain/owner")),
    (KeyKind.HOLDS, re.compile(r"domain/holds")),
    (KeyKind.EPOCH_RECORD, re.compile(rf"domain/epochs/{_EPOCH}")),
    (KeyKind.CONFIG, re.compile(r"domain/config/(?P<name>[0-9a-f]{64})")),
    (KeyKind.REQUEST, re.compile(r"domain/requests/(?P<name>[^/]+)")),
    (KeyKind.GC, re.compile(rf"domain/gc/{_EPOCH}/{_NUMBER}")),
    (KeyKind.GC_FINAL, re.compile(rf"domain/gc/{_EPOCH}/final-{_NUMBER}")),
)


def segment_key(epoch: int, seq: int) -> str:
    """`log/<epoch>/<seq>`."""
    return f"log/{_epoch(epoch)}/{_number(seq)}"


def log_prefix(epoch: int) -> str:
    """The prefix of all segments of an epoch."""
    return f"log/{_epoch(epoch)}/"


def pack_key(epoch: int, number: int) -> str:
    """`packs/<epoch>/<n>`."""
    return f"packs/{_epoch(epoch)}/{_number(number)}"


def ledger_key(epoch: int, number: int) -> str:
    """`packs/<epoch>/ledger-<n>`."""
    return f"packs/{_epoch(epoch)}/ledger-{_number(number)}"


def catalog_key(epoch: int, level: int, number: int) -> str:
    """`catalog/<epoch>/<level>-<n>`."""
    assert 0 <= level <= LEVEL_MAX, level
    return f"catalog/{_epoch(epoch)}/{level}-{_number(number)}"


def epoch_key(epoch: int) -> str:
    """`domain/epochs/<epoch>`."""
    return f"domain/epochs/{_epoch(epoch)}"


def config_key(digest: bytes) -> str:
    """`domain/config/<digest>`, from the 32 bytes of the digest."""
    assert len(digest) == 32, len(digest)
    return f"domain/config/{digest.hex()}"


def request_key(request_id: str) -> str:
    """`domain/requests/<id>`."""
    assert is_request_id(request_id), request_id
    return REQUESTS_PREFIX + request_id


def is_request_id(text: str) -> bool:
    """Whether a request may have this id, of 16 lower-case hex digits."""
    return _REQUEST_ID.fullmatch(text) is not None


def gc_key(epoch: int, number: int) -> str:
    """`domain/gc/<epoch>/<n>`."""
    return f"domain/gc/{_epoch(epoch)}/{_number(number)}"


def gc_final_key(epoch: int, number: int) -> str:
    """`domain/gc/<epoch>/final-<n>`."""
    return f"domain/gc/{_epoch(epoch)}/final-{_number(number)}"


def parse_key(key: str) -> ParsedKey | None:
    """What stands under `key`, or None for a key that this version does not know (which a reader ignores)."""
    for kind, pattern in _PATTERNS:
        match = pattern.fullmatch(key)
        if match is not None:
            found = match.groupdict()
            parsed = ParsedKey(
                kind=kind,
                epoch=int(found.get("epoch", 0)),
                number=int(found.get("number", 0)),
                level=int(found.get("level", 0)),
                name=found.get("name", ""),
            )
            numbered = [int(found[name]) for name in ("epoch", "number") if name in found]
            return parsed if all(numbered) else None
    return None


def _epoch(epoch: int) -> str:
    assert 1 <= epoch <= EPOCH_MAX, epoch
    return f"{epoch:010}"


def _number(number: int) -> str:
    assert 1 <= number <= NUMBER_MAX, number
    return f"{number:012}"
