"""The lines in which a process that asked hypervisors tells what it found: one VM in each, as JSON. PURE.

They come from another process, and are checked as anything from outside is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson

from cdp_container.domain.machine_records import Configuration, parse_vm, vm_record
from cdp_container.errors import CdpError, DamagedObject, HypervisorFailed, LimitExceeded
from cdp_container.format.jsontext import load_object
from cdp_container.format.limits import RECORD_VALUE_BYTES_MAX
from cdp_container.format.members import Members

LINE_BYTES_MAX: Final = RECORD_VALUE_BYTES_MAX + (64 << 10)
TEXT_CHARS_MAX: Final = 2_000
"""Of a problem, or of a list of them."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is said of one VM. `value`: of its record, None where there is a `problem` instead."""

    vm: bytes
    value: bytes | None
    problem: str = ""
    unprotected: tuple[str, ...] = ()
    odd: tuple[str, ...] = ()


def encode_line(
    vm: bytes,
    configuration: Configuration | None,
    problem: str,
    unprotected: tuple[str, ...],
    odd: tuple[str, ...],
) -> bytes:
    """One line, with its end."""
    members: dict[str, Any] = {
        "vm": vm.hex(),
        "value": None if configuration is None else orjson.Fragment(vm_record(vm, configuration).value),
        "problem": problem[:TEXT_CHARS_MAX],
        "unprotected": unprotected,
        "odd": odd,
    }
    return orjson.dumps(members, option=orjson.OPT_APPEND_NEWLINE)


def decode_line(line: bytes) -> Line:
    """What a line says. Raises HypervisorFailed where it makes no sense, or is too long."""
    what = "what was asked of hypervisors"
    try:
        members = Members(load_object(line, LINE_BYTES_MAX, what), what)
        vm, value = members.bytes("vm", 16), members.object_or_none("value")
        return Line(
            vm,
            None if value is None else _checked(vm, orjson.dumps(value.members)),
            members.text("problem")[:TEXT_CHARS_MAX],
            members.texts("unprotected"),
            members.texts("odd"),
        )
    except (DamagedObject, LimitExceeded) as error:
        raise HypervisorFailed(what, error.why) from error
    except CdpError as error:
        raise HypervisorFailed(what, str(error)) from error


def _checked(vm: bytes, value: bytes) -> bytes:
    """The value as we write it ourselves."""
    configuration = parse_vm(value, f"VM {vm.hex()}")
    if configuration is None:
        raise HypervisorFailed(f"VM {vm.hex()}", "nothing is said of it")
    return vm_record(vm, configuration).value
