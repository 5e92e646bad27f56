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
from rehydrate.render.recovered import FilePlace, Network, NetworkKind
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


INSIDE = {
    # what it says: (where, the element, what must not be in the document)
    "a TPM that writes its state": (
        "devices",
        (
            "<tpm model='tpm-crb'><backend type='emulator' debug='20' version='2.0'>"
            "<source type='file' path='/dev/sda'/><encryption secret='x'/></backend></tpm>"
        ),
        "sda|debug|<source type=.file|encryption",
    ),
    "a shim": ("os", "<shim><path>/etc/shadow</path></shim>", "shim"),
    "a store of variables": ("os", "<varstore path='/etc/shadow' template='/etc/x'/>", "varstore"),
    "firmware of a name": ("os", "<firmware path='/etc/shadow'><x/></firmware>", "/etc"),
    "the host's SMBIOS": ("os", "<smbios mode='host'/>", "host"),
    "a boot by a file": ("os", "<boot dev='/etc/shadow'/>", "/etc"),
    "a core, and destroyed": ("domain", "<on_crash>coredump-destroy</on_crash>", "coredump"),
    "a core, and restarted": ("domain", "<on_crash>coredump-restart</on_crash>", "coredump"),
    "an unknown word": ("domain", "<on_reboot>exec</on_reboot>", "exec"),
    "a core of a watchdog": ("devices", "<watchdog model='itco' action='dump'/>", "dump"),
    "a video of another process": (
        "devices",
        (
            "<video><driver name='vhostuser'/><model type='virtio'><acceleration accel3d='yes' "
            "rendernode='/etc/shadow'/></model></video>"
        ),
        "vhostuser|rendernode|shadow",
    ),
    "a keymap that is a path": ("devices", "<graphics type='vnc' keymap='../../etc/shadow'/>", "shadow"),
    "a keymap without a slash": ("devices", "<graphics type='vnc' keymap='-x y'/>", "keymap"),
    "a display on the host's GPU": (
        "devices",
        "<graphics type='spice'><gl enable='yes' rendernode='/dev/dri/card0'/></graphics>",
        "<gl|/dri",
    ),
    "a socket of VNC": ("devices", "<graphics type='vnc' socket='/tmp/owned'/>", "owned"),
    "a ROM of a hub": ("devices", "<hub type='usb'><rom file='/tmp/owned'/></hub>", "owned"),
    "a memory in files": (
        "domain",
        "<memoryBacking><source type='file' path='/etc'/><x file='/etc'/></memoryBacking>",
        "/etc",
    ),
    "entries of files": (
        "domain",
        "<sysinfo type='smbios'><system><entry name='x' file='/etc/shadow'>a</entry></system></sysinfo>",
        "shadow",
    ),
    "sound into a file": (
        "devices",
        "<audio id='1' type='none' path='/tmp/owned'><output dev='/dsp'/></audio>",
        "owned|dsp",
    ),
    "a clock of a file": ("domain", "<clock offset='timezone' timezone='../../etc/shadow'/>", "shadow"),
    "a URL": ("domain", "<cpu><model>http://example.org/x</model></cpu>", "example"),
    "a log of a channel": (
        "devices",
        (
            "<channel type='unix'><source mode='bind' path='/tmp/owned'/><log file='/tmp/owned'/>"
            "<target type='virtio' name='x' path='/tmp/owned'/></channel>"
        ),
        "owned",
    ),
    "a forwarded address": (
        "devices",
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='80'/></channel>",
        "guestfwd",
    ),
    "a socket of a vsock": ("devices", "<vsock model='virtio'><source fd='/vhost'/></vsock>", "/vh"),
    "what is on the host's CPUs": ("domain", "<vcpu cpuset='0-3'>1</vcpu>", "cpuset"),
    "a cache of a disk": (
        "disk",
        "<driver name='qemu'><x path='/tmp/owned'/></driver>",
        "owned",
    ),
    "a target of a disk": ("disk", "<blockio path='/tmp/owned'/>", "owned"),
    "a card's driver": ("interface", "<driver name='qemu' path='/tmp/owned'><x/></driver>", "owned"),
    "what tools act by": (
        "domain",
        "<metadata x='y'>z<h:run xmlns:h='http://hooks'><h:cmd>reboot</h:cmd></h:run></metadata>",
        "hooks|reboot|>z<|x=",
    ),
    "what is called as libosinfo's": (
        "domain",
        "<metadata><x:libosinfo xmlns:x='http://hooks'><x:os id='http://e.org/a/1'/></x:libosinfo></metadata>",
        "hooks|osinfo",
    ),
    "what libosinfo does not say": (
        "domain",
        (
            "<metadata><libosinfo xmlns='http://libosinfo.org/xmlns/libvirt/domain/1.0'>"
            "<os id='$(reboot)'/></libosinfo></metadata>"
        ),
        "reboot",
    ),
    "a card's tap": ("interface", "<tune><sndbuf>/dev/net/tun</sndbuf></tune>", "tun<"),
}


