"""What the tests of S3 stores share: moto, with its credentials in the environment and nobody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server


@pytest.fixture
def moto_bucket(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A fresh bucket on moto, and its credentials in the environment."""
    s3_environment(moto_server, monkeypatch)
    with fresh_bucket(moto_server) as bucket:
        yield bucket
