"""What a container says of file trees: records `tree+`, `tree-`, `name+`, `name-` and `skew`.

Both sides use it: writers build records with it, readers take nothing that it would not have built. What the
names of a tree say together (that each has its directory, which one is the newest) does not belong here.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeAlias

from cdp_container.errors import DamagedObject, LimitExceeded
from cdp_container.format.index import Record
from cdp_container.format.jsontext import load_object
from cdp_container.format.layout import ID_BYTES
from cdp_container.format.limits import (
    COMPONENT_BYTES_MAX,
    NOT_WHOLE_MAX,
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
SKEWED_PATHS_BYTES_MAX: Final = 128 << 10
"""Of all paths in one `skew`: with the longest ones a record would be longer than one may be."""
RULES_BYTES_MAX: Final = 64 << 10
"""Of all patterns in one `tree+`: JSON may say a character in six bytes."""
PATTERNS_MAX: Final = 1_000
PATTERN_BYTES_MAX: Final = 4_096
ROOT: Final = b""
"""The path of a tree's own directory."""

_CUT_KEY: Final = struct.Struct("<QQ")
_is_id: Final = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}").fullmatch


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
_FILE: Final = NameType.FILE
_DIRECTORY: Final = NameType.DIRECTORY
_SYMLINK: Final = NameType.SYMLINK
_NODES: Final = frozenset({NameType.CHAR, NameType.BLOCK})

Xattr: TypeAlias = tuple[bytes, bytes]
"""An extended attribute: its name and its value."""


class Name(NamedTuple):
    """What `name+` says of one name. A tuple: a tree has millions.

    Attributes:
        type: what it is.
        mode: the 12 permission bits.
        uid: the owner's number.
        gid: the group's.
        mtime_ns: since 1970, may be negative.
        size_bytes: of a file.
        space: of a file: the id of its content; None where it is empty and has no other names. Of a link or
            node that has other names: what they share. Never of a directory.
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
    """What of a cut is not of the cut's own instant.

    Attributes:
        files: that changed while it was taken: the first SKEWED_FILES_MAX of them.
        more: how many others there are.
        instants: volumes that are of an instant of their own, by id, and the wall clock at that.
    """

    files: tuple[SkewedFile, ...]
    more: int = 0
    instants: tuple[tuple[bytes, int], ...] = ()

    @property
    def files_count(self) -> int:
        """How many files are skewed."""
        return len(self.files) + self.more


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


def is_component(name: bytes) -> bool:
    """Whether it can be one component of a path."""
    if not 0 < len(name) <= COMPONENT_BYTES_MAX or name in (b".", b".."):
        return False
    return b"/" not in name and b"\0" not in name


def name_fault(name: Name) -> str:
    """What of a name contradicts the document; empty where nothing does. Its type is right already."""
    kind, mode, uid, gid, mtime_ns, size_bytes, space, target, xattrs, device = name
    if not (0 <= mode <= MODE_MAX and 0 <= uid <= OWNER_MAX and 0 <= gid <= OWNER_MAX):
        return "mode or owner out of range"
    if not (-I64_MAX - 1 <= mtime_ns <= I64_MAX and 0 <= size_bytes <= SPACE_BYTES_MAX):
        return "a time or size out of range"
    if size_bytes and kind is not _FILE:
        return f"a {kind} with content"
    if space is not None and kind is _DIRECTORY:
        return "a directory with a space"
    if space is None:
        if size_bytes:
            return "a size and no space"
    elif len(space) != ID_BYTES:
        return "a space whose id is none"
    if target or kind is _SYMLINK:
        if kind is not _SYMLINK or not target or b"\0" in target:
            return f"a {kind} with a target that makes no sense"
        if len(target) > PATH_BYTES_MAX:
            return f"a target of {len(target)} bytes (PATH_BYTES_MAX)"
    if (device is not None) != (kind in _NODES):
        return f"a {kind} with or without a device"
    if device is not None and not all(0 <= number <= DEVICE_MAX for number in device):
        return "a device out of range"
    return _xattrs_fault(xattrs) if xattrs else ""


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
    assert path != ROOT or name.type is NameType.DIRECTORY, "the root of a tree is a directory"
    return make_record("name+", name_key(tree, path), name_members(name))


def name_members(name: Name) -> dict[str, Any]:
    """The value of a `name+`, always the same for the same name: attributes are sorted."""
    wrong = name_fault(name)
    assert not wrong, wrong
    value: dict[str, Any] = {
        "type": name.type.value,
        "mode": name.mode,
        "uid": name.uid,
        "gid": name.gid,
        "mtime_ns": name.mtime_ns,
        "size_bytes": name.size_bytes,
        "space": None if name.space is None else name.space.hex(),
        "target": name.target.hex(),
        "xattrs": [[key.hex(), content.hex()] for key, content in sorted(name.xattrs)],
        "device": name.device,
    }
    return {key: said for key, said in value.items() if said}


def name_gone(tree: bytes, path: bytes) -> Record:
    """The record `name-`."""
    return make_record("name-", name_key(tree, path), {})


@dataclass(frozen=True, slots=True)
class TreeRules:
    """Which paths of a tree its agent protects: patterns, and whether what is mounted below is left out."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    one_file_system: bool = True


