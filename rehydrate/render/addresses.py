"""Addresses that VMs get at a recovery site: what cloud-init reads, and what a guest agent runs. PURE.

cloud-init's NoCloud: three texts, which `seed` puts onto a disk. It takes them for a new instance, so it is
told to leave alone what makes the machine itself: its name, its host keys, its users. Network cards that the
runbook says nothing of ask by DHCP: what is not named there would have no address at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml

from cdp_container.domain.machine import Nic

_SCRIPT: Final = (
    'for d in /sys/class/net/*; do if [ "$(cat "$d/address")" = "$1" ]; then n=${d##*/}; fi; done; '
    'ip link set "$n" up && ip addr replace "$2" dev "$n" && '
    'if [ -n "$3" ]; then ip route replace default via "$3" dev "$n"; fi'
)
"""Run in the guest: the card is found by its MAC; addresses are its arguments, never part of it."""


@dataclass(frozen=True, slots=True)
class Address:
    """A static address of a network card, by its number: with prefix length, gateway and name servers."""

    nic: int
    address: str
    gateway: str | None = None
    dns: tuple[str, ...] = ()


def seed_files(instance: str, nics: Sequence[Nic], addresses: Sequence[Address]) -> Mapping[str, str]:
    """The files of a NoCloud disk by their names; `instance`: an id that no earlier start had."""
    user_data = {
        "preserve_hostname": True,
        "ssh_deletekeys": False,
        "ssh_genkeytypes": [],
        "users": [],
        "disable_root": False,
    }
    cards: dict[str, Any] = {}
    for number, nic in enumerate(nics):
        assert nic.mac is not None, "a recovered card has a MAC"
        ours = [one for one in addresses if one.nic == number]
        card: dict[str, Any] = {"match": {"macaddress": nic.mac}}
        card |= _static(ours) if ours else {"dhcp4": True, "optional": True}
        cards[f"nic{number}"] = card
    return {
        "meta-data": _yaml({"instance-id": instance}),
        "user-data": "#cloud-config\n" + _yaml(user_data),
        "network-config": _yaml({"version": 2, "ethernets": cards}),
    }


def _static(addresses: Sequence[Address]) -> dict[str, Any]:
    found: dict[str, Any] = {"dhcp4": False, "addresses": [one.address for one in addresses]}
    routes = [
        {"to": "::/0" if ":" in one.gateway else "0.0.0.0/0", "via": one.gateway}
        for one in addresses
        if one.gateway is not None
    ]
    servers = list(dict.fromkeys(server for one in addresses for server in one.dns))
    found |= {"routes": routes} if routes else {}
    return found | ({"nameservers": {"addresses": servers}} if servers else {})


def _yaml(members: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(dict(members), sort_keys=False, allow_unicode=False))


def agent_commands(nics: Sequence[Nic], addresses: Sequence[Address]) -> list[list[str]]:
    """Programs and their arguments that set addresses in a guest of Linux: for its agent's `guest-exec`."""
    commands = []
    for one in addresses:
        mac = nics[one.nic].mac
        assert mac is not None, "a recovered card has a MAC"
        commands.append(["/bin/sh", "-c", _SCRIPT, "sh", mac, one.address, one.gateway or ""])
    return commands
