"""What a container says of file trees: records `tree+`, `tree-`, `name+`, `name-` and `skew`.

Both sides use it: writers build records with it, readers take nothing that it would not have built. What the
names of a tree say together (that each has its directory, which one is the newest) does not belong here.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.index import Record
from cdp_container.format.jsontext import load_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import (
    COMPONENT_BYTES_MAX,
    PATH_BYTES_MAX,
    RECORD_VALUE_BYTES_MAX,
    SKEWED_FILES_MAX,
    SPACE_BYTES_MAX,
    XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
)
from cdp_container.format.members import I64_MAX, U64_MAX, Members
from cdp_container.format.records import make_record

MODE_MAX: Final = 0o7777
OWNER_MAX: Final = 2**32 - 2
"""The number beyond means "leave it as it is" to the kernel."""
DEVICE_MAX: Final = 2**32 - 1
ROOT: Final = b""
"""The path of a tree's own directory."""

_CUT_KEY: Final = struct.Struct("<QQ")


class NameType(enum.StrEnum):
    """What a name is the name of."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    FIFO = "fifo"
    CHAR = "char"
    BLOCK = "block"
    SOCKET = "socket"


_TYPES: Final = {kind.value: kind for kind in NameType}
_NODES: Final = frozenset({NameType.CHAR, NameType.BLOCK})

Xattr: TypeAlias = tuple[bytes, bytes]
"""An extended attribute: its name and its value."""


@dataclass(frozen=True, slots=True)
class Name:
    """What `name+` says of one name.

    Attributes:
        type: what it is.
        mode: the 12 permission bits.
        uid: the owner's number.
        gid: the group's.
        mtime_ns: since 1970, may be negative.
        size_bytes: of a file.
        space: of a file: the id of its content; None where it is empty and has no other names.
        target: of a symlink.
        xattrs: extended attributes, POSIX ACLs among them, each name once.
        device: of a node: major and minor number.
    """

    type: NameType
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size_bytes: int = 0
    space: bytes | None = None
    target: bytes = b""
    xattrs: tuple[Xattr, ...] = ()
    device: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class SkewedFile:
    """A file that changed while the cut was taken, and between which times (wall clock) it was read."""

    tree: bytes
    path: bytes
    from_ns: int
    to_ns: int


@dataclass(frozen=True, slots=True)
class Skew:
    """The files of a cut that are skewed: the first SKEWED_FILES_MAX of them, and how many more there are."""

    files: tuple[SkewedFile, ...]
    more: int = 0


def path_fault(path: bytes) -> str:
    """What is wrong with a path relative to its tree; empty where nothing is."""
    if len(path) > PATH_BYTES_MAX:
        return f"has {len(path)} bytes (PATH_BYTES_MAX)"
    if path == ROOT:
        return ""
    if b"\0" in path:
        return "has a zero byte"
    for part in path.split(b"/"):
        if part in (b"", b".", b".."):
            return f"has the component {part.decode('ascii')!r}"
        if len(part) > COMPONENT_BYTES_MAX:
            return f"has a component of {len(part)} bytes (COMPONENT_BYTES_MAX)"
    return ""


def name_fault(name: Name) -> str:
    """What of a name contradicts the document; empty where nothing does. Its type is right already."""
    if not (0 <= name.mode <= MODE_MAX and 0 <= name.uid <= OWNER_MAX and 0 <= name.gid <= OWNER_MAX):
        return "mode or owner out of range"
    if not (-I64_MAX - 1 <= name.mtime_ns <= I64_MAX and 0 <= name.size_bytes <= SPACE_BYTES_MAX):
        return "a time or size out of range"
    if name.type is not NameType.FILE and (name.space is not None or name.size_bytes):
        return f"a {name.type} with content"
    if name.space is None and name.size_bytes:
        return "a size and no space"
    if name.space is not None and len(name.space) != ID_BYTES:
        return "a space whose id is none"
    if (name.type is NameType.SYMLINK) != bool(name.target) or b"\0" in name.target:
        return f"a {name.type} with a target that makes no sense"
    if len(name.target) > PATH_BYTES_MAX:
        return f"a target of {len(name.target)} bytes (PATH_BYTES_MAX)"
    if (name.type in _NODES) != (name.device is not None):
        return f"a {name.type} with or without a device"
    if name.device is not None and not all(0 <= number <= DEVICE_MAX for number in name.device):
        return "a device out of range"
    return _xattrs_fault(name.xattrs) if name.xattrs else ""


def _xattrs_fault(xattrs: Sequence[Xattr]) -> str:
    if len({name for name, _ in xattrs}) < len(xattrs):
        return "an extended attribute twice"
    for name, value in xattrs:
        if not 0 < len(name) <= XATTR_NAME_BYTES_MAX or b"\0" in name:
            return "an extended attribute whose name is none"
        if len(value) > XATTR_VALUE_BYTES_MAX:
            return f"an extended attribute of {len(value)} bytes (XATTR_VALUE_BYTES_MAX)"
    return ""


def name_added(tree: bytes, path: bytes, name: Name) -> Record:
    """The record `name+`. What a value leaves out is null, 0 or empty.

    Raises:
        RecordTooLarge: its attributes are more than a record carries.
    """
    wrong = name_fault(name)
    assert not wrong, wrong
    assert path != ROOT or name.type is NameType.DIRECTORY, "the root of a tree is a directory"
    value: dict[str, Any] = {
        "type": name.type.value,
        "mode": name.mode,
        "uid": name.uid,
        "gid": name.gid,
        "mtime_ns": name.mtime_ns,
        "size_bytes": name.size_bytes,
        "space": None if name.space is None else name.space.hex(),
        "target": name.target.hex(),
        "xattrs": [[key.hex(), content.hex()] for key, content in name.xattrs],
        "device": name.device,
    }
    return make_record("name+", name_key(tree, path), {key: said for key, said in value.items() if said})


def name_gone(tree: bytes, path: bytes) -> Record:
    """The record `name-`."""
    return make_record("name-", name_key(tree, path), {})


def tree_added(tree: bytes, name: str) -> Record:
    """The record `tree+`; `name` is what people call the tree."""
    assert len(tree) == ID_BYTES, len(tree)
    return make_record("tree+", tree, {"name": name})


def tree_gone(tree: bytes) -> Record:
    """The record `tree-`."""
    assert len(tree) == ID_BYTES, len(tree)
    return make_record("tree-", tree, {})


def skewed(epoch: int, cut: int, files: Sequence[SkewedFile]) -> Record:
    """The record `skew` of a cut; of more than SKEWED_FILES_MAX files it counts the others."""
    named = [
        {"tree": file.tree.hex(), "path": file.path.hex(), "from_ns": file.from_ns, "to_ns": file.to_ns}
        for file in files[:SKEWED_FILES_MAX]
    ]
    return make_record("skew", _CUT_KEY.pack(epoch, cut), {"files": named, "more": len(files) - len(named)})


def name_key(tree: bytes, path: bytes) -> bytes:
    """The key of a name's records."""
    assert len(tree) == ID_BYTES, len(tree)
    wrong = path_fault(path)
    assert not wrong, wrong
    return tree + path


