"""The store in a directory: the suite, and what only files can suffer."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cdp_container.errors import (
    AccessDenied,
    CdpError,
    ForeignObject,
    LimitExceeded,
    NoSuchBucket,
    NotFound,
    PreconditionFailed,
    StoreFull,
    StoreUnavailable,
)
from cdp_container.store.api import OBJECT_BYTES_MAX
from cdp_container.store.directory import DirectoryStore
from tests.conformance.store_suite import StoreRaces, StoreSuite


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def store(root: Path) -> DirectoryStore:
    return DirectoryStore(root)


class TestDirectoryStore(StoreSuite, StoreRaces):
    """See `StoreSuite`."""


class SteppingClock:
    """A clock that a sleep moves on."""

    def __init__(self) -> None:
        self.now_ns = 0

    def wall_ns(self) -> int:
        return self.now_ns

    def boottime_ns(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        self.now_ns += int(seconds * 1e9)


def attempts(store: DirectoryStore) -> list[Callable[[], object]]:
    return [
        lambda: store.get("a"),
        lambda: store.head("a"),
        lambda: store.put_new("b", b"x"),
        lambda: store.put_if("a", b"x", "tag"),
        lambda: store.delete("a"),
        lambda: list(store.list("")),
    ]


def test_a_missing_directory_is_no_bucket(tmp_path: Path) -> None:
    for attempt in attempts(DirectoryStore(tmp_path / "not" / "mounted")):
        with pytest.raises(NoSuchBucket, match="there is no such directory"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_bucket(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for attempt in attempts(DirectoryStore(tmp_path / "file")):
        with pytest.raises(NoSuchBucket):
            attempt()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, StoreFull),
        (errno.EDQUOT, StoreFull),
        (errno.EACCES, AccessDenied),
        (errno.EPERM, AccessDenied),
        (errno.EROFS, AccessDenied),
        (errno.EIO, StoreUnavailable),
        (errno.ESTALE, StoreUnavailable),
        (errno.EMFILE, StoreUnavailable),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "link", "rename", "mkdir"])
def test_a_failing_write_has_a_type_and_leaves_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: type[CdpError]
) -> None:
    tag = DirectoryStore(root).put_new("domain/owner", b"old")
    store = DirectoryStore(root)

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call != "rename":
            with pytest.raises(expected, match="create log/0001/0001 in"):
                store.put_new("log/0001/0001", b"x")
        if call not in ("link", "mkdir"):
            with pytest.raises(expected, match="replace domain/owner in"):
                store.put_if("domain/owner", b"new", tag)
    if call != "fsync":
        assert [found.key for found in store.list("")] == ["domain/owner"]
    assert store.get("domain/owner").data == b"old"
    assert list((root / ".tmp").glob("*")) == []


def test_the_bytes_are_synced_before_they_have_a_name(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("fsync", "link", "rename"):
        monkeypatch.setattr(os, name, _recorded(name, getattr(os, name), calls))
    store = DirectoryStore(root)
    tag = store.put_new("a/b/c", b"x")
    # Then the directory of the name, and those above it, which may be as new.
    assert calls == ["fsync file", "link", "fsync dir", "fsync dir", "fsync dir"]
    calls.clear()
    store.put_if("a/b/c", b"y", tag)
    assert calls == ["fsync file", "rename", "fsync dir"]
    calls.clear()
    store.delete("a/b/c")
    assert calls == ["fsync dir"]


def _recorded(name: str, call: Callable[..., None], calls: list[str]) -> Callable[..., None]:
    def record(*args: int, **kwargs: int) -> None:
        kind = ""
        if name == "fsync":
            kind = " dir" if stat.S_ISDIR(os.fstat(args[0]).st_mode) else " file"
        calls.append(name + kind)
        call(*args, **kwargs)

    return record


def test_what_a_killed_writer_left_never_shows_and_is_removed(root: Path) -> None:
    (root / ".tmp").mkdir()
    (root / ".tmp" / "0123456789abcdef").write_bytes(b"half")
    store = DirectoryStore(root)
    assert list(store.list("")) == []
    store.put_new("a", b"1")
    assert list((root / ".tmp").iterdir()) == []
    assert [found.key for found in store.list("")] == ["a"]


def test_a_living_writers_file_is_not_swept(root: Path) -> None:
    DirectoryStore(root).put_new("a", b"1")
    with DirectoryStore(root)._written(b"in the making") as new:
        DirectoryStore(root).put_new("b", b"2")
        assert [path.name for path in (root / ".tmp").iterdir()] == [new.name]


def test_files_that_are_no_objects_do_not_show(root: Path, store: DirectoryStore) -> None:
    store.put_new("log/0001", b"x")
    (root / "log" / "with space").write_bytes(b"")
    (root / "log" / ".hidden").write_bytes(b"")
    (root / "lost found").mkdir()
    (root / "lost found" / "a").write_bytes(b"")
    os.mkfifo(root / "log" / "pipe")
    assert [found.key for found in store.list("")] == ["log/0001"]
    for key in ("log/pipe", "log"):
        with pytest.raises(NotFound):
            store.get(key)


def test_symbolic_links_are_never_followed(tmp_path: Path, root: Path, store: DirectoryStore) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "domain").symlink_to(outside)
    (root / "log").mkdir()
    (root / "log" / "0001").symlink_to(outside / "secret")
    assert list(store.list("")) == []
    forbidden: list[Callable[[], object]] = [
        lambda: store.get("domain/secret"),
        lambda: store.get("log/0001"),
        lambda: store.get_range("log/0001", 0, 6),
        lambda: store.put_new("domain/owner", b"x"),
        lambda: store.delete("domain/secret"),
        lambda: store.put_if("domain/secret", b"x", "tag"),
    ]
    for attempt in forbidden:
        with pytest.raises(ForeignObject):
            attempt()
    with pytest.raises(CdpError):
        store.put_if("log/0001", b"x", "tag")
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


def test_the_root_itself_may_be_a_link(tmp_path: Path, root: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    store = DirectoryStore(tmp_path / "link")
    store.put_new("log/0001", b"x")
    assert [found.key for found in store.list("")] == ["log/0001"]


def test_a_key_that_another_keys_object_stands_in_front_of_is_refused(store: DirectoryStore) -> None:
    store.put_new("a", b"x")
    with pytest.raises(ForeignObject):
        store.put_new("a/b", b"y")


def test_an_object_that_is_too_large_is_refused_unread(root: Path, store: DirectoryStore) -> None:
    with (root / "huge").open("wb") as file:
        file.truncate(OBJECT_BYTES_MAX + 1)
    with pytest.raises(LimitExceeded):
        store.get("huge")
    assert store.get_range("huge", OBJECT_BYTES_MAX, 10) == b"\0"


def test_a_lock_that_a_stopped_process_holds_is_not_waited_for_for_ever(root: Path) -> None:
    store = DirectoryStore(root, SteppingClock())
    tag = store.put_new("domain/owner", b"1")
    with DirectoryStore(root)._locked():
        for write in (lambda: store.put_if("domain/owner", b"2", tag), lambda: store.delete("domain/owner")):
            with pytest.raises(StoreUnavailable, match="has held its lock"):
                write()
    store.put_if("domain/owner", b"2", tag)


def test_tags_differ_even_where_the_file_system_counts_in_two_seconds(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAT does; and the clock may go back by years."""
    real = os.utime

    def coarse(fd: int, ns: tuple[int, int]) -> None:
        real(fd, ns=(ns[0] // (2 * 10**9) * 2 * 10**9,) * 2)

    monkeypatch.setattr(os, "utime", coarse)
    store = DirectoryStore(root)
    tags = [store.put_new("domain/owner", b"same")]
    future_ns = 4 * 10**18
    os.utime(root / "domain" / "owner", ns=(future_ns, future_ns))
    tags.append(store.head("domain/owner").tag)
    for _ in range(5):
        tags.append(store.put_if("domain/owner", b"same", tags[-1]))
    assert len({tag.partition("-")[0] for tag in tags}) == len(tags)


def test_reading_writes_nothing(root: Path) -> None:
    (root / "log").mkdir()
    (root / "log" / "0001").write_bytes(b"x")
    store = DirectoryStore(root)
    assert store.get("log/0001").data == b"x"
    assert len(list(store.list(""))) == 1
    assert sorted(path.name for path in root.iterdir()) == ["log"]


def failing_directory_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fsync of a directory fails, as that of a dying disk does."""
    fsync = os.fsync

    def fails(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, "dying")
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fails)


def test_what_exists_without_a_durable_name_is_not_called_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that finds the key counts as stored: it must find it durable, also for another process."""
    with monkeypatch.context() as broken:
        failing_directory_sync(broken)
        store = DirectoryStore(tmp_path)
        for attempt in (store, store, DirectoryStore(tmp_path)):
            with pytest.raises(StoreUnavailable):
                attempt.put_new("log/1", b"segment")
        with pytest.raises(StoreUnavailable):
            store.get("log/1")
    with pytest.raises(PreconditionFailed):
        store.put_new("log/1", b"segment")
    assert store.get("log/1").data == b"segment"


def test_a_swap_without_a_durable_name_is_not_read_back_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DirectoryStore(tmp_path)
    tag = store.put_new("domain/owner", b"old")
    with monkeypatch.context() as broken:
        failing_directory_sync(broken)
        with pytest.raises(StoreUnavailable):
            store.put_if("domain/owner", b"new", tag)
        for read in (store.get, store.head):
            with pytest.raises(StoreUnavailable):
                read("domain/owner")
        with pytest.raises(StoreUnavailable):
            DirectoryStore(tmp_path).put_if("domain/owner", b"newer", tag)
    assert store.get("domain/owner").data == b"new"
