"""`rehydrate dr-test` as an administrator runs it, sad paths first: nothing ever stays behind."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp_container.domain import holding
from cdp_container.domain.roster import read_roster
from cdp_container.errors import (
    ChecksFailed,
    LocalDiskFull,
    NoSuchBucket,
    StoreUnavailable,
    TargetNotEmpty,
    UsageError,
)
from cdp_container.format.holds import Holds, build_holds
from cdp_container.format.keys import HOLDS_KEY, segment_key
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli.stage_lines import StageLines
from rehydrate.localio import write_all
from rehydrate.rehearsal import volumes
from rehydrate.rehearsal.stages import CLEAN_UP, CONTENT, METADATA, NAMES, NAMESPACE, Figures
from tests.containers import PASSPHRASE, Site, write
from tests.unit.rehydrate.conftest import Run, damage

KIB = 1 << 10
MEMBERS = """
    what version outcome error began began_ns ended ended_ns address domain replica cut content rpo rto
    stages sources machines checks curves hold readings notes left operator host kernel python software
    format_version
"""
HOSTILE = "<script>alert(1)</script>&\"'"


@pytest.fixture
def site(empty: Site) -> Site:
    """Two volumes, ten cuts, a roster."""
    first, second = empty.add_volume("db", 256 * KIB), empty.add_volume(HOSTILE, 128 * KIB)
    empty.begin_epoch()
    for number in range(10):
        empty.cut(
            [
                write(first, number * 8192, empty.rng.randbytes(8192)),
                write(second, number * 4096, b"x" * 4096),
            ]
        )
    empty.protect(empty.cut([write(first, 0, b"newest")], marker="friday"))
    empty.store.put_new(HOLDS_KEY, build_holds(Holds(empty.domain, 1, bytes(16))))
    return empty


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """The command leaves a handler behind that would end the tests: it expects to be the whole process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history"


@pytest.fixture
def test(
    run: Run, site: Site, place: Path, tmp_path: Path, history: Path
) -> Callable[..., tuple[int, Any, str]]:
    """Runs it; gives the code, its report, and stderr. Nothing must be left, in the store or here."""

    def rehearse(*options: object) -> tuple[int, Any, str]:
        before = {path for path in place.rglob("*") if path.is_file()}
        code, stdout, stderr = run(
            "dr-test", place, "--into", tmp_path / "into", "--history", history, "--json", *options
        )
        assert {path for path in place.rglob("*") if path.is_file()} == before, "read only, but for the hold"
        assert read_roster(site.store, site.domain).holds.holds == {}, "the hold was taken away"
        if "--keep" not in options:
            assert not (tmp_path / "into").exists(), "all was cleared away"
        return code, json.loads(stdout) if stdout else None, stderr

    return rehearse


def events(stderr: str, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


def fail_fetch(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], None]) -> None:
    """Before the so-manieth read of a range of a segment something happens, once."""
    real, seen = DirectoryStore.get_range, [0]

    def get_range(store: DirectoryStore, key: str, start: int, length: int) -> bytes:
        if key.startswith("log/") and start:
            seen[0] += 1
            if seen[0] == number:
                act()
        return real(store, key, start, length)

    monkeypatch.setattr(DirectoryStore, "get_range", get_range)


# --- what goes wrong --------------------------------------------------------------------------------


