"""The configuration that `run` accepted: a copy in the journal directory, which its processes go by.

A file that is just being edited must not decide whether guests have disks, so splitter and streamer never
read it. Commands that only talk to the running agent find it by the copy, too. The copy leaves out `alerts`,
which may hold secrets and are the supervisor's alone, but for a digest, and `marker_hooks`, which whoever
sets a marker runs: never what the agent's user could have written. What does not belong here: which
volumes there are (agent.json).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cdp_agent.cli.children import load_agent
from cdp_agent.volume_set import changed_trees
from cdp_container.console import say
from cdp_container.domain.disk_settings import known_disks, named_disks
from cdp_container.domain.durable import replace_file
from cdp_container.domain.identity import AgentIdentity
from cdp_container.domain.settings import (
    CONFIG_BYTES_MAX,
    AgentSettings,
    dump_settings,
    parse_settings,
)
from cdp_container.domain.vm_settings import changed_vms
from cdp_container.errors import CdpError, ConfigInvalid

ACCEPTED_NAME: Final = "accepted.yaml"

# `directory` is a key of `journal` alone. Looked for by its looks, as the page may be no YAML just now.
_DIRECTORY: Final = re.compile(
    r"""^[^#\n]*?\bdirectory["']?\s*:\s*(?:"(/[^"\n]*)"|'(/[^'\n]*)'|(/[^\n,}#]*))""", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Running:
    """What the running agent goes by. `fault`: why the configuration itself cannot be used, "" if it can."""

    settings: AgentSettings
    identity: AgentIdentity
    fault: str = ""


def keep_accepted(config: Path, settings: AgentSettings) -> Path:
    """Keep what a start accepted; gives the file that its processes read.

    That is the configuration itself where the copy cannot be written: a full disk stops no start.
    """
    path = Path(settings.journal.directory) / ACCEPTED_NAME
    kept = settings.model_copy(update={"alerts": None, "marker_hooks": []})
    text = _header(config) + _alerts_line(settings) + dump_settings(kept)
    assert parse_settings(text, ACCEPTED_NAME) == kept
    if _read(path) == text:
        return path
    try:
        replace_file(path, text)
    except CdpError as error:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)  # an older one would be believed
        say(f"warning: {error}; until the next start {config} must stay fit to be read")
        return config
    return path


def take_policy(config: Path, settings: AgentSettings) -> bool:
    """Have the copy say `retention` and `replicas` of a configuration that was read; and whether it did not.

    Where no start kept a copy the next one does. Raises CdpError: it cannot be written.
    """
    path = Path(settings.journal.directory) / ACCEPTED_NAME
    text = _read(path)
    if not text.startswith(_header(config)):
        return False
    kept = parse_settings(text, ACCEPTED_NAME)
    policy = {"retention": settings.retention, "replicas": settings.replicas}
    if kept.model_copy(update=policy) == kept:
        return False
    notes = b"".join(line for line in text.splitlines(keepends=True) if line.startswith(b"#"))
    replace_file(path, notes + dump_settings(kept.model_copy(update=policy)))
    return True


def load_running(config: Path) -> Running:
    """What the agent of this configuration goes by, also while the file is half edited; then a note is said.

    Raises ConfigInvalid: the file cannot be used, and nothing in it leads to an agent that did use it.
    """
    try:
        return Running(*load_agent(config, other_volumes=True))
    except ConfigInvalid as error:
        path = _accepted(config)
        if path is None:
            raise
        try:
            settings, identity = load_agent(path, other_volumes=True)
        except ConfigInvalid:
            raise error from None  # the file can be mended, the copy cannot
        say(f"note: {error}")
        say("note: a running agent goes on with that of its last start; the next start needs it mended")
        return Running(settings, identity, " ".join(str(error).split()))


def standing(config: Path, agent: Running) -> str:
    """Whether a fit configuration says something else than what the last start, or `reload`, took over."""
    text = _read(Path(agent.settings.journal.directory) / ACCEPTED_NAME)
    if not text.startswith(_header(config)):
        return "not known: no start kept a copy of this file"
    try:
        kept = parse_settings(text, ACCEPTED_NAME)
    except ConfigInvalid:
        return "not known: the copy of the last start cannot be used"
    apart: dict[str, object] = {"alerts": None, "volumes": [], "trees": [], "vms": [], "marker_hooks": []}
    apart["disks"] = []
    is_same = agent.settings.model_copy(update=apart) == kept.model_copy(update=apart)
    if not is_same or _alerts_line(agent.settings) not in text:
        return "edited since the last start, waits for the next one"
    protected = {one.name: one.path for one in agent.identity.active.values()}
    if {one.name: one.path for one in agent.settings.volumes} != protected:
        return "other volumes than are protected: `cdp-agent reload` or the next start takes them over"
    if named_disks(agent.settings.disks) != known_disks(agent.identity):
        return "other volumes of VMs than are captured: `cdp-agent reload` takes them over"
    if changed_trees(agent.identity, agent.settings.trees, bytes) != agent.identity:
        return "other file trees than are protected: `cdp-agent reload` takes them over"
    if changed_vms(agent.identity, agent.settings.vms, bytes) != agent.identity:
        return "other VMs than are described: `cdp-agent reload` takes them over"
    return "as at the last start"


def _accepted(config: Path) -> Path | None:
    """The copy of this configuration, None where none can be found."""
    text = _read(config).decode("utf-8", "replace")
    found = {next(filter(None, match.groups())).strip() for match in _DIRECTORY.finditer(text)}
    if len(found) != 1:
        return None
    path = Path(found.pop()) / ACCEPTED_NAME
    return path if _read(path).startswith(_header(config)) else None


def _header(config: Path) -> bytes:
    """Whose copy it is: what is half edited may name the directory of another agent."""
    return (
        f"# kept by `cdp-agent run`, not to be edited; accepted from {os.path.abspath(config)!a}\n".encode()
    )


def _alerts_line(settings: AgentSettings) -> bytes:
    """Tells whether `alerts` was edited, and nothing of what it is."""
    said = "" if settings.alerts is None else settings.alerts.model_dump_json()
    return f"# alerts: {hashlib.sha256(said.encode()).hexdigest()}\n".encode()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(CONFIG_BYTES_MAX + 1)
    except (OSError, ValueError):  # none, not ours to read, or no path at all
        return b""
