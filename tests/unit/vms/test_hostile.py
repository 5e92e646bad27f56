"""Documents that no hypervisor writes: each is refused by a typed error, soon, and nothing is looked at."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cdp_agent.vms.by_hand import parse_by_hand
from cdp_agent.vms.libvirt_xml import parse_domain
from cdp_agent.vms.proxmox_conf import parse_conf, parse_storages
from cdp_agent.vms.qmp_answers import ask_all, parse_answers
from cdp_container.domain.machine import build_description
from cdp_container.errors import CdpError, HypervisorFailed

DIRECTORY = Path(__file__).parents[2] / "golden" / "vms"
BOMB = """<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><domain><name>&b;</name></domain>"""
OUTSIDE = """<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><domain><name>&a;</name></domain>"""


@pytest.mark.parametrize(
    "text",
    [
        "", "not xml", "<domain>", "<domain/>", "<pool><name>x</name></pool>", BOMB, OUTSIDE,
        "<!DOCTYPE domain><domain><name>x</name></domain>", "<domain><name>&x;</name></domain>",
        "<domain><name>x</name><vcpu>many</vcpu></domain>", "<domain><name>x</name><vcpu>-1</vcpu></domain>",
        "<domain><name>x</name><memory unit='parsec'>1</memory></domain>",
        "<domain><name>x</name><memory>9999999999999999999</memory></domain>",
        "<domain>" * 100 + "</domain>" * 100, "<domain>" + "<a/>" * 30_000 + "</domain>",
        "<domain><name>" + "x" * 200_000 + "</name></domain>", "<domain><name>a\0b</name></domain>",
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_domains_that_are_none(text: str) -> None:
    with pytest.raises(HypervisorFailed):
        parse_domain(text, "it")


@pytest.mark.parametrize(
    "text",
    ["", "hello", "\0", "[pending]\nmemory: 5", "memory: lots", "cores: -1", "cores: 99999999999999", "x: y"],
)
def test_files_that_are_none(text: str) -> None:
    with pytest.raises(HypervisorFailed):
        parse_conf(text, "100", "it")


def test_lines_that_make_no_sense_are_counted_and_the_rest_is_taken() -> None:
    found = parse_conf("memory: 512\nwhat is this\nnet0: \nscsi0\nname: a\n", "100", "it")
    assert found.description.name == "a"
    assert found.description.left_out == ("2 lines that make no sense",)


def test_a_volume_never_leads_out_of_its_storage() -> None:
    storages = parse_storages("dir: local\n\tpath /var/lib/vz\n")
    found = parse_conf("memory: 1\nscsi0: local:../../../etc/passwd\nscsi1: nowhere:x\n", "1", "it", storages)
    assert [source.path for source in found.sources.values()] == [None, None]


@pytest.mark.parametrize(
    "text",
    [
        "", "- a", "5", "name: a\nname: b", "name: [", "name: &a b\nnote: *a", "name: a\ncpu: 5",
        "name: a\ndisks: [{name: x, volume: 00112233445566778899aabbccddeeff}]", "name: a\nversion: 7",
        "5: x", "name: a\ndisks: [{name: x, buss: scsi}]", "name: a\nnote: " + "[" * 40,
    ],
)  # fmt: skip
def test_pages_that_are_none(text: str) -> None:
    with pytest.raises(HypervisorFailed):
        parse_by_hand(text, "it")


@pytest.mark.parametrize("answers", [{}, {"devices": 5}, {"devices": [], "machine": None, "cpus": []}])
def test_answers_that_are_none(answers: dict[str, object]) -> None:
    with pytest.raises(HypervisorFailed):
        parse_answers(answers, "it")


@pytest.mark.parametrize("answer", [[1], "x", {"a": 1}, [{}] * 5_000])
def test_a_qemu_that_answers_anything(answer: object) -> None:
    def ask(command: str, _: object) -> object:
        return answer if command in ("query-block", "qom-list") else None

    with pytest.raises(HypervisorFailed):
        ask_all(ask, "it")


@pytest.mark.parametrize("path", sorted(DIRECTORY.iterdir()), ids=lambda path: path.name)
def test_documents_with_random_damage_fail_in_a_typed_way(path: Path) -> None:
    """A few hundred damaged copies of each: a typed error, or a description that can be written."""
    text, rng = path.read_text(), random.Random(path.name)
    parse = {".xml": parse_domain, ".yaml": parse_by_hand}.get(path.suffix)
    for _ in range(150):
        at, length = rng.randrange(len(text)), rng.choice((1, 3, 30))
        junk = "".join(rng.choice("<>&\"':[]{},=\n\t0a%é") for _ in range(rng.choice((0, 1, 3))))
        damaged = text[:at] + junk + text[at + length :]
        try:
            if parse is not None:
                found = parse(damaged, "it")
            elif path.suffix == ".conf":
                found = parse_conf(damaged, "100", "it", parse_storages(damaged), damaged)
            else:
                continue
            build_description(found.description)
        except CdpError:
            continue
