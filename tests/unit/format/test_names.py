"""Records of file trees: what a writer builds comes back; what it would not have built is refused."""

from __future__ import annotations

import contextlib
import json
import stat
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdp_container.errors import CdpError, DamagedObject, LimitExceeded, RecordTooLarge
from cdp_container.format import limits
from cdp_container.format.index import Record
from cdp_container.format.members import I64_MAX
from cdp_container.format.names import (
    MODE_MAX,
    OWNER_MAX,
    Name,
    NameType,
    SkewedFile,
    TreeRules,
    name_added,
    name_fault,
    name_gone,
    name_key,
    parse_name,
    parse_name_key,
    parse_rules,
    parse_skew,
    parse_tree,
    path_fault,
    shown,
    skewed,
    tree_added,
    tree_gone,
)
from tests.unit.format.samples import fixed

TREE = fixed("tree", 16)
SPACE = fixed("space", 16)

WRONG_PATHS = [
    b"/", b"/etc/passwd", b"a/", b"a//b", b".", b"..", b"a/./b", b"../a", b"a/..", b"a/../../b", b"a\0b",
    b"\0", b"x" * 256, b"a/" + b"x" * 256, b"/".join([b"x" * 240] * 18),
]  # fmt: skip


@pytest.mark.parametrize("path", WRONG_PATHS, ids=range(len(WRONG_PATHS)))
def test_wrong_paths(path: bytes) -> None:
    assert path_fault(path)
    with pytest.raises(DamagedObject, match="the path"):
        parse_name_key(TREE + path, "log/1/1")
    with pytest.raises(AssertionError):
        name_key(TREE, path)


@pytest.mark.parametrize(
    "path",
    [b"", b"a", b"a/b", b"...", b".a", b"a..b/..c", b"\xff\xfe \n", b"x" * 255, b"/".join([b"x"] * 2048)],
)
def test_right_paths(path: bytes) -> None:
    assert path_fault(path) == ""
    assert parse_name_key(name_key(TREE, path), "log/1/1") == (TREE, path)


def test_paths_are_shown_on_one_line() -> None:
    assert shown(b"a\n\xff\x1b[31m") == r"'a\n\\xff\x1b[31m'"
    assert len(shown(b"x" * 5000)) < 600


FILE = {"type": "file", "size_bytes": 5, "space": SPACE.hex()}
WRONG_VALUES: dict[str, Any] = {
    "no type": {},
    "another type": {"type": "door"},
    "a type that is no string": {"type": ["file"]},
    "too many permission bits": {"type": "file", "mode": 0o10000},
    "a negative mode": {"type": "file", "mode": -1},
    "a mode that is a flag": {"type": "file", "mode": True},
    "a mode that is no whole number": {"type": "file", "mode": 1.5},
    "an owner that means to leave it": {"type": "file", "uid": 2**32 - 1},
    "a negative group": {"type": "file", "gid": -1},
    "a time beyond all": {"type": "file", "mtime_ns": I64_MAX + 1},
    "a size beyond all": FILE | {"size_bytes": I64_MAX + 1},
    "a negative size": FILE | {"size_bytes": -1},
    "a size without a space": {"type": "file", "size_bytes": 1},
    "a symlink with a size": {"type": "symlink", "target": "61", "space": SPACE.hex(), "size_bytes": 1},
    "a directory with content": {"type": "directory", "space": SPACE.hex()},
    "a fifo with a size": {"type": "fifo", "size_bytes": 1},
    "a space that is too short": FILE | {"space": SPACE.hex()[2:]},
    "an empty space": FILE | {"space": ""},
    "a space in upper case": FILE | {"space": "AA" * 16},
    "a space with blanks": FILE | {"space": " ".join(["aa"] * 16)},
    "a space that is a number": FILE | {"space": 5},
    "a symlink to nowhere": {"type": "symlink"},
    "a file with a target": {"type": "file", "target": "61"},
    "a target with a zero byte": {"type": "symlink", "target": "6100"},
    "a target that is too long": {"type": "symlink", "target": "61" * 4097},
    "a target that is no hex": {"type": "symlink", "target": "xy"},
    "a node without a device": {"type": "char"},
    "a device of a file": {"type": "file", "device": [1, 2]},
    "a device of one number": {"type": "block", "device": [1]},
    "a device out of range": {"type": "block", "device": [1, 2**32]},
    "a negative device": {"type": "block", "device": [-1, 1]},
    "a device of flags": {"type": "block", "device": [True, False]},
    "attributes that are no list": {"type": "file", "xattrs": {"61": "62"}},
    "an attribute without a value": {"type": "file", "xattrs": [["61"]]},
    "an attribute without a name": {"type": "file", "xattrs": [["", "62"]]},
    "an attribute with a zero byte": {"type": "file", "xattrs": [["6100", "62"]]},
    "an attribute twice": {"type": "file", "xattrs": [["61", "62"], ["61", "63"]]},
    "an attribute whose name is too long": {"type": "file", "xattrs": [["61" * 256, ""]]},
    "an attribute that is too long": {"type": "file", "xattrs": [["61", "00" * 65537]]},
    "an attribute that is no hex": {"type": "file", "xattrs": [["61", "6"]]},
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_VALUES)
def test_wrong_values(case: str) -> None:
    with pytest.raises(DamagedObject):
        parse_name(orjson.dumps(WRONG_VALUES[case]), "log/1/1")


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b'{"type":"file"', b"\xff", b"null"])
def test_values_that_are_no_json(value: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_name(value, "log/1/1")


def test_unknown_members_are_ignored_and_null_is_nothing() -> None:
    value = {"type": "file", "future": [1], "space": None, "target": None, "xattrs": None, "device": None}
    assert parse_name(orjson.dumps(value | {"mode": None, "uid": None}), "x") == Name(NameType.FILE)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["type", *Name._fields]), st.one_of(
    st.sampled_from([kind.value for kind in NameType]), st.integers(), st.text(max_size=8), st.booleans(),
    st.none(), st.lists(st.integers(0, 5), max_size=3),
)))  # fmt: skip
def test_any_value_is_a_name_or_damage(value: dict[str, Any]) -> None:
    with contextlib.suppress(DamagedObject, orjson.JSONEncodeError):
        assert name_fault(parse_name(orjson.dumps(value), "log/1/1")) == ""


