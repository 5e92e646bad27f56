"""`rehydrate export` as an administrator runs it, with the real qemu-img, on containers of tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from cdp_container.clock import SystemClock
from cdp_container.domain.machine import Description, Disk
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.errors import (
    DamagedObject,
    ExportFailed,
    MissingObject,
    NoSuchVm,
    NoSuchVolume,
    TargetNotEmpty,
    UsageError,
)
from cdp_container.store.directory import DirectoryStore
from rehydrate.cli.export_run import Opened, Volume, opened_destination
from rehydrate.cli.export_targets import Targets
from rehydrate.export.content import Bytes
from rehydrate.export.formats import FORMATS, Shape, shape_of
from rehydrate.export.images import make_image
from tests.containers import Site, write
from tests.rosters import give_roster, holds_in
from tests.unit.rehydrate.conftest import Run, answer
from tests.unit.rehydrate.test_cli import refused

pytestmark = pytest.mark.slow

VM = b"V" * 16
KIB = 1 << 10
SIZES = {"root": 3 << 20, "data": (1 << 20) + 1024}


@pytest.fixture
def protected(place: Path) -> Site:
    site = Site(DirectoryStore(place), seed=3)
    disks = {name: site.add_volume(name, size_bytes) for name, size_bytes in SIZES.items()}
    site.add_volume("other", 64 * KIB)
    web = Description(
        "web", disks=(Disk("vda", disks["root"], boot=1), Disk("vdb", disks["data"]), Disk("vdc"))
    )
    site.begin_epoch()
    site.say(vm_record(VM, Configuration("shop-web", web, Native("libvirt", "<domain/>"))))
    for number in range(3):
        site.cut([write(disks["root"], number * 700 * KIB, site.rng.randbytes(200 * KIB))])
    site.cut([write(disks["data"], SIZES["data"] - 900, b"e" * 900)])
    site.protect(max(site.images))
    return site


def contents_of(site: Site) -> list[bytes]:
    return sorted(site.images[max(site.images)].values(), key=len)


def raw_of(image: Path, into: Path) -> bytes:
    drivers = {".vhd": "vpc"}
    driver = drivers.get(image.suffix, image.suffix[1:])
    subprocess.run(["qemu-img", "convert", "-f", driver, "-O", "raw", str(image), str(into)], check=True)
    return into.read_bytes()


@pytest.mark.needs("qemu-img")
@pytest.mark.parametrize("image_format", FORMATS)
def test_every_volume_comes_back_out_of_its_image(
    run: Run, protected: Site, place: Path, out: Path, tmp_path: Path, image_format: str
) -> None:
    told = answer(run, "export", place, "--all", "--to", out, "--format", image_format)
    images = {one["volume"]: Path(one["target"]) for one in told["images"]}
    assert sorted(path.name for path in out.iterdir()) == sorted(
        f"{name}.{image_format}" for name in ("root", "data", "other")
    )
    found = sorted((raw_of(path, tmp_path / "raw") for path in images.values()), key=len)
    assert found == contents_of(protected)


@pytest.mark.needs("qemu-img")
def test_a_vm_is_exported_with_its_configuration_and_without_other_disks(
    run: Run, protected: Site, place: Path, out: Path
) -> None:
    code, _, stderr = run("export", place, "--vm", "shop-web", "--to", out, "--format", "qcow2")
    assert code == 0, stderr
    assert "disk vdc of shop-web is no volume" in stderr
    assert sorted(path.name for path in out.iterdir()) == ["data.qcow2", "root.qcow2", "shop-web.vm.json"]
    members = json.loads((out / "shop-web.vm.json").read_bytes())
    assert members["native"] == {"kind": "libvirt", "document": "<domain/>"}
    assert set(members["volumes"].values()) == {"root", "data"}
    assert "holds" in refused(
        run, TargetNotEmpty.exit_code, "export", place, "--vm", VM.hex(), "--to", out, "--format", "qcow2"
    )
    words = ("export", place, "--vm", "no", "--to", out, "--format", "qcow2")
    assert "shop-web" in refused(run, NoSuchVm.exit_code, *words)


@pytest.mark.needs("qemu-img")
def test_a_configuration_that_somebody_writes_meanwhile_is_not_overwritten(
    run: Run, protected: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = out / "shop-web.vm.json"

    def meanwhile(
        path: Path, source: Bytes, shape: Shape, data_bytes: int, force: bool,
        environment: Mapping[str, str], check: Callable[[], None],
    ) -> str:  # fmt: skip
        theirs.write_text("theirs")
        return make_image(path, source, shape, data_bytes, force, environment, check)

    monkeypatch.setattr("rehydrate.cli.export_run.make_image", meanwhile)
    words = ("export", place, "--vm", "shop-web", "--to", out, "--format", "qcow2")
    assert theirs.name in refused(run, TargetNotEmpty.exit_code, *words)
    assert theirs.read_text() == "theirs"
    assert run(*words, "--force")[0] == 0
    assert json.loads(theirs.read_bytes())["name"] == "shop-web"


def test_an_image_that_is_called_as_the_configuration_beside_it_is_refused(out: Path) -> None:
    """With --force the configuration would replace the image that was made an hour before."""
    path = out / "web.vm.json"
    targets = Targets((), "web", path, False, None, None, True, False, False, 1)
    volume = cast(Volume, SimpleNamespace(plan=SimpleNamespace(volume=None), file="disk.raw"))
    opened = cast(Opened, None)
    with (
        opened_destination(targets, shape_of("raw", None), opened, SystemClock(), lambda: None) as files,
        pytest.raises(UsageError, match=r"web\.vm\.json"),
    ):
        files.check([volume], ("web", VM))


@pytest.mark.needs("qemu-img")
def test_a_file_gets_one_volume_aligned_and_zeros_behind_it(
    run: Run, protected: Site, place: Path, out: Path, tmp_path: Path
) -> None:
    target = out / "azure.vhd"
    words = ("export", place, "--volume", "data", "--to", target, "--format", "vhd", "--subformat", "fixed")
    told = answer(run, *words, "--align", "1MiB")
    assert told["images"][0]["disk_bytes"] == 2 << 20
    assert target.stat().st_size == (2 << 20) + 512  # and its footer
    raw = raw_of(target, tmp_path / "raw")
    assert raw == contents_of(protected)[1].ljust(2 << 20, b"\0")


@pytest.mark.needs("qemu-img")
def test_damage_ends_it_and_leaves_nothing_with_the_name(
    run: Run, protected: Site, place: Path, out: Path
) -> None:
    (largest,) = sorted((place / "log").rglob("*"), key=lambda path: path.stat().st_size)[-1:]
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.unlink()
    largest.write_bytes(data)
    words = ("export", place, "--volume", "root", "--to", out, "--format", "qcow2")
    assert largest.name in refused(run, DamagedObject.exit_code, *words)
    assert list(out.iterdir()) == []


@pytest.mark.needs("qemu-img")
def test_finished_images_stay_and_are_named_when_a_later_one_fails(
    run: Run, protected: Site, place: Path, out: Path
) -> None:
    (out / "root.qcow2.partial").mkdir()
    (out / "root.qcow2.partial" / "letters").write_text("dear")
    code, _, stderr = run("export", place, "--all", "--to", out, "--format", "qcow2")
    assert code == 64
    assert "finished: data in" in stderr
    assert (out / "data.qcow2").exists()
    assert not (out / "root.qcow2").exists()


def test_what_is_missing_is_told_before_anything_is_made(
    run: Run, protected: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("export", place, "--volume", "nothing", "--to", out, "--format", "raw")
    if shutil.which("qemu-img") is not None:
        refused(run, NoSuchVolume.exit_code, *words)
    refused(run, 2, "export", place, "--all", "--to", out / "file", "--format", "raw")
    monkeypatch.setenv("PATH", str(out))
    assert "qemu-img is not installed" in refused(
        run, ExportFailed.exit_code, "export", place, "--all", "--to", out, "--format", "qcow2"
    )
    assert list(out.iterdir()) == []


@pytest.mark.needs("qemu-img")
def test_objects_that_moved_are_looked_for_anew_under_a_hold_and_what_is_done_stays(
    run: Run, protected: Site, place: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    purposes: list[str] = []
    give_roster(protected.store, protected.domain)

    def make(path: Path, *arguments: object) -> str:
        made.append(path.name)
        purposes.extend(hold.purpose for hold in holds_in(protected.store, protected.domain).values())
        if made == ["data.qcow2", "other.qcow2"]:
            raise MissingObject("log/1", "it was collected")
        return make_image(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("rehydrate.cli.export_run.make_image", make)
    monkeypatch.setattr("rehydrate.cli.opening.is_superseded", lambda store, owner: True)
    code, _, stderr = run("export", place, "--all", "--to", out, "--format", "qcow2")
    assert code == 0, stderr
    assert made == ["data.qcow2", "other.qcow2", "other.qcow2", "root.qcow2"]
    assert purposes == ["export"] * len(made)
    assert holds_in(protected.store, protected.domain) == {}
