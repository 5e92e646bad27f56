"""Where a plain QEMU keeps UEFI's variables, and that its flash is no disk of the guest."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdp_agent.vms.qmp_answers import parse_answers
from cdp_container.domain.machine import FirmwareKind
from tests.unit.vms.test_golden import DIRECTORY

AS_DRIVES: list[dict[str, Any]] = [
    {"device": "pflash0", "qdev": "/machine/system.flash0", "drv": "raw", "ro": True, "file": "/code.fd"},
    {"device": "pflash1", "qdev": "/machine/system.flash1", "drv": "raw", "ro": False, "file": "/vars.fd"},
]
AS_NODES = [
    {**one, "device": "", "type": "cfi.pflash01", "node-name": f"flash{number}"}
    for number, one in enumerate(AS_DRIVES)
]
OF_ARM = [{**one, "qdev": one["qdev"].replace("system", "virt")} for one in AS_NODES]


def answers(*blocks: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DIRECTORY / "plain-q35.qmp").read_text())
    return {**found, "blocks": [*blocks, *found["blocks"]]}


@pytest.mark.parametrize("blocks", [AS_DRIVES, AS_NODES, OF_ARM])
def test_the_second_flash_has_the_variables_and_none_is_a_disk(blocks: list[dict[str, Any]]) -> None:
    without = parse_answers(answers(), "x")
    found = parse_answers(answers(*blocks), "x")
    assert found.variables_path == "/vars.fd"
    assert found.description.firmware.kind is FirmwareKind.UEFI
    assert found.description.disks == without.description.disks
    assert found.sources == without.sources


def test_without_a_second_flash_there_are_none() -> None:
    assert parse_answers(answers(), "x").variables_path is None
    found = parse_answers(answers(AS_DRIVES[0]), "x")
    assert (found.variables_path, found.description.firmware.kind) == (None, FirmwareKind.UEFI)


def test_variables_that_lie_in_no_file_are_not_read() -> None:
    far = {**AS_DRIVES[1], "file": "nbd+unix:///vars?socket=/run/nbd.sock"}
    assert parse_answers(answers(AS_DRIVES[0], far), "x").variables_path is None
