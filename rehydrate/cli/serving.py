"""`rehydrate serve` and `serving`: their options. What they do stands in serve_command, serve_status."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cdp_container.console import guarded
from rehydrate.cli.options import (
    Address,
    At,
    Json,
    KeyFile,
    Marker,
    PassphraseFile,
    Time,
    Volumes,
)


def serve(
    address: Address,
    overlay: Annotated[
        Path, typer.Option(help="A directory for what is fetched and written: empty, or of an earlier run.")
    ],
    volume: Volumes = None,
    at: At = None,
    time: Time = None,
    marker: Marker = None,
    listen: Annotated[
        str | None, typer.Option(help="By TCP too: ADDRESS:PORT; beyond loopback only with certificates.")
    ] = None,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM: the server's, with its chain.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM: its key.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="PEM: who signs clients' certificates.")] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Guests cannot write.")] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Fetch all, and let go of the container then.")
    ] = False,
    bytes_per_second: Annotated[
        int | None, typer.Option(min=1, help="Of --finish, at the most; what guests ask for is not slowed.")
    ] = None,
    parallel: Annotated[int, typer.Option(min=1, max=256, help="Requests at once, at the most.")] = 32,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
) -> int:
    """Offer a point's volumes as NBD exports at once; content is fetched as it is read, writes stay here."""
    from rehydrate.cli import commands, serve_command, serve_status
    from rehydrate.serve.companion import end_with_parent

    def work() -> int:
        end_with_parent(os.environ)
        asked = serve_command.Asked(
            commands.Access(address, passphrase_file, key_file),
            commands.choice_of(at, time, marker),
            tuple(volume or ()),
            overlay,
            serve_status.ways_of(listen, (tls_certificate, tls_key, tls_client_ca), finish, bytes_per_second),
            read_only,
            parallel,
        )
        return serve_command.serve(asked)

    return guarded(work)


def serving(
    overlay: Annotated[Path, typer.Argument(help="The directory that `serve` has.")],
    finish: Annotated[bool, typer.Option("--finish", help="Have it fetch all, and end its need.")] = False,
    json: Json = False,
) -> int:
    """Tell how far a `rehydrate serve` is, or have it fetch all."""
    from rehydrate.cli import serve_status

    return guarded(lambda: serve_status.serving(overlay, finish, json))
