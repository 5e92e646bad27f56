"""The independent reader gets the configurations out of a container that were written, collected or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cdp_container.domain.machine import Description
from cdp_container.domain.machine_records import Configuration, Native, vm_record
from cdp_container.store.directory import DirectoryStore
from tests import vm_reader
from tests.containers import PASSPHRASE, Site

VM = b"V" * 16


def configuration(cpus: int) -> Configuration:
    return Configuration("web", Description("web", cpus=cpus), Native("libvirt", "<domain/>"))


@pytest.mark.parametrize("encrypted", [False, True])
def test_each_cut_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], encrypted: bool) -> None:
    (tmp_path / "secret").write_text(f"{PASSPHRASE}\n")
    (tmp_path / "store").mkdir()
    site = Site(DirectoryStore(tmp_path / "store"), seed=4, encrypted=encrypted)
    site.add_volume("disk", 4096)
    site.begin_epoch()
    site.say(vm_record(VM, configuration(2)))
    first = site.cut([])
    site.say(vm_record(VM, configuration(4)))
    second = site.cut([])
    site.say(vm_record(VM, None))
    third = site.cut([])

    def read(number: int) -> dict[str, dict[str, object]]:
        arguments = [str(tmp_path / "store"), "--cut", f"1.{number}"]
        arguments += ["--passphrase-file", str(tmp_path / "secret")] if encrypted else []
        assert vm_reader.main(arguments) == 0
        found: dict[str, dict[str, object]] = json.loads(capsys.readouterr().out)
        return found

    for place, cpus in ((first, 2), (second, 4)):
        (value,) = read(place.cut).values()
        assert value["name"] == "web"
        assert isinstance(value["description"], dict)
        assert value["description"]["cpus"] == cpus
    assert read(third.cut) == {}
