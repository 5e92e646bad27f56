"""What a test needs to know of an S3 server, whichever it is, and moto's server in this process.

moto answers for S3's semantics only: it never races and says nothing of speed.
"""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from moto.server import ThreadedMotoServer


@dataclass(frozen=True, slots=True)
class S3Server:
    """An S3 endpoint on loopback, with the credentials of a user; `conf` is Ceph's, for its administrator."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = "us-east-1"
    conf: Path | None = None

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, obstore and our commands find the credentials."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def running_moto() -> Iterator[S3Server]:
    """A moto server on a free port, stopped at the end."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield S3Server(f"http://{host}:{port}", "testing-access", "testing-secret")
    finally:
        server.stop()


def forget_everything(moto: S3Server) -> None:
    """Empty moto, so that the next test begins with a store that holds nothing."""
    request = urllib.request.Request(f"{moto.endpoint}/moto-api/reset", method="POST")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
