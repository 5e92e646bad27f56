"""Sites whose volumes are disks of tiny guests, and the runbooks that start them: what they share.

What does not belong here: judging what came up.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.boot_sector import boot_disk
from tests.e2e.processes import Done, group_members, run
from tests.e2e.site import BIN, MIB, Site, new_site
from tests.waiting import wait_until

DISK_BYTES = MIB
VOLUMES = {"db": DISK_BYTES, "web": DISK_BYTES}
UP_SECONDS_MAX = 90.0


def described(name: str) -> dict[str, object]:
    """A VM with one disk that boots."""
    return {
        "name": name,
        "machine": "q35",
        "memory_bytes": 32 * MIB,
        "disks": [{"name": "sda", "bus": "sata", "boot": 1}],
        "nics": [{"name": "net0"}],
    }


@contextmanager
def protected(**members: object) -> Iterator[Site]:
    """Two VMs, each with a volume of its name that boots and says so; all of it is protected."""
    with new_site(VOLUMES, with_key=True) as site:
        lines = ["vms:"]
        for name in VOLUMES:
            page = site.root / f"{name}.json"
            page.write_text(json.dumps(described(name) | members))
            lines.append(f"  - {{name: {name}, description: {page}, disks: {{sda: {name}}}}}")
            site.backing(name).write_bytes(boot_disk(f"I am {name}.", DISK_BYTES))
        site.write_config(*lines)
        site.init().must()
        site.start()
        site.flush_when_ready()
        wait_until(lambda: vms_of(site) == sorted(VOLUMES), "the VMs are described", UP_SECONDS_MAX)
        try:
            yield site
        finally:
            kill_machines(site.base)


def vms_of(site: Site) -> list[str]:
    """The VMs of the newest point."""
    return sorted(one["name"] for one in site.rehydrate("show", "vms", "--json").must().json["vms"])


def runbook(base: Path, target: str = "qemu", **changes: object) -> Path:
    """The VM web after db; each has come up when it said so."""

    def run_of(name: str) -> dict[str, Any]:
        return {"checks": [{"console": rf"I am {name}\."}], "start": {"within": "60s"}}

    web = run_of("web")
    web["start"]["after"] = ["db"]
    members: dict[str, Any] = {
        "target": target,
        "directory": str(base / "v"),
        "emulate": True,
        "networks": {"*": {"none": True}},
        "vms": {"db": run_of("db"), "web": web},
        "test": {"networks": {"*": {"none": True}}, "directory": str(base / "t")},
    }
    path = base / "runbook.yaml"
    path.write_text(json.dumps({**members, **changes}))
    return path


def other_site(a: Site) -> Site:
    """Where nothing is but a folder and a prepared configuration."""
    settings = a.settings.replace(f"{a.base}/a/j", f"{a.base}/r/a/j")
    b = Site(a.base / "r", a.store, VOLUMES, a.secrets, settings, with_key=True)
    b.root.mkdir(parents=True)
    shutil.copy(a.private_key, b.private_key)
    b.write_config()
    b.config.write_text(b.config.read_text().replace("site: a\n", "site: b\n"))
    return b


@contextmanager
def taken_over(a: Site) -> Iterator[Site]:
    """Site a has lost its agent; gives site b, whose agents end with the block."""
    b = other_site(a)
    a.agents[-1].kill_group()
    try:
        yield b
    finally:
        for pid in pids_in(b.journal):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        log = b.journal / "agent.log"
        print(log.read_text() if log.exists() else "no log at b")


def pids_in(journal: Path) -> list[int]:
    """The agent that a failover started, which leads a group of its own."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((journal / "lock").read_text())
        return [pid] if group_members(pid) else []
    return []


def failover_words(b: Site, page: Path, *options: str) -> list[str]:
    words = [str(BIN / "rehydrate"), "failover", b.store, "--site", "b", "--journal", str(b.journal)]
    words += ["--config", str(b.config), "--to", str(b.root), "--json", "--boot", "--runbook", str(page)]
    return [*words, *options, *b.secret_options()]


def force_word(b: Site) -> str:
    owner = run([str(BIN / "rehydrate"), "show", b.store, "owner", "--json"], environment(b))
    members = owner.must().json
    return f"{members['epoch']}:{members['nonce']}"


def failover(b: Site, page: Path, *options: str) -> Done:
    return run(failover_words(b, page, *options), environment(b), UP_SECONDS_MAX)


def environment(site: Site) -> dict[str, str]:
    """With the programs that start machines."""
    return site.environment(site.base / "b" / "home")


def machines_of(base: Path) -> dict[int, list[str]]:
    """Processes of QEMU whose files lie below a directory, with their words."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "qemu-system" in words[0] and any(f"{base}/" in word for word in words):
                    found[int(path.name)] = words
    return found


def names_of(base: Path) -> list[str]:
    """What the machines that run are called."""
    return sorted(words[words.index("-name") + 1] for words in machines_of(base).values())


def kill_machines(base: Path) -> None:
    """Those of a test that failed."""
    for pid in machines_of(base):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
