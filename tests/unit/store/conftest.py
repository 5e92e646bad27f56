"""What the tests of S3 stores share: a bucket on moto, and no credentials but its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cdp_container.store import s3_clients
from cdp_container.store.s3_models import Models
from tests.servers.bucket import Bucket, fresh_bucket, s3_environment
from tests.servers.s3 import S3Server


@pytest.fixture(scope="session", autouse=True)
def _parsed_once() -> Iterator[None]:
    """All clients of these tests are driven by the same documents: parsing them is most of opening one."""
    models = Models()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3_clients, "Models", lambda: models)
        yield


@pytest.fixture(scope="module")
def moto_bucket(_moto: S3Server) -> Iterator[Bucket]:
    """One bucket for a module, since clients are slow to make: use a prefix of your own in it."""
    with pytest.MonkeyPatch.context() as patch, fresh_bucket(_moto) as bucket:
        s3_environment(_moto, patch)
        yield bucket
