"""The recovery kit: what must lie in a safe, so that the container can be found and opened on the worst day.

Pure text. It never holds the passphrase.
"""

from __future__ import annotations

import shlex

from cdp_agent.identity import AgentIdentity
from cdp_container.format.keyblock import key_check


def recovery_kit(identity: AgentIdentity, address: str, ca_pem: str | None, software: str) -> str:
    """The kit as text, ready to print."""
    quoted = shlex.quote(address)
    lines = [
        f"RECOVERY KIT of protection domain {identity.name}",
        "Keep it offline, on paper too, apart from the passphrase. It holds no secret.",
        "",
        f"domain id   {identity.domain.hex()}",
        f"container   {address}",
        f"encryption  {identity.encryption}",
        f"key check   {key_check(identity.public_key) if identity.public_key else '-'}",
        f"volumes     {', '.join(f'{item.name} ({item.size_bytes} bytes)' for item in identity.sources)}",
        f"made by     {software}",
        "",
        "At any site, with credentials that may read the container (AWS_ACCESS_KEY_ID and",
        "AWS_SECRET_ACCESS_KEY, or a profile) and "
        + ("the passphrase:" if identity.key_block else "nothing else:"),
        "",
        f"    rehydrate points {quoted}",
        *(
            f"    rehydrate restore {quoted} --volume {item.name} --target {item.name}.raw"
            for item in identity.sources
        ),
        "",
        "Without our software: copy the container with any S3 tool, read docs/container-format.md, and run",
        f"    python tests/reader.py COPY restore {identity.sources[0].name} {identity.sources[0].name}.raw"
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
