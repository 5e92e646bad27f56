"""The directory of an overlay and what is asked of who serves it: what is refused, and what a kill leaves."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from cdp_container.errors import (
    AlreadyRunning,
    BackingUnreadable,
    Incomplete,
    NotFound,
    TargetNotEmpty,
    TargetUnsuitable,
    UsageError,
)
from nbd_export.files import OsFiles
from rehydrate.cli import serve_status
from rehydrate.serve import directory as overlays
from rehydrate.serve.control import ControlServer, ask
from rehydrate.serve.kept import KEPT_FILE, Kept, KeptVolume, load_kept, save_kept

VOLUME = KeptVolume(bytes(16), "db", "db", 8192)
KEPT = Kept(b"d" * 16, "/c", (1, 7), 5, (VOLUME,), hold="h")


def made(directory: Path) -> Kept:
    with overlays.locked(directory) as kept:
        assert kept is None
        return overlays.make(directory, OsFiles(), KEPT)


def test_an_overlay_is_made_once_found_again_and_for_one_process(tmp_path: Path) -> None:
    place = tmp_path / "o"
    assert made(place) == replace(KEPT, is_made=True)
    with overlays.locked(place) as kept:
        assert kept == replace(KEPT, is_made=True)
        with pytest.raises(AlreadyRunning, match="lock is locked") as caught, overlays.locked(place):
            raise AssertionError
        assert "rehydrate serving" in caught.value.hint
        with overlays.opened(place, OsFiles(), kept, overlays.boot_id()) as found:
            assert [one.size_bytes for one in found] == [8192]
    assert (place.stat().st_mode & 0o777, (place / "db.raw").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_start_that_was_killed_before_the_files_were_made_makes_them_anew(tmp_path: Path) -> None:
    save_kept(tmp_path, KEPT)
    (tmp_path / "db.raw").write_bytes(b"half")
    with overlays.locked(tmp_path) as kept:
        assert kept is not None
        assert not kept.is_made
        with overlays.opened(
            tmp_path, OsFiles(), overlays.make(tmp_path, OsFiles(), kept), overlays.boot_id()
        ) as found:
            assert found[0].read(0, 4) == bytes(4)


def test_what_is_something_else_is_refused_and_not_touched(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter").write_text("mine")
    with pytest.raises(TargetNotEmpty, match="letter"), overlays.locked(other):
        raise AssertionError
    assert [path.name for path in other.iterdir()] == ["letter"]
    with pytest.raises(TargetUnsuitable), overlays.locked(other / "letter" / "below"):
        raise AssertionError
    for wanted, why in (
        (replace(KEPT, domain=bytes(16)), "of the domain 6464"),
        (replace(KEPT, point=(1, 8)), "of the point 1.7"),
        (replace(KEPT, volumes=(replace(VOLUME, space=b"x" * 16),)), "of the volumes db"),
    ):
        with pytest.raises(TargetUnsuitable, match=why):
            overlays.check_same(tmp_path, KEPT, wanted)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'{"version": 1}', b"\xff"])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / KEPT_FILE).write_bytes(damage)
    with pytest.raises(BackingUnreadable, match="damaged"), overlays.locked(tmp_path):
        raise AssertionError


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    save_kept(tmp_path, KEPT)
    path = tmp_path / KEPT_FILE
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(BackingUnreadable, match="version 2"):
        load_kept(tmp_path)


def test_who_is_served_by_nobody_is_told_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound, match="no overlay"):
        serve_status.serving(tmp_path, finish=False, as_json=False)
    save_kept(tmp_path, replace(KEPT, is_made=True))
    with pytest.raises(Incomplete, match="nobody serves it"):
        serve_status.serving(tmp_path, finish=True, as_json=False)
    assert serve_status.serving(tmp_path, finish=False, as_json=False) == 0
    assert "point 1.7 of /c: not finished, and served by nobody now" in capsys.readouterr().out


def test_words_are_answered_in_long_directories_and_others_are_hung_up_on(tmp_path: Path) -> None:
    place = tmp_path / ("long" * 40)
    place.mkdir()
    asked = 0

    def status() -> dict[str, int]:
        nonlocal asked
        asked += 1
        return {"asked": asked}

    async def story() -> None:
        server = ControlServer({"status": status})
        (place / "control.sock").touch()  # of one that was killed
        await server.open(place)
        assert await asyncio.to_thread(ask, place, "status") == {"asked": 1}
        assert await asyncio.to_thread(ask, place, "what") is None
        assert await asyncio.to_thread(ask, place, "status" * 100) is None
        assert await asyncio.to_thread(ask, place, "status") == {"asked": 2}
        await server.close()
        assert await asyncio.to_thread(ask, place, "status") is None
        assert list(place.iterdir()) == []

    asyncio.run(story())


def test_where_it_listens_by_tcp(tmp_path: Path) -> None:
    none = (None, None, None)
    assert serve_status.ways_of(None, none, True, 5).bytes_per_second == 5
    found = serve_status.ways_of("[::1]:10809", none, False, None).tcp
    assert found is not None
    assert (found.host, found.port, found.tls) == ("::1", 10809, None)
    pem = tmp_path / "x.pem"
    assert serve_status.ways_of("192.0.2.1:1", (pem, pem, pem), False, None).tcp is not None
    for listen, certificates, why in (
        ("localhost:1", none, "no address"), ("127.0.0.1", none, "no add"), ("127.0.0.1:x", none, "no add"),
        ("127.0.0.1:65536", none, "no port"), ("192.0.2.1:1", none, "no TLS"),
        ("192.0.2.1:1", (pem, None, pem), "belong together"), (None, (pem, pem, pem), "no --listen"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=why):
            serve_status.ways_of(listen, certificates, False, None)
