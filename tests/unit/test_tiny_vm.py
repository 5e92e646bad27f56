"""What tests of real guests rest on: what is read of a console, and how a guest is told what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_guest import make
from tests.tiny_guest.make import archive
from tests.tiny_vm import Console, Job, Mark, mark_of, place_of, words_of


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("MARK fsync 3 ab 1.50", Mark("fsync", ("3", "ab"), 1.5, 7.0)),
        ("MARK boot 2.0", Mark("boot", (), 2.0, 7.0)),
        ("MARK file 3 ab", Mark("file", ("3", "ab"), -1.0, 7.0)),
        ("MARK", None),
        ("[ 2.0] MARK boot 2.0", None),
        ("", None),
    ],
)
def test_marks_are_read(line: str, mark: Mark | None) -> None:
    assert mark_of(line, 7.0) == mark


def test_a_console_is_followed_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "console"
    with Console(path) as console:
        with pytest.raises(AssertionError, match="in vain"):
            console.wait_for("MARK", seconds_max=0.0)
        with path.open("a") as file:
            file.write("MARK boot 1.0\r\nMARK fs")
            file.flush()
            assert console.wait_for("MARK boot", seconds_max=30) == "MARK boot 1.0"
            assert console.marks("fsync") == []
            file.write("ync 0 ab 1.1\n")
        console.wait_for("MARK fsync 0", seconds_max=30)
        assert [mark.words for mark in console.marks("fsync")] == [("0", "ab")]
        with pytest.raises(AssertionError, match="ended before"):
            console.wait_for("MARK done", lambda: False, seconds_max=30)
        with path.open("a") as file:
            file.write("MARK failed mount /dev/vda 1.2\n")
        with pytest.raises(AssertionError, match="mount /dev/vda"):
            console.wait_for("MARK done", seconds_max=30)


def test_what_a_guest_is_to_do_stands_in_its_command_line(tmp_path: Path) -> None:
    words = words_of(
        tmp_path, [tmp_path / "a", "nbd://h:1/x"], Job("verify", n=3, root=True, net=True), port=9
    )
    line = words[words.index("-append") + 1]
    assert "cdp.job=verify cdp.n=3 " in line
    assert "cdp.root=1" in line
    assert any("hostfwd=tcp:127.0.0.1:9-:7777" in word for word in words)
    assert [json.loads(word)["node-name"] for word in words if word.startswith("{")] == [
        "vda-file", "vda-top", "vdb-file", "vdb-top",
    ]  # fmt: skip


def test_places_of_disks(tmp_path: Path) -> None:
    assert place_of(tmp_path / "a")["driver"] == "file"
    there = place_of("nbd+unix:///db,1?socket=/run/n.sock")
    assert (there["server"], there["export"]) == ({"type": "unix", "path": "/run/n.sock"}, "db,1")
    assert place_of("nbd://10.0.0.1/x")["server"] == {"type": "inet", "host": "10.0.0.1", "port": "10809"}


def test_archives_are_as_the_kernel_reads_them() -> None:
    """Parsed by its document (initramfs-format), not by what wrote it."""
    data, found, at = archive(("bin",), {"bin/x": b"12345", "init": b""}), {}, 0
    while True:
        assert (at % 4, data[at : at + 6]) == (0, b"070701")
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name = data[at + 110 : at + 110 + fields[11] - 1].decode()
        at = (at + 110 + fields[11] + 3) & ~3
        if name == "TRAILER!!!":
            break
        found[name] = (fields[1], data[at : at + fields[6]])
        at = (at + fields[6] + 3) & ~3
    assert found == {"bin": (0o40755, b""), "bin/x": (0o100755, b"12345"), "init": (0o100755, b"")}


# --- making it ------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, which begins with nothing."""
    for name in ("KERNEL", "INITRD", "BUSYBOX"):
        monkeypatch.setattr(make, name, tmp_path / getattr(make, name).name)
    monkeypatch.setattr(make, "CACHE", tmp_path)
    return tmp_path


def test_where_it_cannot_be_had_this_is_told_and_no_failure(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(cache / "nothing"))
    assert not make.is_ready()
    with pytest.raises(make.NotHereError, match="apt-get is not here"):
        make.make()
    make.main()
    assert "left out" in capsys.readouterr().err
    assert not make.is_whole()
    (cache / "packages").mkdir()
    (cache / "packages" / "linux.deb").write_bytes(b"cut short")
    assert not make.is_ready()


@pytest.mark.slow
@pytest.mark.needs("tiny guest")
def test_what_is_damaged_is_made_again_from_what_was_downloaded(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(Path(make.__file__).parents[2] / "build/tiny-guest/packages", cache / "packages")
    dpkg = Path(shutil.which("dpkg-deb") or "").parent
    monkeypatch.setenv("PATH", f"{dpkg}:{Path(shutil.which('tar') or '').parent}")
    assert make.is_ready()
    made = (cache / "made.json").read_bytes()
    for name in ("vmlinuz", "initrd.gz", "busybox"):
        with (cache / name).open("r+b") as file:
            file.truncate(100_000)
        assert not make.is_whole()
    assert make.is_ready()
    assert (cache / "made.json").read_bytes() == made
    assert sorted(path.name for path in cache.iterdir()) == [
        "busybox", "initrd.gz", "lock", "made.json", "packages", "vmlinuz",
    ]  # fmt: skip
