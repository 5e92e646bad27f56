"""Which disk is which volume: by its path, by our export, by what the configuration says."""

from __future__ import annotations

import pytest

from cdp_agent.vms.found import DiskSource, Found
from cdp_agent.vms.matching import Volumes, match_disks
from cdp_agent.vms.qmp_answers import source_of
from cdp_container.domain.machine import Description, Disk, DiskKind
from cdp_container.domain.machine_records import Native

ROOT, DATA = b"r" * 16, b"d" * 16
SERVERS = ("/j/nbd.sock", "127.0.0.1:10809")
VOLUMES = Volumes({"/dev/dm-1": ROOT, "/srv/data.raw": DATA}, {"root": ROOT, "data": DATA}, SERVERS)
LINKS = {"/dev/vg0/root": "/dev/dm-1", "/run/nbd": "/j/nbd.sock"}


def found(source: DiskSource | None, kind: DiskKind = DiskKind.DISK) -> Found:
    sources = {} if source is None else {"vda": source}
    return Found(Description("web", disks=(Disk("vda", kind=kind),)), Native("x", ""), sources)


def volume_of(source: DiskSource | None) -> bytes | None:
    matched = match_disks(found(source), {}, VOLUMES, lambda path: LINKS.get(path, path))
    (disk,) = matched.description.disks
    assert matched.unprotected == (() if disk.volume else ("vda",))
    assert not matched.odd
    return disk.volume


@pytest.mark.parametrize(
    "source",
    [
        DiskSource(path="/dev/dm-1"),
        DiskSource(path="/dev/vg0/root"),
        DiskSource(export="root", server="/j/nbd.sock"),
        DiskSource(export="root", server="/run/nbd"),
        DiskSource(export="root", server="localhost:10809"),
        source_of("nbd+unix:///root?socket=/j/nbd.sock"),
        source_of("nbd+unix://localhost/root?socket=%2Fj%2Fnbd.sock"),
        source_of("nbd://127.0.0.1/root"),
        source_of("nbd://127.0.0.1:10809/root"),
        source_of("nbd:unix:/j/nbd.sock:exportname=root"),
        source_of("nbd:localhost:10809:exportname=root"),
        source_of('json:{"driver":"nbd","export":"root","server":{"type":"unix","path":"/j/nbd.sock"}}'),
        source_of(
            'json:{"driver":"raw","file":{"driver":"nbd","export":"root","reconnect-delay":10,'
            '"server.type":"inet","server.host":"127.0.0.1","server.port":"10809"}}'
        ),
        source_of('json:{"driver":"raw","file":{"driver":"host_device","filename":"/dev/vg0/root"}}'),
    ],
    ids=str,
)
def test_found(source: DiskSource) -> None:
    assert volume_of(source) == ROOT


@pytest.mark.parametrize(
    "source",
    [
        None,
        DiskSource(),
        DiskSource(path="/dev/dm-2"),
        DiskSource(path="root"),
        DiskSource(export="root", server="/other/nbd.sock"),
        DiskSource(export="root", server="10.0.0.1:10809"),
        DiskSource(export="other", server="/j/nbd.sock"),
        source_of("relative.raw"),
        source_of(""),
        source_of("json:[]"),
        # What lies over the volume is another disk.
        source_of(
            'json:{"driver":"qcow2","file":{"driver":"file","filename":"/x"},"backing":{"filename":"/dev/dm-1"}}'
        ),
    ],
    ids=str,
)
def test_not_found(source: DiskSource | None) -> None:
    assert volume_of(source) is None


def test_the_configuration_has_the_last_word() -> None:
    matched = match_disks(found(DiskSource(path="/dev/dm-1")), {"vda": "data"}, VOLUMES, str)
    assert matched.description.disks[0].volume == DATA
    meant = match_disks(found(DiskSource(path="/dev/dm-1")), {"vda": None}, VOLUMES, str)
    assert meant.description.disks[0].volume is None
    assert meant.unprotected == ()


def test_what_fits_nothing_is_told() -> None:
    matched = match_disks(found(None), {"vda": "gone", "vdz": None}, VOLUMES, str)
    assert matched.odd == ("disks: it has no disk vdz", "disks: vda: there is no volume gone")


def test_two_disks_of_one_volume_are_told() -> None:
    disks = (Disk("vda"), Disk("vdb"))
    both = Found(
        Description("web", disks=disks),
        Native("x", ""),
        dict.fromkeys(("vda", "vdb"), DiskSource("/dev/dm-1")),
    )
    assert match_disks(both, {}, VOLUMES, str).odd == ("the disks vda, vdb are one volume",)


def test_a_cdrom_is_no_volume_and_not_missed() -> None:
    matched = match_disks(found(DiskSource(path="/dev/dm-1"), DiskKind.CDROM), {}, VOLUMES, str)
    assert matched.description.disks[0].volume is None
    assert matched.unprotected == ()
