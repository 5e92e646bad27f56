"""Whatever a description says, it stays a value: no word, element or line of its own."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import replace
from xml.etree.ElementTree import fromstring

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cdp_container.domain.machine import (
    Bus,
    Console,
    Description,
    DirectBoot,
    Disk,
    DiskKind,
    Firmware,
    FirmwareKind,
    Nic,
)
from cdp_container.domain.machine_records import Native
from cdp_container.errors import RenderRefused
from rehydrate.render.libvirt import render_libvirt
from rehydrate.render.proxmox import render_proxmox
from rehydrate.render.qemu import render_qemu
from rehydrate.render.recovered import FilePlace
from tests.unit.rehydrate.render.vms import NO_DOCUMENT, described

pytestmark = pytest.mark.slow

NASTY = (
    "$(touch /tmp/owned)", "`id`", "'; reboot; '", '"', "a\nb", "\r\n", "</domain>", "<disk/>", "&amp;", ",",
    "x,script=/bin/sh", "-device", "\\", "${IFS}", "#", "\u2028", "]]>", "--", "../../etc", "args: -x", "[a]",
    "\x01", "\x7f", "\x85", "é" * 30, "=", ";", "\ufffe",
)  # fmt: skip
TEXT = st.one_of(st.sampled_from(NASTY), st.text(max_size=40).map(lambda text: text.replace("\0", "")))
SOME = st.none() | TEXT
FIRMWARES = (Firmware(), Firmware(FirmwareKind.UEFI, True), Firmware(FirmwareKind.UEFI))


def described_by() -> st.SearchStrategy[Description]:
    places = st.none() | st.integers(1, 9)
    disk = st.builds(
        Disk,
        name=TEXT,
        bus=st.sampled_from(Bus),
        kind=st.sampled_from(DiskKind),
        boot=places,
        serial=SOME,
        read_only=st.booleans(),
        model=SOME,
    )
    nic = st.builds(Nic, name=TEXT, mac=SOME, network=SOME, model=SOME, boot=places)
    return st.builds(
        Description,
        name=TEXT.filter(bool),
        uuid=SOME,
        architecture=st.sampled_from(("x86_64", "aarch64")),
        machine=SOME,
        cpus=st.integers(1, 65_536),
        sockets=st.none() | st.integers(1, 65_536),
        cpu_model=SOME,
        memory_bytes=st.integers(1, (1 << 64) - 1),
        firmware=st.sampled_from(
            (Firmware(), Firmware(FirmwareKind.UEFI, True), Firmware(FirmwareKind.UEFI))
        ),
        disks=st.lists(disk, max_size=12, unique_by=lambda one: one.name).map(tuple),
        nics=st.lists(nic, max_size=4, unique_by=lambda one: one.name).map(tuple),
        direct_boot=st.none() | st.builds(DirectBoot, kernel=TEXT, command_line=TEXT),
        consoles=st.lists(st.sampled_from(Console), unique=True).map(tuple),
        owner=SOME,
        permissions=st.lists(TEXT, max_size=2).map(tuple),
        tags=st.lists(TEXT, max_size=2).map(tuple),
        note=TEXT,
        guest_agent=st.booleans(),
        autostart=st.booleans(),
    )


MANY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def skeleton(text: str) -> list[str]:
    """The lines of a script with each quoted word of QEMU's made empty."""
    lines = re.sub(r"'[^']*'", "''", text).split("\n")
    return [line for line in lines if not line.startswith("  ")]