def parse_name_key(key: bytes, what: str) -> tuple[bytes, bytes]:
    """Tree and path of a name's record. Raises DamagedObject where the path is none."""
    path = key[ID_BYTES:]
    wrong = path_fault(path)
    if wrong:
        raise DamagedObject(what, f"the path {shown(path)} {wrong}")
    return key[:ID_BYTES], path


def parse_name(value: bytes, what: str) -> Name:
    """What a `name+` says. Raises DamagedObject where it contradicts the document."""
    members = load_object(value, RECORD_VALUE_BYTES_MAX, what)
    kind = members.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise DamagedObject(what, "its type is none")
    try:
        name = Name(
            type=_TYPES[kind],
            mode=_number(members, "mode"),
            uid=_number(members, "uid"),
            gid=_number(members, "gid"),
            mtime_ns=_number(members, "mtime_ns"),
            size_bytes=_number(members, "size_bytes"),
            space=_bytes(members["space"]) if members.get("space") is not None else None,
            target=_bytes(members["target"]) if members.get("target") else b"",
            xattrs=_xattrs(members["xattrs"]) if members.get("xattrs") else (),
            device=_device(members["device"]) if members.get("device") is not None else None,
        )
    except (TypeError, ValueError) as error:
        raise DamagedObject(what, f"it makes no sense as a name: {error}") from error
    wrong = name_fault(name)
    if wrong:
        raise DamagedObject(what, f"it has {wrong}")
    return name


def parse_tree(value: bytes, what: str) -> str:
    """The name that a `tree+` gives. Raises DamagedObject where it gives none."""
    name = Members(load_object(value, RECORD_VALUE_BYTES_MAX, what), what).text("name")
    if not name:
        raise DamagedObject(what, "a tree without a name")
    return name


def parse_skew(record: Record, what: str) -> tuple[tuple[int, int], Skew]:
    """The cut (epoch, number) that a `skew` names, and its files.

    Raises:
        DamagedObject: it contradicts the document.
        LimitExceeded: it names more files than SKEWED_FILES_MAX.
    """
    members = Members(load_object(record.value, RECORD_VALUE_BYTES_MAX, what), what)
    inner = members.objects("files")
    if len(inner) > SKEWED_FILES_MAX:
        raise LimitExceeded(what, f"it names {len(inner)} skewed files (SKEWED_FILES_MAX)")
    files = tuple(_skewed_file(file, what) for file in inner)
    epoch, cut = _CUT_KEY.unpack(record.key)
    return (epoch, cut), Skew(files, members.number("more", U64_MAX))


def _skewed_file(file: Members, what: str) -> SkewedFile:
    try:
        path = _bytes(file.text("path"))
    except ValueError as error:
        raise DamagedObject(what, f"a path is not hex: {error}") from error
    wrong = path_fault(path)
    if wrong:
        raise DamagedObject(what, f"the path {shown(path)} {wrong}")
    return SkewedFile(file.bytes("tree", ID_BYTES), path, file.time_ns("from_ns"), file.time_ns("to_ns"))


def shown(path: bytes) -> str:
    """A path as messages show it: bytes that are no text stay readable, and it stays on one line."""
    text = path[: COMPONENT_BYTES_MAX * 2].decode("utf-8", "backslashreplace")
    return repr(text) if len(path) <= COMPONENT_BYTES_MAX * 2 else f"{text!r}…"


def _number(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    if value is None:
        return 0
    if type(value) is not int:  # true is an int to Python
        raise ValueError(f"{name} is no whole number")
    return value


def _bytes(value: object) -> bytes:
    """Lower-case hex, strictly."""
    if not isinstance(value, str):
        raise TypeError("what should be hex is no string")
    found = bytes.fromhex(value)
    if found.hex() != value:
        raise ValueError("what should be hex is not in lower case")
    return found


def _xattrs(value: object) -> tuple[Xattr, ...]:
    if not isinstance(value, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
        raise ValueError("xattrs is no list of pairs")
    return tuple((_bytes(name), _bytes(content)) for name, content in value)


def _device(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2 or any(type(number) is not int for number in value):
        raise ValueError("device is no pair of numbers")
    return value[0], value[1]
