"""What one object says, as JSON members, for people who look into a container.

How they are printed does not belong here.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from cdp_container.errors import MissingObject, NotFound, UsageError
from cdp_container.format.head import Head, check_object, object_digest, open_head
from cdp_container.format.index import Record
from cdp_container.format.jsontext import load_object
from cdp_container.format.keys import OBJECT_KINDS, OWNER_KEY, config_key, parse_key
from cdp_container.format.layout import ID_BYTES, Cipher, ObjectKind
from cdp_container.format.limits import DOMAIN_JSON_BYTES_MAX
from cdp_container.format.names import shown
from cdp_container.format.preamble import Preamble
from cdp_container.format.records import record_value
from rehydrate.container import Container

Members = dict[str, Any]

_HIDDEN: Final = frozenset({"key_block", "wrapped_content_key"})
"""Fields of a preamble that are long and tell people nothing."""


_NAMES: Final = frozenset({"name+", "name-"})


def show_object(container: Container, what: str) -> Members:
    """What `owner`, `epochs`, `config` or the object under a key says.

    Raises:
        UsageError: it is no key of a container.
        MissingObject: there is no such object.
        DamagedObject and its kin: it is not what it should be.
    """
    if what == "epochs":
        return {"epochs": [_epoch_members(container, epoch) for epoch in container.history.spans]}
    key = _key_of(container, what)
    parsed = parse_key(key)
    if parsed is None:
        raise UsageError(
            "show an object", f"{what!r} is no key of a container", "say owner, epochs, config, vms or a key"
        )
    try:
        data = container.store.get(key).data
    except NotFound as error:
        raise MissingObject(key, error.why, "`rehydrate show ADDRESS epochs` tells what there is") from error
    if parsed.kind not in OBJECT_KINDS:
        return load_object(data, DOMAIN_JSON_BYTES_MAX, key)
    return _object_members(container, key, data)


def _key_of(container: Container, what: str) -> str:
    if what == "owner":
        return OWNER_KEY
    if what == "config":
        return config_key(container.history.owner.config)
    return what


def _epoch_members(container: Container, epoch: int) -> Members:
    span = container.history.spans[epoch]
    members: Members = _plain(span.record)
    return {**members, "counts_up_to": _plain(span.end)}


def _object_members(container: Container, key: str, data: bytes) -> Members:
    domain, keys = container.history.domain, container.keys
    preamble = check_object(data, key, domain)
    members: Members = {
        "key": key,
        "object_bytes": len(data),
        "digest": object_digest(data).hex(),
        "preamble": _preamble_members(preamble),
    }
    if preamble.cipher is not Cipher.NONE and keys.index_key is None:
        return {**members, "sealed": "give --passphrase-file to see header and index"}
    head = open_head(data, key, domain, keys)
    return {**members, "header": dict(head.header), "index": _index_members(head)}


def _preamble_members(preamble: Preamble) -> Members:
    members: Members = {name: value for name, value in _plain(preamble).items() if name not in _HIDDEN}
    return members


def _index_members(head: Head) -> Members:
    index = head.index
    if index.kind is ObjectKind.CATALOG:
        return {
            "entries": [
                {
                    "kind": entry.kind.name.lower(),
                    "epoch": entry.epoch,
                    "seq": entry.seq,
                    "digest": entry.digest.hex(),
                }
                for entry in index.iter_entries()
            ]
        }
    if index.kind is ObjectKind.LEDGER:
        return {"runs": [_plain(run) for run in index.iter_runs()]}
    kinds = Counter(extent.kind.name.lower() for extent in index.iter_extents())
    raw_bytes = sum(frame.raw_length for frame in index.iter_frames())
    return {
        "spaces": [space.hex() for space in index.spaces],
        "extents": dict(kinds),
        "frames": index.frame_count,
        "frames_raw_bytes": raw_bytes,
        "records": [_record_members(record, head) for record in index.iter_records()],
    }


def _record_members(record: Record, head: Head) -> Members:
    members: Members = {"name": record.name, "key": record.key.hex()}
    if record.name in _NAMES:
        members["path"] = shown(record.key[ID_BYTES:])
    return {**members, "value": record_value(record, head.key)}


def _plain(value: Any) -> Any:  # noqa: ANN401 (any value of the format as JSON has it)
    """Dataclasses as objects, bytes as hex, names of enumerations."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: _plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, enum.Enum):
        return value.name.lower()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return value