def check_script(one: Description) -> None:
    with contextlib.suppress(RenderRefused):
        text = render_qemu(described(one)).text
        begin, _, rest = text.partition("set -- \\\n")
        assert skeleton(begin) == skeleton(
            render_qemu(described(plain(one))).text.partition("set -- \\\n")[0]
        )
        words = shlex.split(rest.replace("\\\n", ""))
        assert words[-3:] == ["$@", "exec", "$@"]
        options = words[:-3]
        assert options[0].startswith("qemu-system-")
        devices = [json.loads(value) for name, value in pairs(options) if name in ("-device", "-blockdev")
                   and value.startswith("{")]  # fmt: skip
        disks = [disk for disk in one.disks if disk.kind is DiskKind.DISK]
        assert sum("node-name" in device for device in devices) == len(disks)
        # What begins an option is ours: a value never is where one is looked for.
        assert {name for name, _ in pairs(options[1:])} <= OPTIONS


@MANY
@given(described_by())
def test_a_script_has_only_our_words(one: Description) -> None:
    check_script(one)


@pytest.mark.parametrize("text", NASTY)
def test_a_nasty_text_is_no_word_wherever_it_stands(text: str) -> None:
    disk = Disk(text, serial=text, model=text, bus=Bus.SCSI)
    nic = Nic(text, mac=text, network=text, model=text)
    check_script(
        Description(
            text,
            uuid=text,
            machine=text,
            cpu_model=text,
            memory_bytes=1 << 20,
            disks=(disk,),
            nics=(nic,),
            owner=text,
            tags=(text,),
            note=text,
        )
    )


OPTIONS = {
    "-nodefaults", "-no-user-config", "-name", "-machine", "-global", "-cpu", "-smp", "-m", "-uuid",
    "-device",
    "-rtc", "-boot", "-kernel", "-initrd", "-append", "-chardev", "-serial", "-mon", "-pidfile", "-vnc",
    "-display", "-blockdev", "-netdev",
}  # fmt: skip


def pairs(words: list[str]) -> list[tuple[str, str]]:
    """Options and their values."""
    found, rest = [], list(words)
    while rest:
        name = rest.pop(0)
        bare = name in ("-nodefaults", "-no-user-config") or name.startswith("qemu-system-")
        found.append((name, "" if bare else rest.pop(0)))
    return [(name, value) for name, value in found if not name.startswith("qemu-system-")]


def plain(one: Description) -> Description:
    """The same with nothing nasty in it."""
    return Description(
        "plain",
        architecture=one.architecture,
        memory_bytes=1 << 30,
        firmware=one.firmware,
        consoles=one.consoles,
    )


@MANY
@given(described_by(), st.booleans())
def test_xml_has_only_our_elements(one: Description, emulate: bool) -> None:
    with contextlib.suppress(RenderRefused):
        root = fromstring(render_libvirt(described(one, emulate=emulate)).text)
        assert len(root.findall("devices/disk")) == len(one.disks)
        assert len(root.findall("devices/interface")) == len(one.nics)
        assert {child.tag for child in root} <= {
            "name", "uuid", "genid", "description", "memory", "os", "features", "vcpu", "cpu", "clock",
            "devices",
        }  # fmt: skip


@MANY
@given(described_by())
def test_a_file_of_proxmox_has_each_key_once(one: Description) -> None:
    with contextlib.suppress(RenderRefused):
        lines = render_proxmox(described(one)).text.split("\n")
        assert lines.pop() == ""
        keys = [line.partition(":")[0] for line in lines if not line.startswith("#")]
        assert len(keys) == len({*keys})
        assert not {*keys} & {"args", "hookscript"}
        assert all(re.fullmatch(r"[a-z]+[0-9]*", key) for key in keys)
        assert len(lines[0].splitlines()) == 1