@st.composite
def names(draw: st.DrawFn) -> Name:
    kind = draw(st.sampled_from(list(NameType)))
    ids = st.none() | st.binary(min_size=16, max_size=16)
    space = None if kind is NameType.DIRECTORY else draw(ids)
    node = kind in (NameType.CHAR, NameType.BLOCK)
    number = st.integers(0, 2**32 - 1)
    return Name(
        type=kind,
        mode=draw(st.integers(0, MODE_MAX)),
        uid=draw(st.integers(0, OWNER_MAX)),
        gid=draw(st.integers(0, OWNER_MAX)),
        mtime_ns=draw(st.integers(-I64_MAX - 1, I64_MAX)),
        size_bytes=0 if space is None or kind is not NameType.FILE else draw(st.integers(0, I64_MAX)),
        space=space,
        target=draw(_texts(1, 4096)) if kind is NameType.SYMLINK else b"",
        xattrs=tuple(
            sorted(draw(st.dictionaries(_texts(1, 255), st.binary(max_size=64), max_size=3)).items())
        ),
        device=(draw(number), draw(number)) if node else None,
    )


def _texts(least: int, most: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=least, max_size=min(most, 40)).filter(lambda text: b"\0" not in text)


@settings(max_examples=200, deadline=None)
@given(names())
def test_a_name_comes_back(name: Name) -> None:
    path = b"" if name.type is NameType.DIRECTORY else b"a/b"
    record = name_added(TREE, path, name)
    assert (record.name, record.key, record.critical) == ("name+", TREE + path, True)
    assert parse_name(record.value, "x") == name


def test_values_are_small() -> None:
    assert name_added(TREE, b"a", Name(NameType.FILE)).value == b'{"type":"file"}'
    name = Name(NameType.FILE, stat.S_ISUID | 0o755, 1000, 1000, 1_700_000_000_123_456_789, 4096, SPACE)
    assert len(name_added(TREE, b"a", name).value) < 150


def test_names_that_no_writer_may_build() -> None:
    with pytest.raises(AssertionError):
        name_added(TREE, b"a", Name(NameType.SYMLINK))
    with pytest.raises(AssertionError):
        name_added(TREE, b"", Name(NameType.FILE))
    huge = tuple((bytes([65 + number]), bytes(limits.XATTR_VALUE_BYTES_MAX)) for number in range(5))
    with pytest.raises(RecordTooLarge):
        name_added(TREE, b"a", Name(NameType.FILE, xattrs=huge))


