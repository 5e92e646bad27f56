"""Recovery sites beside a protected one, as many as a story needs, on any store; everything dies with them.

A site is named; it has a folder, a configuration and credentials, and nothing of the sites before.
What does not belong here: judging what came back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from cdp_container.format.limits import PREAMBLE_BYTES_MAX
from cdp_container.format.preamble import Preamble, parse_preamble
from cdp_container.store.api import Store
from tests.e2e.processes import Done, group_members, run
from tests.e2e.site import BIN, END_SECONDS_MAX, Site, check_logs, new_site
from tests.waiting import wait_until


@dataclass(slots=True)
class Sites:
    """The protected site, and those that were prepared to take over."""

    first: Site
    others: list[Site] = field(default_factory=list)
    commands: list[subprocess.Popen[str]] = field(default_factory=list)

    def add(self, name: str) -> Site:
        """A further site: a folder and a configuration."""
        first = self.first
        base = first.base / name
        settings = first.settings.replace(str(first.root), str(base / "a"))
        site = Site(base, first.store, first.volumes, first.secrets, settings, with_key=True)
        site.root.mkdir(parents=True)
        shutil.copy(first.private_key, site.private_key)
        site.write_config()
        site.config.write_text(site.config.read_text().replace("site: a\n", f"site: {name}\n"))
        self.others.append(site)
        return site

    def begin(self, site: Site, *options: str) -> subprocess.Popen[str]:
        """`rehydrate failover` at that site, under way."""
        name = site.base.name
        words = [str(BIN / "rehydrate"), "failover", site.store, "--site", name]
        words += ["--journal", str(site.journal)]
        words += ["--config", str(site.config), "--to", str(site.root), "--json", *options]
        process = subprocess.Popen(
            [*words, *site.secret_options()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=site.environment(site.base / "home"),
            text=True,
            start_new_session=True,
        )
        self.commands.append(process)
        return process

    def lose(self, site: Site) -> None:
        """The agent that a failover started there dies, with its machine."""
        for pid in agents_at(site):
            os.killpg(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not group_members(pid), "the agent is dead", END_SECONDS_MAX)  # type: ignore[misc]

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.commands:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        for site in self.others:
            self.lose(site)
            log = site.journal / "agent.log"
            print(f"--- {site.base.name}\n{log.read_text() if log.exists() else 'no failover started it'}")
            for agent in site.agents:
                agent.kill_group()
                print(f"--- {site.base.name} {agent.log_path.name}\n{agent.log()}")


@contextmanager
def several_sites(volumes: Mapping[str, int], store: str, secrets: Mapping[str, str]) -> Iterator[Sites]:
    """The first one is initialised, and its agent is not started."""
    with new_site(volumes, store=store, secrets=secrets, with_key=True, journal_limit="1GiB") as first:
        first.init().must()
        sites = Sites(first)
        try:
            yield sites
            for site in sites.others:
                check_logs(site)
        finally:
            sites.end()


def agents_at(site: Site) -> list[int]:
    """The supervisor that a failover left there, which leads a group of its own."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((site.journal / "lock").read_text())
        return [pid] if group_members(pid) else []
    return []


def ended(process: subprocess.Popen[str]) -> Done:
    """What became of a command."""
    out, err = process.communicate(timeout=END_SECONDS_MAX)
    return Done(process.returncode, out, err)


def ask(site: Site, command: str, *options: str) -> dict[str, Any]:
    """What a `rehydrate` command says of the container, for programs."""
    words = [str(BIN / "rehydrate"), command, site.store, *options, "--json"]
    if command != "show":
        words += site.secret_options()
    return run(words, site.environment(site.base / "home")).must().json


def force_word(site: Site) -> str:
    """The version of `domain/owner` that stands there now, as --force names it."""
    owner = ask(site, "show", "owner")
    return f"{owner['epoch']}:{owner['nonce']}"


def history(site: Site) -> Sequence[Mapping[str, Any]]:
    """Every epoch, oldest first."""
    epochs: Sequence[Mapping[str, Any]] = ask(site, "history")["epochs"]
    return epochs


def preambles(store: Store) -> list[Preamble]:
    """Those of all segments."""
    return [
        parse_preamble(store.get_range(entry.key, 0, PREAMBLE_BYTES_MAX), entry.key)
        for entry in store.list("log/")
    ]


def send(pids: Sequence[int], signum: signal.Signals) -> None:
    """A signal to each that is still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)