HOSTILE_XML = """<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>web</name><memory>1024</memory><os><type>hvm</type><loader type='rom'>/etc/shadow</loader>
<acpi><table type='slic'>/etc/shadow</table></acpi></os>
<devices><emulator>/tmp/owned</emulator>
<disk type='file' device='disk'><source file='/etc/shadow'/><target dev='vda'/></disk>
<disk type='file' device='cdrom'><source file='/etc/passwd'/><target dev='sda'/></disk>
<interface type='ethernet'><script path='/tmp/owned'/><backend tap='/tmp/owned'/>
<rom file='/tmp/owned'/></interface>
<serial type='file'><source path='/etc/cron.d/owned'/><log file='/etc/cron.d/owned'/></serial>
<rng model='virtio'><backend model='random'>/dev/mem</backend></rng>
<hostdev mode='subsystem' type='pci'/><filesystem><source dir='/etc'/></filesystem>
<input type='evdev'><source dev='/dev/input/event1'/></input>
</devices><sysinfo type='fwcfg'><entry name='x' file='/etc/shadow'/></sysinfo>
<qemu:commandline><qemu:arg value='-incoming'/></qemu:commandline></domain>"""


def test_a_document_makes_this_host_run_and_read_nothing() -> None:
    disks = (Disk("vda"), Disk("sda", kind=DiskKind.CDROM))
    one = Description("web", memory_bytes=1 << 20, disks=disks, nics=(Nic("net0"),))
    found = render_libvirt(described(one, Native("libvirt", HOSTILE_XML)))
    assert not re.search(r"owned|shadow|passwd|/etc|/dev/mem|/dev/input|qemu:arg|hostdev|evdev", found.text)
    assert "/srv/recovered/web/disk0.raw" in found.text
    assert any("qemu:commandline" in word for word in found.not_rendered)


HOSTILE_CONF = """name: web
args: -incoming exec:id
hookscript: local:snippets/x
memory: 512
serial0: /dev/ttyS0
scsi0: local:1,iothread=1,import-from=/etc/shadow
usb0: host=1-1
lock: backup
[snap]
args: -x
"""


def test_a_file_of_proxmox_makes_this_host_run_nothing() -> None:
    one = Description("web", memory_bytes=512 << 20, disks=(Disk("scsi0", bus=Bus.SCSI),))
    found = render_proxmox(described(one, Native("proxmox", HOSTILE_CONF)))
    assert not re.search(r"args|hook|/etc|ttyS0|usb0|lock|snap", found.text)
    assert "scsi0: /srv/recovered/web/disk0.raw,iothread=1" in found.text


NO_DOMAINS = (
    "<domain>",
    "<network/>",
    "<!DOCTYPE x><domain/>",
    "<domain type='lxc'/>",
    "<domain type='kvm'/>",
)


@pytest.mark.parametrize("document", NO_DOMAINS)
def test_a_document_that_is_no_domain_is_refused(document: str) -> None:
    with pytest.raises(RenderRefused):
        render_libvirt(described(Description("web", memory_bytes=1), Native("libvirt", document)))


def test_what_needs_a_word_is_refused() -> None:
    one = Description("web", memory_bytes=1 << 20, disks=(Disk("vda"),))
    place = FilePlace("/vda.raw")
    wrongs: list[tuple[Description, dict[str, object]]] = [
        (one, {"places": {}}),
        (one, {"places": {"vda": place, "vdx": place}}),
        (one, {"places": {"vda": FilePlace("vda.raw")}}),
        (one, {"directory": "/" + "x" * 200}),
        (replace(one, memory_bytes=0), {}),
        (replace(one, direct_boot=DirectBoot("/k")), {"direct_boot": None}),
        (replace(one, architecture="vax"), {}),
    ]
    for wrong, changed in wrongs:
        with pytest.raises(RenderRefused):
            render_qemu(described(wrong, NO_DOCUMENT, **changed))


def test_hundreds_of_disks_find_a_place() -> None:
    buses = (Bus.VIRTIO, Bus.SCSI, Bus.SATA)
    disks = tuple(Disk(f"{bus}-{number}", bus=bus) for bus in buses for number in range(60))
    one = Description("web", memory_bytes=1 << 20, disks=disks)
    assert render_qemu(described(one)).text.count('"node-name"') == len(disks)
    with pytest.raises(RenderRefused):
        render_proxmox(described(one))
