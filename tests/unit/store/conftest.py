"""What the tests of S3 stores share: a bucket on moto, and no credentials but its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server


@pytest.fixture(scope="module")
def moto_bucket(_moto: S3Server) -> Iterator[Bucket]:
    """One bucket for a module, since clients are slow to make: use a prefix of your own in it."""
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(_moto) as bucket:
        s3_environment(_moto, patch)
        yield bucket
