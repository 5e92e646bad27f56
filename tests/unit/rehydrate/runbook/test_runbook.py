"""Runbooks: what a page may say, what a rehearsal makes of it, and whether it fits a point and a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from cdp_container.domain.machine import Bus, Description, DirectBoot, Disk, DiskKind, Nic
from cdp_container.domain.machine_records import Configuration, Member, Native
from cdp_container.errors import ConfigInvalid, RenderRefused
from rehydrate.render.recovered import NetworkKind
from rehydrate.runbook.changes import addresses_of, changes_of
from rehydrate.runbook.check import AtPoint, boot_findings_of, findings_of
from rehydrate.runbook.here import ThisMachine
from rehydrate.runbook.model import RunbookSettings, parse_runbook, rehearsed
from rehydrate.runbook.order import cycle_in, start_order

ROOT, DATA = b"R" * 16, b"D" * 16
PAGE = """\
target: qemu
directory: /srv/recovered
networks:
  prod: {bridge: br-dr}
  "*": {none: true}
vms:
  shop-db:
    cpus: 4
    memory: 8GiB
    networks: {prod: {bridge: br-db}}
    addresses: [{nic: 0, address: 10.9.0.5/24, gateway: 10.9.0.1, dns: [10.9.0.1]}]
    checks:
      - {tcp: "10.9.0.5:5432"}
      - {console: "login:"}
      - {command: [/usr/local/bin/pg-check, "10.9.0.5"]}
      - {http: "http://10.9.0.5/health", status: 200, body: "^ok"}
  shop-web: {start: {after: [shop-db], wait: 10s, within: 5m}}
test:
  networks: {"*": {bridge: br-test}}
  vms:
    shop-db: {checks: [{tcp: "10.99.0.5:5432"}, {console: "ready"}]}
