"""The real gateway starts, and does what every conditional write of ours rests on."""

from __future__ import annotations

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.e2e, pytest.mark.ceph]


def test_a_create_only_put_is_refused_the_second_time(ceph: S3Server) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=ceph.endpoint,
        aws_access_key_id=ceph.access_key,
        aws_secret_access_key=ceph.secret_key,
        region_name=ceph.region,
    )
    client.create_bucket(Bucket="house")
    client.put_object(Bucket="house", Key="once", Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="house", Key="once", Body=b"second", IfNoneMatch="*")
    assert client.get_object(Bucket="house", Key="once")["Body"].read() == b"first"
    client.close()
