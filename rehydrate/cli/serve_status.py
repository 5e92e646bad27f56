"""`rehydrate serving`: how far a serve is, asked of it; and what the options of `serve` mean.

What it answers with stands in rehydrate.serve.process.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cdp_container.console import answer, printable
from cdp_container.errors import DeviceError, Incomplete, NotFound, UsageError
from nbd_export.listening import TcpEndpoint
from nbd_export.tls import TlsContexts, TlsFiles
from rehydrate.cli.text import size_text
from rehydrate.serve.control import ask
from rehydrate.serve.kept import load_kept
from rehydrate.serve.process import Ways


def ways_of(
    listen: str | None,
    certificates: tuple[Path | None, Path | None, Path | None],
    finish: bool,
    bytes_per_second: int | None,
) -> Ways:
    """From the options. Raises UsageError."""
    what = "read --listen"
    certificate, key, client_ca = certificates
    if listen is None:
        if any(certificates):
            raise UsageError("read the certificates", "they are for TCP, and there is no --listen")
        return Ways(None, finish, bytes_per_second)
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        is_loopback, number = ipaddress.ip_address(host).is_loopback, int(port)
    except ValueError as error:
        raise UsageError(what, f"{listen!r} is no address in digits with a port: {error}") from error
    if not 0 <= number < 1 << 16:
        raise UsageError(what, f"{number} is no port")
    tls: TlsContexts | None = None
    if certificate is not None and key is not None and client_ca is not None:
        tls = TlsContexts(TlsFiles(certificate, key, client_ca))
    elif any(certificates):
        raise UsageError(what, "--tls-certificate, --tls-key and --tls-client-ca belong together")
    elif not is_loopback:
        why = f"{listen} can be reached from other machines, and there is no TLS"
        raise UsageError(what, why, "give --tls-certificate, --tls-key and --tls-client-ca")
    return Ways(TcpEndpoint(host, number, tls), finish, bytes_per_second)


def serving(overlay: Path, finish: bool, as_json: bool) -> int:
    """`rehydrate serving`. Raises NotFound: it is no overlay; Incomplete: nobody serves it."""
    kept = load_kept(overlay)
    if kept is None:
        raise NotFound(f"ask {overlay}", "it is no overlay of `rehydrate serve`", "name its --overlay")
    try:
        members = ask(overlay, "finish" if finish else "status")
    except OSError as error:
        why = error.strerror or "it did not answer in time"
        raise DeviceError(f"ask {overlay}", why, "run as the user who serves it") from error
    if members is None:
        if finish and not kept.is_finished:
            raise Incomplete(f"finish {overlay}", "nobody serves it", "`rehydrate serve --finish` does both")
        members = {"pid": None, "finished": kept.is_finished, "container": kept.address}
        members["point"] = f"{kept.point[0]}.{kept.point[1]}"
        members["volumes"] = [{"name": one.name, "size_bytes": one.size_bytes} for one in kept.volumes]
    answer(json.dumps(members, indent=2) if as_json else _text(members))
    return 0


def _text(members: Mapping[str, Any]) -> str:
    state = "finished: the container is needed no more" if members["finished"] else "not finished"
    if members["pid"] is None:
        state += ", and served by nobody now"
    elif not members["finished"]:
        state += f", streaming: {members['filling']}"
        state += "" if members["opened"] else ", the container is not open yet"
    lines = [f"point {members['point']} of {members['container']}: {state}"]
    for one in members["volumes"]:
        line = f"  {one['name']}: {size_text(one['size_bytes'])}"
        if "here_bytes" in one:
            line += f", {size_text(one['here_bytes'])} are here"
            line += f", {one['waiting']} requests wait for the store" if one["waiting"] else ""
            line += ", the store does not answer" if one["store_away"] else ""
            line += ", the disk was too full to keep what was fetched" if one["disk_full"] else ""
        lines.append(line)
        for damage in one.get("damages", ()):
            end = damage["offset"] + damage["length"]
            lines.append(f"    damaged from {damage['offset']} to {end}: {damage['why']}")
    return "\n".join(map(printable, lines))