"""


@dataclass
class Anywhere:
    """A machine that has all but what is named."""

    lacks: set[str] = field(default_factory=set)
    memory: int = 64 << 30

    def has_program(self, name: str) -> bool:
        return name not in self.lacks

    def has_bridge(self, name: str) -> bool:
        return name not in self.lacks

    def has_file(self, path: str) -> bool:
        return path not in self.lacks

    def can_make(self, directory: str) -> bool:
        return directory not in self.lacks

    def has_kvm(self) -> bool:
        return "kvm" not in self.lacks

    def memory_bytes(self) -> int:
        return self.memory


def member(name: str, **changed: object) -> Member:
    one = Description(
        name,
        memory_bytes=1 << 30,
        disks=(Disk("vda", ROOT if name == "shop-web" else DATA), Disk("sda", kind=DiskKind.CDROM)),
        nics=(Nic("net0", f"52:54:00:00:00:0{len(name) - 6}", "prod"),),
    )
    return Member(name.encode(), Configuration(name, replace(one, **changed), Native("qmp", "")))  # type: ignore[arg-type]


MEMBERS = (member("shop-db"), member("shop-web"))


def runbook(page: str = PAGE) -> RunbookSettings:
    return parse_runbook(page.encode(), "runbook.yaml")[0]


def told(
    page: str = PAGE,
    members: Sequence[Member] = MEMBERS,
    here: Anywhere | None = None,
    not_whole: tuple[bytes, ...] = (),
    volumes: tuple[bytes, ...] = (ROOT, DATA),
) -> list[str]:
    point = AtPoint(members, {one: one.decode()[:1] for one in volumes}, not_whole)
    return [one.words for one in findings_of(runbook(page), point, here or Anywhere())]


AT_POINT = AtPoint(MEMBERS, {ROOT: "R", DATA: "D"}, ())


def test_a_runbook_that_fits_is_told_nothing_of() -> None:
    assert told() == []


WRONG = {
    "target: qemu\n": ("target: xen\n", "must be 'qemu', 'libvirt' or 'proxmox'"),
    "directory: /srv/recovered": ("directory: srv", "is not an absolute path"),
    "cpus: 4": ("cpu: 4", "did you mean cpus?"),
    "memory: 8GiB": ("memory: much", "is not a size"),
    "{bridge: br-dr}": ("{bridge: br-dr, user: true}", "needs one of bridge, network, user and none"),
    "{bridge: br-db}": ("{bridge: 'x y'}", "is no name"),
    "10.9.0.5/24": ("10.9.0.5", "no prefix length"),
    "gateway: 10.9.0.1,": ("gateway: here,", "is no address"),
    '"10.9.0.5:5432"': ('"5432"', "is no host and port"),
    '"login:"': ('"lo(gin"', "is no regular expression"),
    "[/usr/local/bin/pg-check,": ("[pg-check,", "is no command"),
    '"http://10.9.0.5/health"': ('"gopher://x"', "is no address of a page"),
    '"^ok"': ('"+("', "is no regular expression"),
    "wait: 10s": ("wait: soon", "is not a duration"),
    "test:\n  networks": ("test:\n  network", "unknown key"),
}


@pytest.mark.parametrize("right", WRONG)
def test_a_fault_names_its_line_and_what_is_wrong(right: str) -> None:
    wrong, words = WRONG[right]
    assert right in PAGE
    page = PAGE.replace(right, wrong)
    with pytest.raises(ConfigInvalid) as refused:
        runbook(page)
    line = page[: page.index(wrong)].count("\n") + 1
    assert words in refused.value.why
    assert any(f"runbook.yaml:{number}: " in refused.value.why for number in (line, line + 1))


@pytest.mark.parametrize(
    "url", ["http://h:99999/", "http://h:x/", "http://[::1/", "http://:80/", "http://h:0"]
)
def test_an_address_that_none_can_be_is_a_fault_and_no_end_of_a_recovery(url: str) -> None:
    with pytest.raises(ConfigInvalid, match="is no address of a page"):
        runbook(PAGE.replace("http://10.9.0.5/health", url))


@pytest.mark.parametrize("pattern", ["(" * 500 + ")" * 500, "a{99999999999}"])
def test_a_pattern_that_python_cannot_even_read_is_a_fault(pattern: str) -> None:
    with pytest.raises(ConfigInvalid, match="is no regular expression"):
        runbook(PAGE.replace("login:", pattern))


def test_all_faults_are_told_at_once() -> None:
    page = PAGE
    for right, (wrong, _) in WRONG.items():
        page = page.replace(right, wrong)
    with pytest.raises(ConfigInvalid) as refused:
        runbook(page)
    assert len(refused.value.why.splitlines()) > 12


def test_a_rehearsal_has_no_network_of_production() -> None:
    page = PAGE.replace("shop-db: {checks", "shop-db: {cpus: 1, networks: {prod: {none: true}}, checks")
    page += "  directory: /srv/test\n"
    found = rehearsed(runbook(page))
    assert found is not None
    assert (found.mac, found.directory, found.of("shop-db").cpus) == ("new", "/srv/test", 1)
    assert found.of("shop-db").memory == 8 << 30
    assert found.of("shop-web").start.after == ["shop-db"]
    assert found.network_of("shop-db", "prod").as_network().kind is NetworkKind.NONE  # type: ignore[union-attr]
    assert found.network_of("shop-web", "prod").bridge == "br-test"  # type: ignore[union-attr]
    plain = rehearsed(runbook())
    assert plain is not None
    assert plain.network_of("shop-db", "prod").bridge == "br-test"  # type: ignore[union-attr]
    assert rehearsed(runbook(PAGE.partition("test:")[0])) is None


UNFIT: dict[str, tuple[str, str, str]] = {
    "a VM that is not there": ("shop-web: {start", "shop-wep: {start", "there is no VM shop-wep"),
    "a VM that nobody named": ("shop-web: {start", "shop-wep: {start", "VM shop-web is neither here nor"),
    "waits for nobody": ("after: [shop-db]", "after: [shop-dc]", "waits for shop-dc, which is no VM"),
    "a cycle": ("    cpus: 4", "    start: {after: [shop-web]}\n    cpus: 4", "these wait for each other"),
    "left out": ("test:", "leave_out: [shop-db]\ntest:", "waits for shop-db, which is left out"),
    "nobody": ("test:", "leave_out: [shop-db, shop-web]\ntest:", "no VM would be started"),
    "a network": (
        "networks: {prod: {bridge: br-db}}",
        "networks: {prot: {bridge: b}}",
        "has no network prot",
    ),
    "unmapped": ('  prod: {bridge: br-dr}\n  "*": {none: true}', "  lab: {user: true}", "nobody said what"),
    "libvirt's": ("{bridge: br-dr}", "{network: default}", "is one of libvirt's"),
    "a VLAN": ("{bridge: br-dr}", "{bridge: br-dr, vlan: 7}", "VLAN 7: a plain QEMU has none"),
    "a disk": ("    cpus: 4", "    without: [vdq]\n    cpus: 4", "has no disk vdq"),
    "a card": ("nic: 0", "nic: 1", "has no network card 1"),
    "a gateway": ("gateway: 10.9.0.1", "gateway: 10.8.0.1", "is not in the network"),
    "no agent": ("    cpus: 4", "    handed_over: guest-agent\n    cpus: 4", "has no guest agent"),
    "production's own": ("bridge: br-test", "bridge: prod", "prod is what VM shop-db is connected to"),
    "shared": ("bridge: br-test", "bridge: br-dr", "br-dr is a network of production too"),
    "twice": (
        "shop-web: {",
        "shop-web: {addresses: [{nic: 0, address: 10.9.0.5/16}], ",
        "10.9.0.5 is given twice: to shop-db and to shop-web",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_the_point_is_told(case: str) -> None:
    right, wrong, words = UNFIT[case]
    assert right in PAGE
    found = told(PAGE.replace(right, wrong))
    assert any(words in one for one in found), found
    assert len(found) == len({*found})


def test_name_servers_that_no_agent_is_handed_are_warned_of() -> None:
    has_agent = (member("shop-db", guest_agent=True), MEMBERS[1])
    page = PAGE.replace("    cpus: 4", "    handed_over: guest-agent\n    cpus: 4")
    (found,) = findings_of(runbook(page), replace(AT_POINT, members=has_agent), Anywhere())
    assert not found.is_fault
    assert "VM shop-db keeps its name servers" in found.words
    assert told(page.replace(", dns: [10.9.0.1]", ""), members=has_agent) == []


ALONE = ("{bridge: br-test}", "{none: true}"), ("{bridge: br-test}", "{user: true}")
OWN_CHECKS = PAGE[PAGE.index("  vms:\n    shop-db: {checks") :]


@pytest.mark.parametrize(("right", "wrong"), ALONE)
def test_a_check_of_production_is_no_check_of_a_machine_without_a_network(right: str, wrong: str) -> None:
    page = PAGE.replace(OWN_CHECKS, "").replace(right, wrong)
    found = findings_of(runbook(page), AT_POINT, Anywhere())
    places = {one.place: one for one in found}
    tcp, command, http = (places["vms", "shop-db", "checks", number] for number in (0, 2, 3))
    assert tcp.is_fault
    assert "10.9.0.5:5432" in tcp.words
    assert http.is_fault
    assert not command.is_fault
    assert len(found) == 3, "the console is its own"
    # Of what is started alone: a failover is not stopped by it, and neither is who leaves it out.
    assert boot_findings_of(runbook(page), AT_POINT, Anywhere(), rehearsal=False) == []
    left = runbook(page.replace("shop-web: {start: {after: [shop-db]", "shop-web: {start: {after: []"))
    assert left.test is not None
    test = left.test.model_copy(update={"leave_out": ["shop-db"]})
    assert findings_of(left.model_copy(update={"test": test}), AT_POINT, Anywhere()) == []
    own = page + OWN_CHECKS
    assert findings_of(runbook(own), AT_POINT, Anywhere()) == [], "it was said for the rehearsal"


def test_a_check_of_production_on_a_network_of_the_rehearsal_is_warned_of() -> None:
    found = findings_of(runbook(PAGE.replace(OWN_CHECKS, "")), AT_POINT, Anywhere())
    assert [one.is_fault for one in found] == [False, False, False]
    assert all("production's check" in one.words for one in found)


def test_qemus_own_network_is_no_network_of_a_rehearsal_in_libvirt() -> None:
    page = PAGE.replace("target: qemu", "target: libvirt").replace("{bridge: br-test}", "{user: true}")
    (found,) = findings_of(runbook(page), AT_POINT, Anywhere())
    assert found.is_fault
    assert found.place == ("test", "networks")
    assert "libvirt has no option" in found.words
    assert findings_of(runbook(page.replace("libvirt", "qemu")), AT_POINT, Anywhere()) == []
    assert boot_findings_of(runbook(page), AT_POINT, Anywhere(), rehearsal=False) == []


def test_libvirt_takes_one_machine_of_a_name_and_one_of_a_uuid() -> None:
    page = PAGE.replace("target: qemu", "target: libvirt")
    uuid = "8ae9fbb1-6c5d-4f2b-9a51-0f2f5e0a4a11"
    alike = [
        replace(
            one,
            configuration=replace(
                one.configuration, description=replace(one.configuration.description, name="tiny", uuid=uuid)
            ),
        )
        for one in MEMBERS
    ]
    words = told(page, alike)
    assert any("the name 'tiny', and libvirt takes one" in one for one in words), words
    assert any(f"the UUID {uuid}, and libvirt takes one" in one for one in words), words
    assert not any("libvirt takes one" in one for one in told(page) + told(PAGE, alike))


def test_disks_must_be_whole_volumes_of_the_point() -> None:
    assert any("volume D is not whole" in one for one in told(not_whole=(DATA,)))
    assert any("is no volume of this point" in one for one in told(volumes=(DATA,)))
    without = PAGE.replace("shop-web: {", "shop-web: {without: [vda], ")
    assert told(without, volumes=(DATA,)) == []


def test_macs_that_two_have_are_told_unless_they_are_new() -> None:
    nic = (Nic("net0", "52:54:00:AA:00:01", "prod"),)
    twins = (member("shop-db", nics=nic), member("shop-web", nics=nic))
    assert any("52:54:00:aa:00:01 is given twice" in one for one in told(members=twins))
    assert told("mac: new\n" + PAGE, members=twins) == []


def test_what_this_machine_lacks_is_told() -> None:
    lacks = {"br-dr", "br-test", "/usr/local/bin/pg-check", "qemu-system-x86_64", "/srv/recovered", "/srv/k"}
    page = PAGE.replace("    cpus: 4", "    direct_boot: {kernel: /srv/k}\n    cpus: 4")
    found = told(page, here=Anywhere(lacks, 2 << 30))
    for one in lacks:
        assert any(one in words for words in found), one
    assert any("of memory together" in words for words in found)
    assert any("no KVM" in words for words in told(PAGE.replace("qemu", "libvirt"), here=Anywhere({"kvm"})))


def test_a_kernel_that_is_not_protected_must_be_named() -> None:
    boots = (member("shop-db", direct_boot=DirectBoot("/boot/k")), MEMBERS[1])
    assert any("boots from /boot/k" in one for one in told(members=boots))


def test_vms_start_in_groups_and_a_cycle_is_named() -> None:
    after = {"a": [], "b": ["a"], "c": ["a", "elsewhere"], "d": ["b", "c"]}
    assert start_order(after) == [["a"], ["b", "c"], ["d"]]
    assert cycle_in(after) == []
    assert cycle_in({**after, "a": ["d"]})[0] in "abcd"
    assert cycle_in({"a": ["a"]}) == ["a", "a"]


def test_a_rendering_gets_what_the_runbook_says() -> None:
    one = MEMBERS[0].configuration.description
    found = changes_of(runbook(), "shop-db", one, {}, "/srv/x", "/srv/x/seed.iso", False)
    assert (found.cpus, found.memory_bytes, found.seed) == (4, 8 << 30, "/srv/x/seed.iso")
    assert found.networks["net0"].name == "br-db"
    (address,) = addresses_of(runbook(), "shop-db")
    assert (address.nic, address.gateway, address.dns) == (0, "10.9.0.1", ("10.9.0.1",))
    for page in (PAGE.replace("nic: 0", "nic: 7"), PAGE.replace("prod:", "lab:").replace('"*":', "x:")):
        with pytest.raises(RenderRefused):
            changes_of(runbook(page), "shop-db", one, {}, "/srv/x", "/srv/x/seed.iso", False)


def test_this_machine_answers(tmp_path: Path) -> None:
    here = ThisMachine()
    assert here.has_program("/bin/sh")
    assert not here.has_program("no-such-program")
    assert not here.has_bridge("no-such-bridge")
    (tmp_path / "file").touch()
    assert here.has_file(str(tmp_path / "file"))
    assert not here.has_file(str(tmp_path))
    assert here.can_make(str(tmp_path / "a" / "b"))
    assert not here.can_make(str(tmp_path / "file" / "b"))
    assert here.memory_bytes() > 1 << 20
    assert here.has_kvm() in (True, False)


def test_two_vms_with_one_disk_are_refused_unless_it_is_meant() -> None:
    """An export takes writes of both, so a file system that only one may have is lost."""
    both = (member("shop-db"), member("shop-web", disks=(Disk("vda", ROOT), Disk("vdb", DATA))))
    words = told(members=both)
    assert len(words) == 1
    assert (
        "volume D is disk vda of VM shop-db and disk vdb of VM shop-web: both would write on it" in words[0]
    )
    web = "shop-web: {start: {after: [shop-db], wait: 10s, within: 5m}"
    assert told(PAGE.replace(web, f"{web}, without: [vdb]"), both) == []
    one = PAGE.replace(web, f"{web}, shared: [vdb]")
    assert len(told(one, both)) == 1, "each of them has to know"
    assert told(one.replace("    cpus: 4\n", "    cpus: 4\n    shared: [vda]\n"), both) == []
    assert told(PAGE.replace(web, f"{web}, shared: [vdz]")) == ["VM shop-web has no disk vdz"]
    twice = (member("shop-db", disks=(Disk("vda", DATA), Disk("vdb", DATA))), member("shop-web"))
    assert len(told(members=twice)) == 1
    readers = [
        replace(member(name, disks=(Disk("vda", DATA, read_only=True),))) for name in ("shop-db", "shop-web")
    ]
    assert told(members=readers) == []
    on_ata = [
        member(name, disks=(Disk("sda", DATA, Bus.SATA, read_only=True),)) for name in ("shop-db", "shop-web")
    ]
    assert len(told(members=on_ata)) == 1, "none can be read only there"


def test_vms_that_nobody_could_tell_apart_are_refused() -> None:
    other = replace(member("shop-web", disks=(), nics=()), vm=b"another")
    assert told(members=(*MEMBERS, other)) == ["2 VMs of this point are called shop-web"]
    left = PAGE.replace("shop-web: {start: {after: [shop-db], wait: 10s, within: 5m}}", "")
    assert told(left.replace("test:\n", "leave_out: [shop-web]\ntest:\n"), (*MEMBERS, other)) == []
    named = b"shop-web".hex()
    page = PAGE.replace("test:\n", f"  '{named}': {{}}\ntest:\n", 1)
    masked = Member(b"other", replace(other.configuration, name=named))
    assert told(page, (*MEMBERS, masked)) == [f"VM {named} is called as the id of a VM"]