def tree_added(tree: bytes, name: str, rules: TreeRules | None = None) -> Record:
    """The record `tree+`; `name` is what people call the tree. Rules without room in it are left out."""
    assert len(tree) == ID_BYTES, len(tree)
    value: dict[str, Any] = {"name": name}
    patterns = () if rules is None else (*rules.include, *rules.exclude)
    if rules is not None and sum(len(pattern.encode()) + 4 for pattern in patterns) <= RULES_BYTES_MAX:
        value |= {
            "include": list(rules.include),
            "exclude": list(rules.exclude),
            "one_file_system": rules.one_file_system,
        }
    return make_record("tree+", tree, value)


def tree_gone(tree: bytes) -> Record:
    """The record `tree-`."""
    assert len(tree) == ID_BYTES, len(tree)
    return make_record("tree-", tree, {})


def skewed(
    epoch: int,
    cut: int,
    files: Sequence[SkewedFile],
    more: int = 0,
    instants: Sequence[tuple[bytes, int]] = (),
) -> Record:
    """The record `skew` of a cut: of more files than it has room for it counts the others, and `more`.

    `instants`: volumes that are of an instant of their own, by id, and the wall clock at that.
    """
    named: list[dict[str, Any]] = []
    room_bytes = SKEWED_PATHS_BYTES_MAX
    for file in files[:SKEWED_FILES_MAX]:
        room_bytes -= len(file.path)
        if room_bytes < 0:
            break
        named.append(
            {"tree": file.tree.hex(), "path": file.path.hex(), "from_ns": file.from_ns, "to_ns": file.to_ns}
        )
    more += len(files) - len(named)
    value: dict[str, Any] = {"files": named, "more": more}
    if instants:
        value["instants"] = [{"space": space.hex(), "at_ns": at_ns} for space, at_ns in instants]
    return make_record("skew", _CUT_KEY.pack(epoch, cut), value)


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
    plain = _plain(members)
    if plain is not None:
        return plain
    say = members.get
    kind = say("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise DamagedObject(what, "its type is none")
    try:
        space, target, xattrs, device = say("space"), say("target"), say("xattrs"), say("device")
        name = Name(
            _TYPES[kind],
            _whole(say("mode")),
            _whole(say("uid")),
            _whole(say("gid")),
            _whole(say("mtime_ns")),
            _whole(say("size_bytes")),
            None if space is None else _bytes(space),
            b"" if target is None else _bytes(target),
            () if xattrs is None else _xattrs(xattrs),
            None if device is None else _device(device),
        )
    except (TypeError, ValueError) as error:
        raise DamagedObject(what, f"it makes no sense as a name: {error}") from error
    wrong = name_fault(name)
    if wrong:
        raise DamagedObject(what, f"it has {wrong}")
    return name


def _plain(members: dict[str, Any]) -> Name | None:
    """What a name like most says, checked at once; None of any other, and of one with something wrong."""
    if "xattrs" in members or "target" in members or "device" in members:
        return None
    say = members.get
    kind, hexed = say("type"), say("space")
    mode, uid, gid = say("mode", 0), say("uid", 0), say("gid", 0)
    mtime_ns, size_bytes = say("mtime_ns", 0), say("size_bytes", 0)
    if not type(mode) is type(uid) is type(gid) is type(mtime_ns) is type(size_bytes) is int:
        return None
    if not (
        0 <= mode <= MODE_MAX
        and 0 <= uid <= OWNER_MAX
        and 0 <= gid <= OWNER_MAX
        and -I64_MAX <= mtime_ns <= I64_MAX
    ):
        return None
    if kind == "directory":
        if hexed is not None or size_bytes:
            return None
        return Name(_DIRECTORY, mode, uid, gid, mtime_ns)
    if kind != "file" or not 0 <= size_bytes <= SPACE_BYTES_MAX:
        return None
    if hexed is None:
        return None if size_bytes else Name(_FILE, mode, uid, gid, mtime_ns)
    if type(hexed) is not str or not _is_id(hexed):
        return None
    return Name(_FILE, mode, uid, gid, mtime_ns, size_bytes, bytes.fromhex(hexed))


def parse_tree(value: bytes, what: str) -> str:
    """The name that a `tree+` gives. Raises DamagedObject where it gives none."""
    name = Members(load_object(value, RECORD_VALUE_BYTES_MAX, what), what).text("name")
    if not name:
        raise DamagedObject(what, "a tree without a name")
    return name


def parse_rules(value: bytes, what: str) -> TreeRules | None:
    """What a `tree+` says of which paths are protected; None where it says nothing that can be used.

    Nothing of a restore rests on it, so what makes no sense is as if it were not there.
    """
    value_members = load_object(value, RECORD_VALUE_BYTES_MAX, what)
    found = [value_members.get(member) for member in ("include", "exclude", "one_file_system")]
    include, exclude, one = found
    if not (_are_patterns(include) and _are_patterns(exclude) and isinstance(one, bool)):
        return None
    return TreeRules(tuple(include), tuple(exclude), one)  # type: ignore[arg-type]  # looked at above


def _are_patterns(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= PATTERNS_MAX
        and all(isinstance(one, str) and one.isprintable() and one.strip("/") for one in value)
        and all(len(one.encode()) <= PATTERN_BYTES_MAX for one in value)
    )


def parse_skew(record: Record, what: str) -> tuple[tuple[int, int], Skew]:
    """The cut (epoch, number) that a `skew` names, its files, and the instants of its images.

    Raises:
        DamagedObject: it contradicts the document.
        LimitExceeded: it names more files than SKEWED_FILES_MAX, or more volumes than NOT_WHOLE_MAX.
    """
    members = Members(load_object(record.value, RECORD_VALUE_BYTES_MAX, what), what)
    inner = members.objects("files")
    if len(inner) > SKEWED_FILES_MAX:
        raise LimitExceeded(what, f"it names {len(inner)} skewed files (SKEWED_FILES_MAX)")
    files = tuple(_skewed_file(file, what) for file in inner)
    told = members.objects("instants") if "instants" in members.members else []
    if len(told) > NOT_WHOLE_MAX:
        raise LimitExceeded(what, f"it names {len(told)} volumes (NOT_WHOLE_MAX)")
    instants = tuple((one.bytes("space", ID_BYTES), one.time_ns("at_ns")) for one in told)
    epoch, cut = _CUT_KEY.unpack(record.key)
    return (epoch, cut), Skew(files, members.number("more", U64_MAX), instants)


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


def _whole(value: object) -> int:
    if value is None:
        return 0
    if type(value) is not int:  # true is an int to Python
        raise ValueError("a number is no whole one")
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