@pytest.mark.parametrize("case", INSIDE)
def test_what_stays_of_a_document_names_nothing_of_this_host(case: str) -> None:
    where, element, gone = INSIDE[case]
    inside = {
        name: element if name == where else "" for name in ("domain", "os", "devices", "disk", "interface")
    }
    document = (
        f"<domain type='kvm'><name>web</name><memory>1024</memory>{inside['domain']}"
        f"<os><type>hvm</type>{inside['os']}</os><devices>{inside['devices']}"
        f"<disk type='file' device='disk'><target dev='vda'/>{inside['disk']}</disk>"
        f"<interface type='user'>{inside['interface']}</interface></devices></domain>"
    )
    one = Description("web", memory_bytes=1 << 20, disks=(Disk("vda"),), nics=(Nic("net0"),))
    native = Native("libvirt", document)
    known = render_libvirt(described(one, Native("libvirt", document.replace(element, "")))).not_rendered
    found = render_libvirt(described(one, native))
    assert not re.search(gone, found.text), found.text
    assert {*found.not_rendered} - {*known}, "it is told"


def test_what_any_host_has_stays_of_a_document() -> None:
    document = (
        "<domain type='kvm'><name>web</name><memory>1024</memory><on_crash>coredump-restart</on_crash>"
        "<os firmware='bios'><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/>"
        "<bootmenu enable='yes'/><bios useserial='yes'/><smbios mode='sysinfo'/></os>"
        "<features><acpi/><hyperv mode='custom'><spinlocks state='on' retries='8191'/></hyperv></features>"
        "<devices><disk type='file' device='disk'><target dev='vda'/><iotune><total_iops_sec>9"
        "</total_iops_sec></iotune></disk><tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
        "<watchdog model='itco' action='dump'/><graphics type='vnc' keymap='de-ch'/></devices></domain>"
    )
    one = Description("web", memory_bytes=1 << 20, disks=(Disk("vda"),))
    root = fromstring(render_libvirt(described(one, Native("libvirt", document))).text)
    assert root.findtext("on_crash") == "restart"
    for path in (
        "os[@firmware='bios']/boot[@dev='hd']", "os/bootmenu[@enable='yes']", "os/smbios[@mode='sysinfo']",
        "os/bios[@useserial='yes']", "features/hyperv[@mode='custom']/spinlocks[@retries='8191']",
        "devices/disk/iotune/total_iops_sec", "devices/tpm/backend[@version='2.0'][@type='emulator']",
        "devices/watchdog[@action='reset']", "devices/graphics[@keymap='de-ch']",
    ):  # fmt: skip
        assert root.find(path) is not None, path


def test_a_machine_of_a_rehearsal_does_not_reach_what_this_host_reaches() -> None:
    one = Description("web", memory_bytes=1 << 20, nics=(Nic("net0"),))
    networks = {"net0": Network(NetworkKind.USER)}
    for rehearsal in (False, True):
        vm = described(one, networks=networks, rehearsal=rehearsal)
        netdevs = [value for value in render_qemu(vm).text.split() if value.startswith(("user,", "'user,"))]
        assert ["restrict=on" in value for value in netdevs] == [rehearsal]
        found = render_libvirt(vm)
        link = fromstring(found.text).find("devices/interface/link[@state='down']")
        assert (link is not None) == rehearsal
        assert any("libvirt cannot keep" in word for word in found.not_rendered) == rehearsal


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


@pytest.mark.parametrize("bus", [Bus.IDE, Bus.SATA, Bus.VIRTIO])
@pytest.mark.parametrize("read_only", [True, False])
def test_a_disk_is_read_only_where_its_description_says_so_and_its_bus_can(bus: Bus, read_only: bool) -> None:
    element = "<readonly/>" if read_only else ""
    document = (
        "<domain type='kvm'><name>web</name><memory>1024</memory><os><type>hvm</type></os><devices>"
        f"<disk type='file' device='disk'><target dev='hda' bus='{bus}'/>{element}</disk></devices></domain>"
    )
    one = Description("web", memory_bytes=1 << 20, disks=(Disk("hda", bus=bus, read_only=read_only),))
    found = render_libvirt(described(one, Native("libvirt", document)))
    stays = read_only and bus is Bus.VIRTIO
    assert (fromstring(found.text).find("devices/disk/readonly") is not None) == stays, "libvirt refuses it"
    assert any("read only" in word for word in found.not_rendered) == (read_only and not stays)


def test_what_libosinfo_calls_the_guest_stays() -> None:
    space, system = "http://libosinfo.org/xmlns/libvirt/domain/1.0", "http://debian.org/debian/12"
    document = (
        f"<domain type='kvm' xmlns:o='{space}'><name>web</name><memory>1024</memory><metadata><o:libosinfo>"
        f"<o:os id='{system}'/></o:libosinfo></metadata><os><type>hvm</type></os></domain>"
    )
    text = render_libvirt(
        described(Description("web", memory_bytes=1 << 20), Native("libvirt", document))
    ).text
    found = fromstring(text).find(f"metadata/{{{space}}}libosinfo/{{{space}}}os")
    assert found is not None
    assert found.get("id") == system
