"""The VMs' part of cuts: what was said of them, what the container has, what the next cut says. PURE.

A configuration that differs from what the container has makes a cut due; whatever this epoch did not say yet
goes into its next cut. Nothing waits for an answer: what was known stays. How hypervisors are asked does not
belong here (`describing`), nor when a cut is taken (`steps`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from cdp_agent.vms.answer import Line
from cdp_container.domain.identity import VmIdentity
from cdp_container.domain.machine_records import RECORD
from cdp_container.format.index import Record
from cdp_container.format.layout import RECORD_KINDS

GONE: Final = b"{}"
"""The value of a VM that left the domain."""
DIGEST_BYTES: Final = 16
SILENT: Final = "nothing was said of it"

Digests = Mapping[bytes, bytes]
"""Of the values of `vm` records, by the ids of VMs."""


@dataclass(frozen=True, slots=True)
class Noted:
    """What was protected last: the epoch, and digests of what its newest cut says."""

    epoch: int = 0
    digests: Digests = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Said:
    """What rounds said of one VM.

    `known_ns`: the wall clock when it was last told, 0 if never; `problem`: why the newest round did not
    tell, with `problem_ns`, since when that is so.
    """

    known_ns: int = 0
    problem: str = ""
    problem_ns: int = 0
    unprotected: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Vms:
    """The VMs in one run.

    Attributes:
        vms: as agent.json has them.
        values: of the records that the container is to have.
        said: by ids.
        epoch: 0 until it began.
        has: digests of what the container has, as far as we know: noted, or said in this epoch.
        sent: digests of what this epoch said.
        flying: what cuts say that are not protected yet: the cut's number, and the digests.
        noted: what is to be noted, or was.
    """

    vms: tuple[VmIdentity, ...]
    values: Mapping[bytes, bytes] = field(default_factory=dict)
    said: Mapping[bytes, Said] = field(default_factory=dict)
    epoch: int = 0
    has: Digests = field(default_factory=dict)
    sent: Digests = field(default_factory=dict)
    flying: tuple[tuple[int, Digests], ...] = ()
    noted: Noted = Noted()

    @property
    def is_due(self) -> bool:
        """Whether a cut is worth taking for what it would say of VMs."""
        return self.epoch > 0 and any(
            self.has.get(vm) != digest_of(value) for vm, value in self.values.items()
        )


def begun(vms: Sequence[VmIdentity], noted: Noted) -> Vms:
    """At the start of a run: nothing is known but who left. `noted`: what the last one left."""
    return Vms(tuple(vms), values={vm.vm: GONE for vm in vms if vm.removed}, noted=noted)


def epoch_began(state: Vms, epoch: int, base: int) -> Vms:
    """The container has what was noted, if the epoch's base is a cut of the epoch `base` that noted it."""
    has = state.noted.digests if base and base == state.noted.epoch else {}
    return replace(state, epoch=epoch, has=has, sent={}, flying=(), noted=Noted(epoch, has))


def answered(state: Vms, lines: Sequence[Line], failure: str, wall_ns: int) -> Vms:
    """A round ended. `failure`: why it told nothing of those that `lines` lack."""
    told = {line.vm: line for line in lines}
    values, said = dict(state.values), dict(state.said)
    for vm in state.vms:
        if vm.removed or not vm.kind:
            continue
        line, before = told.get(vm.vm), said.get(vm.vm, Said())
        if line is not None and line.value is not None:
            values[vm.vm] = line.value
            said[vm.vm] = Said(wall_ns, "", 0, line.unprotected, line.odd)
        else:
            problem = (line.problem if line is not None else failure) or SILENT
            said[vm.vm] = replace(before, problem=problem, problem_ns=before.problem_ns or wall_ns)
    return replace(state, values=values, said=said)


def offered(state: Vms) -> tuple[Record, ...]:
    """What the next cut says of VMs, if there is one: whatever this epoch did not say yet."""
    new = sorted(vm for vm, value in state.values.items() if state.sent.get(vm) != digest_of(value))
    return tuple(Record(RECORD, vm, state.values[vm], RECORD_KINDS[RECORD]) for vm in new)


def taken(state: Vms, cut: int, records: Sequence[Record]) -> Vms:
    """This cut says what was offered then; more may be known by now."""
    assert state.epoch > 0, "the epoch began"
    if not records:
        return state
    new = {record.key: digest_of(record.value) for record in records}
    return replace(
        state,
        has={**state.has, **new},
        sent={**state.sent, **new},
        flying=(*state.flying, (cut, new)),
    )


def protected(state: Vms, cut: int) -> Vms:
    """Cuts up to this one are protected; `noted` is another one where that is to be noted."""
    done = [digests for number, digests in state.flying if number <= cut]
    if not done:
        return state
    noted = dict(state.noted.digests)
    for digests in done:
        noted |= digests
    flying = tuple(one for one in state.flying if one[0] > cut)
    return replace(state, flying=flying, noted=Noted(state.epoch, noted))


def digest_of(value: bytes) -> bytes:
    """By which values are compared."""
    return hashlib.blake2b(value, digest_size=DIGEST_BYTES).digest()
