"""What packs remember of what was collected: the record of an epoch, for who reads without `domain/`.

Who needs it, and when, does not belong here.
"""

from __future__ import annotations

import struct
from typing import Final

from cdp_container.errors import DamagedObject
from cdp_container.format.domain import EpochRecord
from cdp_container.format.index import Record
from cdp_container.format.keys import EPOCH_MAX
from cdp_container.format.members import Members
from cdp_container.format.place import Place
from cdp_container.format.records import make_record, record_value

_EPOCH_KEY: Final = struct.Struct("<Q")


def packed_epoch(record: EpochRecord) -> Record:
    """The `epoch` record of a pack."""
    value = {
        "epoch": record.epoch,
        "previous": record.previous,
        "site": record.site,
        "base": _members(record.base),
        "end": _members(record.end),
        "began_ns": record.began_ns,
    }
    return make_record("epoch", _EPOCH_KEY.pack(record.epoch), value)


def parse_packed_epoch(record: Record, domain: bytes, key: str) -> EpochRecord:
    """The other way round; what a pack does not tell is empty. `key`: the pack's. Raises DamagedObject."""
    value = Members(record_value(record, key), f"{key}, record 'epoch'")
    found = EpochRecord(
        domain=domain,
        epoch=value.number("epoch", EPOCH_MAX),
        previous=value.number("previous", EPOCH_MAX),
        site=value.text("site"),
        instance=bytes(16),
        began_ns=value.time_ns("began_ns"),
        base=value.place("base"),
        end=value.place("end"),
    )
    if record.key != _EPOCH_KEY.pack(found.epoch) or not found.previous < found.epoch:
        raise DamagedObject(key, f"its record of epoch {found.epoch} makes no sense")
    if max(found.base.epoch, found.end.epoch) > found.previous:
        raise DamagedObject(key, f"its record of epoch {found.epoch} has a base that is not before it")
    return found


def _members(place: Place) -> dict[str, int]:
    return {"epoch": place.epoch, "cut": place.cut, "seq": place.seq}