def test_the_store_fails_amid_a_stage(
    run: Run, site: Site, place: Path, tmp_path: Path, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise StoreUnavailable("get", "no answer")

    monkeypatch.setattr("cdp_container.store.retry._Attempts.pause_after", lambda _, error: _raise(error))
    fail_fetch(monkeypatch, 3, fail)
    code, stdout, stderr = run("dr-test", place, "--into", tmp_path / "into", "--history", history, "--json")
    assert code == StoreUnavailable.exit_code
    report = json.loads(stdout)
    assert (report["outcome"], report["error"]["exit_code"]) == ("failed", StoreUnavailable.exit_code)
    assert [(one["name"], one["state"]) for one in report["stages"]] == [
        (METADATA, "done"),
        (NAMESPACE, "done"),
        (CONTENT, "failed"),
        (CLEAN_UP, "done"),
    ]
    assert report["rto"] is None
    assert "error: get: no answer" in stderr
    assert not (tmp_path / "into").exists()
    assert len(list(history.iterdir())) == 1


def _raise(error: Exception) -> None:
    raise error


def test_a_store_that_is_not_there_is_filed_too(run: Run, tmp_path: Path, history: Path) -> None:
    words = ("dr-test", tmp_path / "nowhere", "--into", tmp_path / "into", "--history", history)
    code, _, stderr = run(*words)
    assert code == NoSuchBucket.exit_code, stderr
    (one,) = json.loads(run("rehearsals", "--history", history, "--json")[1])["rehearsals"]
    assert (one["outcome"], one["address"]) == ("failed", str(tmp_path / "nowhere"))
    assert not (tmp_path / "into").exists()


def test_a_hold_that_was_taken_away_is_placed_anew_and_all_begins_anew(
    test: Callable[..., tuple[int, Any, str]], site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_away() -> None:
        site.store.delete(HOLDS_KEY)
        site.store.put_new(HOLDS_KEY, build_holds(Holds(site.domain, 2, bytes(16))))
        for one in rehearsals:
            monkeypatch.setattr(holding, "refresh_due", lambda *_: True)
            one.look()
            monkeypatch.undo()

    rehearsals: list[holding.Holding] = []
    real = holding.Holding.place

    def place(self: holding.Holding, *arguments: Any) -> None:  # noqa: ANN401 (passed on)
        rehearsals.append(self)
        real(self, *arguments)

    monkeypatch.setattr(holding.Holding, "place", place)
    fail_fetch(monkeypatch, 4, take_away)
    code, report, _ = test()
    assert code == 0
    assert report["outcome"] == "passed"
    assert report["readings"] == 2
    assert [one["name"] for one in report["stages"]].count(METADATA) == 2


def test_a_disk_that_is_full_before_and_amid(
    test: Callable[..., tuple[int, Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs
    with monkeypatch.context() as patch:

        def little(path: Any) -> os.statvfs_result:  # noqa: ANN401 (passed on)
            fields = list(real(path))
            fields[0], fields[1], fields[4] = 1, 1, 1000  # f_bsize, f_frsize, f_bavail
            return os.statvfs_result(fields)

        patch.setattr(os, "statvfs", little)
        code, report, _ = test()
        assert (code, report["outcome"]) == (LocalDiskFull.exit_code, "failed")
        assert report["stages"][2]["requests_by_kind"]["GET"] == 0, "seen before anything was fetched"
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(volumes, "write_all", full)
        code, report, _ = test()
        assert (code, report["outcome"]) == (LocalDiskFull.exit_code, "failed")


def test_a_target_that_holds_something_is_refused_and_left_alone(
    run: Run, site: Site, place: Path, out: Path, history: Path
) -> None:
    (out / "mine").write_bytes(b"1")
    code, _, stderr = run("dr-test", place, "--into", out, "--history", history)
    assert code == TargetNotEmpty.exit_code
    assert "it holds 'mine'" in stderr
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_damage_ends_it_as_it_ends_a_restore(test: Callable[..., tuple[int, Any, str]], place: Path) -> None:
    damage(place, segment_key(1, 2), -3_000)
    code, report, _ = test()
    assert code == 20
    assert (report["outcome"], report["error"]["kind"]) == ("failed", "DamagedObject")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_in_each_stage_leaves_nothing_behind(
    name: str,
    number: signal.Signals,
    test: Callable[..., tuple[int, Any, str]],
    history: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[int] = []

    def progress(_: StageLines, figures: Figures) -> None:
        if figures.name == name and figures.done and not sent:
            sent.append(number)
            signal.raise_signal(number)

    monkeypatch.setattr(StageLines, "progress", progress)
    code, report, stderr = test()
    assert sent
    assert code == (130 if number == signal.SIGINT else 143)
    assert report["outcome"] == "interrupted"
    assert report["stages"][-1]["name"] == CLEAN_UP
    assert report["stages"][-1]["state"] == "done"
    assert "interrupted: rehydrate dr-test: what it made was cleared away" in stderr
    assert len(list(history.iterdir())) == 1


def test_checks_that_fail_hang_and_print_secrets(
    test: Callable[..., tuple[int, Any, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-store")
    printing = f"echo {PASSPHRASE}; echo a-secret-of-the-store; echo $CDP_PASSPHRASE$AWS_SECRET_ACCESS_KEY."
    code, report, stderr = test(
        *("--check", "sh -c 'exit 7'"),
        *("--check", "sleep 600", "--check-seconds", "1"),
        *("--check", f"sh -c '{printing}'"),
        *("--report", tmp_path / "r.html", "--report", tmp_path / "r.json"),
    )
    assert code == ChecksFailed.exit_code
    assert report["outcome"] == "checks failed"
    commands = [one for one in report["checks"] if one["kind"] == "command"]
    assert [one["state"] for one in commands] == ["failed", "failed", "passed"]
    assert [one["why"] for one in commands] == ["exit code 7", "it did not end within 1 s", "exit code 0"]
    assert commands[2]["excerpt"] == "[secret]\n[secret]\n.\n"
    everything = json.dumps(report) + (tmp_path / "r.html").read_text() + (tmp_path / "r.json").read_text()
    assert PASSPHRASE not in everything
    assert "a-secret-of-the-store" not in everything
    assert "restored, but 2 checks failed" in stderr


def test_what_cannot_be_run_or_written_is_refused_before_anything_is_done(
    test: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    for options in (
        ("--check", "no-such-program"),
        ("--check", "sh 'unbalanced"),
        ("--content", "sample:0"),
        ("--content", "sample:x"),
        ("--content", "half"),
        ("--report", tmp_path / "report.pdf"),
        ("--report", tmp_path / "missing" / "r.json"),
    ):
        code, report, _ = test(*options)
        assert (code, report) == (UsageError.exit_code, None), options


def test_an_image_that_a_check_finds_changed_fails(
    test: Callable[..., tuple[int, Any, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write_all

    def flipped(fd: int, offset: int, data: memoryview) -> None:
        real(fd, offset, memoryview(bytes([data[0] ^ 1]) + data[1:]) if offset == 8192 else data)

    monkeypatch.setattr(volumes, "write_all", flipped)
    code, report, _ = test()
    assert code == ChecksFailed.exit_code
    assert "db" in {one["subject"] for one in report["checks"] if one["state"] == "failed"}


# --- what goes right --------------------------------------------------------------------------------


def test_the_whole_of_it(test: Callable[..., tuple[int, Any, str]], site: Site) -> None:
    code, report, stderr = test("--operator", "Ada")
    assert code == 0
    assert sorted(report) == sorted(MEMBERS.split())
    first = (report["what"], report["version"], report["outcome"], report["error"])
    assert first == ("dr-test", 1, "passed", None)
    assert report["domain"] == {"id": site.domain.hex(), "name": "shop"}
    cut = report["cut"]
    assert set(cut) == {"point", "time", "time_ns", "markers", "whole", "not_whole", "protected"}
    assert (cut["point"], cut["markers"], cut["protected"]) == ("1.11", ["friday"], True)
    assert report["operator"] == "Ada"
    assert len(report["hold"]) == 32
    assert report["rpo"]["how"].startswith("the store's clock, when it wrote the hold")
    assert report["rpo"]["seconds"] > report["rpo"]["stored_seconds"] >= 0
    assert 0 < report["rto"]["seconds"] <= report["rto"]["with_checks_seconds"]
    stages = report["stages"]
    assert [one["name"] for one in stages] == list(NAMES)
    assert {one["state"] for one in stages} == {"done"}
    assert all(one["done"] == one["total"] for one in stages)
    assert stages[0]["done"] == 11
    assert stages[0]["requests_by_kind"]["LIST"] >= 1
    kinds = stages[2]["requests_by_kind"]
    assert kinds == {"GET": stages[2]["total"], "LIST": 0, "HEAD": 0, "PUT": 0, "DELETE": 0}
    assert stages[2]["done_bytes"] == stages[2]["total_bytes"] == stages[2]["received_bytes"]
    assert stages[3]["requests"] == stages[4]["requests"] == 0, "each stage counts from zero"
    assert [one["name"] for one in events(stderr, "stage-end")] == list(NAMES)
    assert set(report["curves"][0]) == {"seconds", "requests_per_second", "bytes_per_second", "in_flight"}
    assert [one["state"] for one in report["checks"]] == ["passed", "passed", "not checked", "not checked"]


def test_what_is_kept_is_the_cut(
    test: Callable[..., tuple[int, Any, str]], site: Site, tmp_path: Path
) -> None:
    code, report, _ = test("--keep", "--volume", "db")
    assert code == 0
    assert report["left"] == [str(tmp_path / "into" / "db.raw")]
    image = max(site.images.items())[1]
    assert (tmp_path / "into" / "db.raw").read_bytes() in image.values()
    assert [path.name for path in (tmp_path / "into").iterdir()] == ["db.raw"]


def test_commands_find_what_was_restored(test: Callable[..., tuple[int, Any, str]], tmp_path: Path) -> None:
    script = (
        'test -s $CDP_DR_VOLUME_DB && pwd && echo $CDP_DR_POINT $CDP_DR_TIME && printf %s "$CDP_DR_SOURCES"'
    )
    code, report, _ = test("--marker", "friday", "--check", f"sh -c '{script}'")
    assert code == 0
    lines = report["checks"][-1]["excerpt"].splitlines()
    assert lines[:2] == [str(tmp_path / "into"), f"1.11 {report['cut']['time']}"]
    assert set(json.loads(lines[2])) == {"db", HOSTILE}


def test_a_sample_and_none_tell_no_rto(test: Callable[..., tuple[int, Any, str]]) -> None:
    code, report, _ = test("--content", "sample:50")
    assert (code, report["content"], report["rto"]) == (0, "sample:50", None)
    assert 1 <= report["stages"][2]["done"] == report["stages"][2]["total"]
    assert {one["why"] for one in report["checks"] if one["kind"] == "fsck"} == {
        "not all of its content was fetched"
    }
    code, report, _ = test("--content", "none")
    assert (code, report["stages"][2]["total"], report["rto"]) == (0, 0, None)


def test_a_replica_is_read_without_a_hold(test: Callable[..., tuple[int, Any, str]]) -> None:
    code, report, stderr = test("--replica")
    assert (code, report["hold"]) == (0, "")
    assert "unheld: a hold in a replica is seen by nobody" in stderr
    assert sum(one["requests_by_kind"]["PUT"] for one in report["stages"]) == 0


def test_a_fixed_number_of_requests(test: Callable[..., tuple[int, Any, str]]) -> None:
    assert test("--parallel", "1")[0] == 0
    assert test("--parallel", "0")[0] == UsageError.exit_code


def test_for_people(run: Run, site: Site, place: Path, tmp_path: Path, history: Path) -> None:
    code, stdout, stderr = run("dr-test", place, "--into", tmp_path / "into", "--history", history)
    assert code == 0
    assert stdout.startswith("DR-test: passed\npoint 1.11 of ")
    ends = [line for line in stderr.splitlines() if line.startswith("stage ")]
    assert [line.split(":")[0] for line in ends] == [
        f"stage {n} of 5, {name}" for n, name in enumerate(NAMES, 1)
    ]
    assert "metadata: done, 11 of 11 objects in " in ends[0]
    code, stdout, _ = run("rehearsals", "--history", history)
    assert code == 0
    assert stdout.splitlines()[0].split()[:4] == ["BEGAN", "DOMAIN", "POINT", "OUTCOME"]
    assert stdout.splitlines()[1].split()[1:4] == ["shop", "1.11", "passed"]


def test_the_history_is_listed_with_what_cannot_be_read(
    run: Run, test: Callable[..., tuple[int, Any, str]], history: Path
) -> None:
    assert run("rehearsals", "--history", history)[1] == "no rehearsal yet\n"
    test()
    test("--check", "false")
    (history / f"{1:020}-00000000.json").write_text("{")
    code, stdout, _ = run("rehearsals", "--history", history, "--json")
    assert code == 0
    bad, good, failed = json.loads(stdout)["rehearsals"]
    assert bad["unreadable"]
    assert (good["outcome"], failed["outcome"]) == ("passed", "checks failed")
    assert good["rto_seconds"] > 0
    assert run("rehearsals", "--history", history)[0] == 0


def test_the_page_is_whole_by_itself_and_harmless(
    test: Callable[..., tuple[int, Any, str]], tmp_path: Path
) -> None:
    page = tmp_path / "r.html"
    (tmp_path / "printed").write_text(HOSTILE)
    options = ("--report", page, "--operator", HOSTILE, "--check", f"cat {tmp_path / 'printed'}")
    assert test(*options)[0] == 0
    text = page.read_text()
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    for outside in ("http://", "https://", "src=", "href=", "url(", "@import", "<link", "<img", "<iframe"):
        assert outside not in text.replace('xmlns="http://www.w3.org/2000/svg"', ""), outside
    assert text.count("<svg") == 3