def test_which_paths_are_protected_is_told_where_there_is_room() -> None:
    rules = TreeRules(("keep",), ("*.tmp", "cache/"), one_file_system=False)
    assert parse_rules(tree_added(TREE, "home", rules).value, "x") == rules
    assert parse_rules(tree_added(TREE, "home").value, "x") is None
    many = TreeRules((), tuple(f"{number}" * 500 for number in range(100, 300)))
    value = tree_added(TREE, "home", many).value
    assert (parse_tree(value, "x"), parse_rules(value, "x")) == ("home", None)


@pytest.mark.parametrize(
    "member",
    [
        {"exclude": ["/"]}, {"exclude": [7]}, {"exclude": "x"}, {"include": None}, {"include": ["a\0"]},
        {"one_file_system": 1}, {"exclude": ["x"] * 1001}, {"exclude": ["x" * 4097]},
    ],
)  # fmt: skip
def test_rules_that_make_no_sense_are_as_if_they_were_not_there(member: dict[str, object]) -> None:
    value = {"name": "home", "include": [], "exclude": [], "one_file_system": True, **member}
    assert parse_rules(json.dumps(value).encode(), "x") is None


def test_trees() -> None:
    record = tree_added(TREE, "home")
    assert (record.name, record.key, parse_tree(record.value, "x")) == ("tree+", TREE, "home")
    assert (tree_gone(TREE).name, tree_gone(TREE).value) == ("tree-", b"{}")
    assert (name_gone(TREE, b"a").name, name_gone(TREE, b"a").key) == ("name-", TREE + b"a")
    for value in (b"{}", b'{"name":5}', b'{"name":""}', b"[]"):
        with pytest.raises(DamagedObject):
            parse_tree(value, "x")


def files(count: int) -> list[SkewedFile]:
    return [SkewedFile(TREE, f"a/{number}".encode(), -number, number) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 100, 101, 5000])
def test_skewed_files_come_back(count: int) -> None:
    record = skewed(3, 7, files(count))
    assert (record.name, record.critical) == ("skew", False)
    cut, skew = parse_skew(record, "x")
    assert cut == (3, 7)
    assert list(skew.files) == files(count)[:100]
    assert skew.more == max(0, count - 100)


def test_instants_of_images_come_back_and_a_record_may_have_none() -> None:
    instants = ((b"a" * 16, 5), (b"b" * 16, -(2**63)))
    cut, skew = parse_skew(skewed(3, 7, files(1), 2, instants), "x")
    assert (cut, skew.instants, skew.files_count) == ((3, 7), instants, 3)
    assert parse_skew(skewed(3, 7, files(1)), "x")[1].instants == ()


def test_skewed_files_that_make_no_sense() -> None:
    sound = {"tree": TREE.hex(), "path": "61", "from_ns": 1, "to_ns": 2}
    wrong: list[tuple[dict[str, Any], type[CdpError]]] = [
        ({}, DamagedObject),
        ({"files": [], "more": -1}, DamagedObject),
        ({"files": [5], "more": 0}, DamagedObject),
        ({"files": [sound | {"path": "2e2e"}], "more": 0}, DamagedObject),
        ({"files": [sound | {"path": "6"}], "more": 0}, DamagedObject),
        ({"files": [sound | {"tree": "61"}], "more": 0}, DamagedObject),
        ({"files": [sound | {"to_ns": 2**63}], "more": 0}, DamagedObject),
        ({"files": [sound] * 101, "more": 0}, LimitExceeded),
        ({"files": [], "more": 0, "instants": [{"space": "61", "at_ns": 5}]}, DamagedObject),
        ({"files": [], "more": 0, "instants": [{"space": TREE.hex(), "at_ns": 2**63}]}, DamagedObject),
        ({"files": [], "more": 0, "instants": [{"space": TREE.hex()}]}, DamagedObject),
        ({"files": [], "more": 0, "instants": [{"space": TREE.hex(), "at_ns": 5}] * 1025}, LimitExceeded),
    ]
    for value, error in wrong:
        with pytest.raises(error):
            parse_skew(Record("skew", bytes(16), orjson.dumps(value), critical=False), "x")
