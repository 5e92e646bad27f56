"""The commands as an administrator runs them: exit codes, stdout and stderr, nothing left behind."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cdp_container.console import guarded
from cdp_container.domain import places
from cdp_container.entry import EXIT_INTERRUPTED
from cdp_container.errors import CdpError, UsageError
from cdp_container.format.keys import OWNER_KEY, segment_key
from cdp_container.format.preamble import parse_preamble
from cdp_container.store import address as addresses
from cdp_container.store.address import DirectoryPlace
from cdp_container.store.api import Store
from cdp_container.store.directory import DirectoryStore
from cdp_container.telling import table, time_text
from rehydrate.cli import commands, restoring
from rehydrate.cli.main import NEXT_STEPS
from rehydrate.cli.text import parse_point, parse_time, seconds_text, size_text, tree
from tests.containers import PASSPHRASE, Site, busy_container, write
from tests.unit.rehydrate.conftest import Run, answer, damage


@pytest.fixture
def site(place: Path) -> Site:
    return busy_container(DirectoryStore(place))


def refused(run: Run, code: int, *arguments: object) -> str:
    """A command that must fail with this code; gives its error."""
    found, stdout, stderr = run(*arguments)
    assert (found, stdout) == (code, "")
    lines = [line for line in stderr.splitlines() if line.startswith(("error: ", "hint: "))]
    assert [line.split(":")[0] for line in lines] == ["error", "hint"]
    assert PASSPHRASE not in stderr
    return lines[0]


def verified(run: Run, code: int, place: Path) -> str:
    """A verification that finds something, and says so like an error; gives its report."""
    found, stdout, stderr = run("verify", place)
    assert found == code
    assert [line.split(":")[0] for line in stderr.splitlines()[-2:]] == ["error", "hint"]
    return stdout


# --- bad input -------------------------------------------------------------------------------


def test_a_missing_directory_is_a_missing_bucket(run: Run, tmp_path: Path) -> None:
    refused(run, 11, "points", tmp_path / "nowhere")


def test_a_place_without_a_container_is_named(run: Run, place: Path) -> None:
    assert str(place) in refused(run, 12, "points", place)


def test_a_point_that_is_not_there(run: Run, site: Site, place: Path) -> None:
    for option in ("--at=9.9", "--at=6.7", "--marker=never", "--time=1999-01-01T00:00:00Z"):
        refused(run, 13, "plan", place, option)


def test_a_volume_that_is_not_there(run: Run, site: Site, place: Path) -> None:
    assert "disk, log" in refused(run, 14, "plan", place, "--volume", "tape")
    refused(run, 14, "plan", place, "--volume", "spare", "--at", "6.1")


def test_a_volume_that_is_not_whole(run: Run, site: Site, place: Path) -> None:
    assert "log" in refused(run, 13, "plan", place, "--volume", "log", "--at", "1.2")
    assert answer(run, "plan", place, "--volume", "disk", "--at", "1.2")["point"] == "1.2"


def test_a_wrong_passphrase(run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDP_PASSPHRASE", "wrong")
    refused(run, 30, "plan", place)


def test_no_passphrase(run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CDP_PASSPHRASE")
    refused(run, 31, "plan", place)
    refused(run, 31, "plan", place, "--passphrase-file", place / "nothing")


def test_a_passphrase_is_asked_for_on_a_terminal(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDP_PASSPHRASE")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("getpass.getpass", lambda _: PASSPHRASE)
    assert answer(run, "plan", place)["point"] == "6.2"

    def closed(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", closed)
    refused(run, 31, "plan", place)


def test_a_key_file_that_holds_no_key(run: Run, site: Site, place: Path, out: Path) -> None:
    (out / "key").write_text("not hex")
    refused(run, 2, "plan", place, "--key-file", out / "key")


def test_the_command_line(run: Run, site: Site, place: Path, out: Path) -> None:
    for arguments in (
        ("plan",),
        ("plan", place, "--at", "newest"),
        ("plan", place, "--time", "yesterday"),
        ("plan", place, "--time", "2026-11-20T10:00:00"),
        ("plan", place, "--at", "1.1", "--marker", "here"),
        ("plan", "ftp://somewhere"),
        ("restore", place),
        ("restore", place, "--all"),
        ("restore", place, "--all", "--target-dir", out, "--volume", "disk"),
        ("restore", place, "--target", out / "x"),
        ("show", place, "no/such/key"),
        ("destroy", place),
    ):
        refused(run, 2, *arguments)
    assert list(out.iterdir()) == []


def replace_object(place: Path, key: str, data: bytes) -> None:
    (place / key).unlink()
    (place / key).write_bytes(data)


def test_damage_is_named_and_nothing_is_left(run: Run, site: Site, place: Path, out: Path) -> None:
    key = segment_key(1, 1)
    data = (place / key).read_bytes()
    at = parse_preamble(data, key).head_length + 100  # within the first frame
    replace_object(place, key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert key in refused(run, 20, "restore", place, "--volume", "disk", "--target", out / "disk.raw")
    assert list(out.iterdir()) == []
    assert f"damaged: {key}" in verified(run, 27, place)


def test_a_missing_object_is_named(run: Run, site: Site, place: Path) -> None:
    (place / segment_key(2, 2)).unlink()
    assert segment_key(2, 2) in refused(run, 21, "plan", place)
    assert f"missing: {segment_key(2, 2)}" in verified(run, 27, place)


def test_a_verification_that_did_not_happen_is_told_from_one_with_findings(
    run: Run, site: Site, place: Path
) -> None:
    replace_object(place, OWNER_KEY, b"{}")
    for record in (place / "domain" / "epochs").iterdir():
        replace_object(place, str(record.relative_to(place)), b"{}")
    refused(run, 20, "verify", place)


def test_a_newer_format_is_refused(run: Run, site: Site, place: Path) -> None:
    key = segment_key(1, 1)
    data = (place / key).read_bytes()
    length = parse_preamble(data, key).preamble_length
    body = data[:8] + b"\2\0" + data[10 : length - 32]
    replace_object(place, key, body + hashlib.sha256(body).digest() + data[length:])
    assert key in refused(run, 22, "plan", place)


def test_a_foreign_object_is_refused(run: Run, site: Site, place: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    busy_container(DirectoryStore(tmp_path / "other"), seed=4)
    key = segment_key(1, 1)
    replace_object(place, key, (tmp_path / "other" / key).read_bytes())
    assert key in refused(run, 23, "plan", place)


def test_a_target_that_holds_something(run: Run, site: Site, place: Path, out: Path) -> None:
    (out / "disk.raw").write_bytes(b"precious")
    assert "holds 8 bytes" in refused(
        run, 63, "restore", place, "--volume", "disk", "--target", out / "disk.raw"
    )
    assert (out / "disk.raw").read_bytes() == b"precious"
    code, _, stderr = run("restore", place, "--volume", "disk", "--target", out / "disk.raw", "--force")
    assert code == 0
    assert f"overwriting: {out / 'disk.raw'} holds 8 bytes" in stderr


def test_one_refused_target_of_several_stops_all(run: Run, site: Site, place: Path, out: Path) -> None:
    (out / "log.raw").write_bytes(b"precious")
    refused(run, 63, "restore", place, "--all", "--target-dir", out)
    assert [path.name for path in out.iterdir()] == ["log.raw"]


def test_a_volume_whose_name_is_a_path_stays_inside(run: Run, place: Path, out: Path) -> None:
    site = Site(DirectoryStore(place))
    site.add_volume("../escape", 4096)
    site.begin_epoch()
    site.cut()
    refused(run, 2, "restore", place, "--all", "--target-dir", out)
    assert list(out.iterdir()) == []
    assert run("restore", place, "--volume", "../escape", "--target", out / "x.raw")[0] == 0


def test_an_unexpected_fault_says_everything_and_exits_with_1(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("surprise")

    monkeypatch.setattr(commands, "points", fail)
    code, _, stderr = run("points", place)
    assert code == 1
    assert "error: unexpected: RuntimeError: surprise" in stderr
    assert "Traceback" in stderr


def test_an_interruption_is_130_and_says_what_to_do_next(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(restoring, "restore", interrupted)
    monkeypatch.setattr(commands, "points", interrupted)
    assert run("restore", place, "--target", "x") == (
        EXIT_INTERRUPTED,
        "",
        f"interrupted: rehydrate restore: {NEXT_STEPS['restore']}\n",
    )
    assert run("points", place)[2].startswith("interrupted: rehydrate points: nothing was changed")


def test_every_class_of_error_gives_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (CdpError("a", "b"), UsageError("a", "b", "c")):

        def fail(error: CdpError = error) -> int:
            raise error

        assert guarded(fail) == error.exit_code
        assert capsys.readouterr().err == f"error: a: b\nhint: {error.hint}\n"


# --- what works ------------------------------------------------------------------------------


def test_domains_are_found_below_a_prefix_and_bulk_is_skipped(run: Run, tmp_path: Path) -> None:
    for name in ("a/one", "log/two", "three"):
        (tmp_path / name).mkdir(parents=True)
        busy_container(DirectoryStore(tmp_path / name))
    (tmp_path / "bad" / OWNER_KEY).parent.mkdir(parents=True)
    (tmp_path / "bad" / OWNER_KEY).write_text("{}")
    found = answer(run, "domains", tmp_path)["domains"]
    assert [item["address"] for item in found] == [
        str(tmp_path / name) for name in ("a/one", "bad", "log/two", "three")
    ]
    assert "error" in found[1]
    assert found[0]["name"] == "shop"
    assert [item["address"] for item in answer(run, "domains", tmp_path / "three")["domains"]] == [
        str(tmp_path / "three")
    ]


def test_points_say_what_can_be_restored(run: Run, site: Site, place: Path) -> None:
    found = answer(run, "points", place)["points"]
    by_name = {item["point"]: item for item in found}
    assert list(by_name) == ["1.1", "1.2", "1.3", "1.4", "2.1", "2.2", "2.3", "6.1", "6.2"]
    assert by_name["1.1"]["markers"] == ["installed"]
    assert by_name["1.2"]["whole"] is False
    assert (by_name["1.4"]["branch"], by_name["2.1"]["branch"]) == ("side", "main")
    assert (by_name["6.1"]["protected"], by_name["6.2"]["protected"]) == (True, False)
    assert [item["point"] for item in answer(run, "points", place, "--last", 2)["points"]] == ["6.1", "6.2"]
    code, stdout, _ = run("points", place, "--last", "1")
    assert code == 0
    assert "8 older ones" in stdout


def test_points_without_a_key_show_cuts(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDP_PASSPHRASE")
    found = answer(run, "points", place)
    assert found["sealed"] is True
    assert len(found["points"]) == 9


def image_of(site: Site, point: str, size: int) -> bytes:
    epoch, cut = map(int, point.split("."))
    (image,) = (image for place, image in site.images.items() if (place.epoch, place.cut) == (epoch, cut))
    (content,) = (content for content in image.values() if len(content) == size)
    return content


@pytest.mark.parametrize(
    ("choice", "point"),
    [
        ((), "6.2"),
        (("--at", "1.4"), "1.4"),
        (("--marker", "grown"), "6.2"),
        (("--marker", "installed"), "1.1"),
        (("--time", "2023-11-14T22:13:24+00:00"), "1.3"),
    ],
)
def test_a_volume_is_restored_at_a_point(
    run: Run, site: Site, place: Path, out: Path, choice: tuple[str, ...], point: str
) -> None:
    report = answer(run, "restore", place, "--volume", "disk", "--target", out / "disk.raw", *choice)
    assert report["point"] == point
    data = (out / "disk.raw").read_bytes()
    assert data == image_of(site, point, len(data))
    plan = answer(run, "plan", place, "--volume", "disk", *choice)
    assert (plan["fetch_bytes"], plan["write_bytes"]) == (report["fetched_bytes"], report["written_bytes"])
    assert (plan["gets"], plan["objects"]) == (report["gets"], report["objects"])


def test_one_of_a_thing_has_no_s(run: Run, place: Path, out: Path) -> None:
    site = Site(DirectoryStore(place))
    disk = site.add_volume("only", 4096)
    site.begin_epoch()
    site.cut([write(disk, 0, site.rng.randbytes(4096))])
    site.cut([])
    (out / "x.raw").write_bytes(b"x")
    assert "1 object, 1 GET, " in run("plan", place)[1]
    assert "and 1 older one: " in run("points", place, "--last", "1")[1]
    assert "holds 1 byte\n" in run("restore", place, "--target", out / "x.raw")[2]
    damage(place, segment_key(1, 1), -200)
    restored = run("restore", place, "--target", out / "y.raw", "--on-damage", "map")
    assert "in 1 part; 0 more doubts" in restored[2]
    assert "1 finding\n" in run("verify", place)[1]


def test_all_volumes_are_restored_into_a_directory(run: Run, site: Site, place: Path, out: Path) -> None:
    code, stdout, _ = run("restore", place, "--all", "--target-dir", out)
    assert code == 0
    assert sorted(path.name for path in out.iterdir()) == ["disk.raw", "log.raw"]
    assert "restored disk to" in stdout
    for path in out.iterdir():
        data = path.read_bytes()
        assert data == image_of(site, "6.2", len(data))


def test_an_id_names_a_volume_as_well(run: Run, site: Site, place: Path) -> None:
    (space,) = (space for space, data in site.images[max(site.images)].items() if len(data) == 100_000)
    plan = answer(run, "plan", place, "--volume", space.hex())
    assert [volume["name"] for volume in plan["volumes"]] == ["log"]


def test_the_only_volume_needs_no_name(run: Run, place: Path, out: Path) -> None:
    site = Site(DirectoryStore(place))
    site.add_volume("only", 5000)
    site.begin_epoch()
    site.cut()
    assert run("restore", place, "--target", out / "x.raw")[0] == 0
    assert (out / "x.raw").read_bytes() == bytes(5000)


def test_the_private_key_opens_as_well_as_the_passphrase(
    run: Run, site: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDP_PASSPHRASE")
    (out / "key").write_text(site.private_key.hex() + "\n")
    (out / "passphrase").write_text(PASSPHRASE + "\n")
    for option in (("--key-file", out / "key"), ("--passphrase-file", out / "passphrase")):
        assert answer(run, "plan", place, *option)["point"] == "6.2"


class ReadOnly(DirectoryStore):
    """Fails on every write, as a store with read-only credentials does."""

    def _refuse(self, *_: object) -> str:
        raise AssertionError("rehydrate must not write")

    put_new = put_if = _refuse  # type: ignore[assignment] # any call is a fault

    def delete(self, key: str) -> None:
        self._refuse(key)


def test_every_command_only_reads(
    run: Run, site: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(address: object, clock: object = None) -> Store:
        assert isinstance(address, DirectoryPlace)
        return ReadOnly(address.path)

    monkeypatch.setattr(places, "open_store", read_only)
    assert addresses.open_store is not read_only
    for arguments in (
        ("domains", place),
        ("points", place),
        ("plan", place),
        ("restore", place, "--all", "--target-dir", out),
        ("verify", place),
        ("show", place, "owner"),
    ):
        assert run(*arguments)[0] == 0


def test_verify_reads_all_or_one_point(run: Run, site: Site, place: Path) -> None:
    everything = answer(run, "verify", place)
    one = answer(run, "verify", place, "--marker", "installed")
    assert everything["findings"] == one["findings"] == []
    assert one["objects"] < everything["objects"]
    assert everything["frames_opened"] is True
    code, stdout, _ = run("verify", place)
    assert code == 0
    assert "everything is as it was written" in stdout


def test_what_no_point_needs_is_told_with_its_own_code(run: Run, site: Site, place: Path) -> None:
    zombie = segment_key(2, 5)
    data = (place / zombie).read_bytes()
    replace_object(place, zombie, data[:-1])
    (place / "readme").write_text("what is this")
    stdout = verified(run, 3, place)
    assert f"damaged: {zombie}" in stdout
    assert "ignored: readme" in stdout
    assert "1 finding\n" in stdout
    assert run("plan", place)[0] == 0


def test_show_says_what_objects_hold(run: Run, site: Site, place: Path) -> None:
    built = site.catalog([segment_key(1, 1)])
    pack = site.collect(1, 2, 3)
    assert answer(run, "show", place, "owner")["name"] == "shop"
    assert answer(run, "show", place, "config")["magic"] == "cdp-config"
    assert [item["epoch"] for item in answer(run, "show", place, "epochs")["epochs"]] == [1, 2, 6]
    segment = answer(run, "show", place, segment_key(1, 1))
    assert segment["preamble"]["cut"] == 1
    assert {record["name"] for record in segment["index"]["records"]} == {"space+", "marker"}
    assert answer(run, "show", place, built.key)["index"]["entries"][0]["seq"] == 1
    assert answer(run, "show", place, pack.key)["index"]["frames"] > 0
    ledger = answer(run, "show", place, "owner")["ledger"]["key"]
    assert answer(run, "show", place, ledger)["index"]["runs"][0]["last"] == 3
    assert "  cut: 1" in run("show", place, segment_key(1, 1))[1]
    refused(run, 21, "show", place, segment_key(1, 2))


def test_show_without_a_key_shows_what_is_in_clear(
    run: Run, site: Site, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CDP_PASSPHRASE")
    assert "sealed" in answer(run, "show", place, segment_key(1, 1))


def test_version_and_help(run: Run) -> None:
    assert run("version")[1].startswith("rehydrate ")
    assert run("restore", "--help")[0] == 0


# --- text ------------------------------------------------------------------------------------


def test_numbers_and_times_are_written_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40, 2**63 - 1)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
        "8.0 EiB",
    ]
    assert [seconds_text(n) for n in (0.04, 42, 190, 7500)] == ["0.0 s", "42 s", "3 min 10 s", "2 h 05 min"]
    assert time_text(1_700_000_000_123_000_000) == "2023-11-14T22:13:20.123Z"
    assert parse_time("2023-11-14T23:13:20.123+01:00") == 1_700_000_000_123_000_000
    assert parse_point("12.3401") == (12, 3401)
    assert table(("A", "B"), [("long", "x"), ("s", "")]) == "A     B\nlong  x\ns"
    assert tree({"a": {"b": [1, {"c": None}]}, "d": []}) == "a:\n  b:\n    - 1\n    -\n      c: -\nd: -"
