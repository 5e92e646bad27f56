"""The recovery kit: what must lie in a safe, so that the container can be found and opened on the worst day.

It never holds the passphrase.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from cdp_agent.cli.children import software
from cdp_container.domain.durable import replace_file
from cdp_container.domain.identity import AgentIdentity, DiskIdentity, SourceIdentity
from cdp_container.errors import TargetNotEmpty, TargetUnsuitable, UsageError
from cdp_container.format.keyblock import key_check
from cdp_container.store.address import parse_address
from cdp_container.store.s3_settings import S3Settings


def recovery_kit(identity: AgentIdentity, address: str, ca_pem: str | None) -> str:
    """The kit as text, ready to print."""
    quoted = shlex.quote(address)
    volumes: list[SourceIdentity | DiskIdentity] = [*identity.active.values(), *identity.active_disks]
    trees, vms = identity.active_trees, identity.active_vms
    restoring = f" restore {volumes[0].name} {volumes[0].name}.raw" if volumes else ""
    lines = [
        f"RECOVERY KIT of protection domain {identity.name}",
        "Keep it offline, on paper too, apart from the passphrase. It holds no secret.",
        "",
        f"domain id   {identity.domain.hex()}",
        f"container   {address}",
        f"encryption  {identity.encryption}",
        f"key check   {key_check(identity.public_key) if identity.public_key else '-'}",
        f"volumes     {', '.join(f'{item.name} ({item.size_bytes} bytes)' for item in volumes) or '-'}",
        *([f"file trees  {', '.join(tree.name for tree in trees)}"] if trees else []),
        *([f"VMs         {', '.join(vm.name for vm in vms)}"] if vms else []),
        f"made by     {software()}",
        "",
        "At any site, with credentials that may read the container (AWS_ACCESS_KEY_ID and",
        "AWS_SECRET_ACCESS_KEY, or a profile) and "
        + ("the passphrase:" if identity.key_block else "nothing else:"),
        "",
        f"    rehydrate points {quoted}",
        *([f"    rehydrate plan {quoted}"] if volumes else []),
        *(
            f"    rehydrate restore {quoted} --volume {item.name} --target {item.name}.raw"
            for item in volumes
        ),
        *(f"    rehydrate restore {quoted} --tree {tree.name}=DIRECTORY" for tree in trees),
        "",
        *(_machines(quoted, vms[0].name) if vms else []),
        "An older point: restore with --at EPOCH.NUMBER, --time 2026-11-20T14:00:00Z or --marker NAME.",
        "",
        "Without our software: copy the container with any S3 tool, read docs/container-format.md, and run",
        f"    python tests/reader.py COPY{restoring}"
        + (" --passphrase-file FILE" if identity.key_block else ""),
    ]
    if ca_pem is not None:
        lines += [
            "",
            "The store's certificate is signed by this CA; save it to a file and name it with ?ca=PATH:",
            "",
            ca_pem,
        ]
    return "\n".join(lines) + "\n"


def _machines(quoted: str, vm: str) -> list[str]:
    """What VMs were, and how they run elsewhere. `quoted`: the container, as a word of a shell."""
    return [
        "What the VMs were at a point, and one of them as a script, XML or conf for the hypervisor there:",
        "",
        f"    rehydrate show {quoted} vms",
        f"    rehydrate render {quoted} --vm {vm} --into DIRECTORY",
        "",
        "All of them, in their order, by a runbook (docs/vms.md): write it before the day, keep it with this",
        "kit, and hold it against container and machine. Failover must be allowed to write the container:",
        "",
        f"    rehydrate check-runbook runbook.yaml {quoted}",
        f"    rehydrate failover {quoted} --site NAME --journal DIRECTORY --to DIRECTORY \\",
        "        --boot --runbook runbook.yaml",
        "",
    ]


def show_kit(identity: AgentIdentity, address: str, file: Path | None) -> None:
    """Print the kit, then write it to a file where one is named. Raises UsageError, CdpError."""
    text = recovery_kit(identity, address, ca_of(address))
    print(text, end="", flush=True)
    if file is not None:
        replace_file(file, text.encode())


def refuse_existing(file: Path) -> None:
    """A kit goes into a new file. Raises TargetNotEmpty, TargetUnsuitable."""
    if os.path.lexists(file):
        raise TargetNotEmpty(f"cannot write the kit to {file}", "it exists", "name a new file")
    if not os.access(file.parent, os.W_OK | os.X_OK):
        raise TargetUnsuitable(f"cannot write the kit to {file}", "its folder is absent or not writable")


def ca_of(address: str) -> str | None:
    """The PEM text of the CA that an address names, for the recovery kit."""
    place = parse_address(address)
    if not isinstance(place, S3Settings) or place.ca_file is None:
        return None
    try:
        return Path(place.ca_file).read_text()
    except OSError as error:
        raise UsageError(f"cannot read the CA {place.ca_file}", error.strerror or "unreadable") from error
