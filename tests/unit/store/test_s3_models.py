"""What botocore is driven by: quicker to be had, and the same."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.loaders import Loader
from botocore.utils import parse_timestamp

from cdp_container.store.s3_models import Models, moment


def test_services_are_what_they_are_without_it() -> None:
    """STS and SSO too: credentials may come from them."""
    for service, kind in (
        ("s3", "service-2"),
        ("s3", "endpoint-rule-set-1"),
        ("sts", "service-2"),
        ("sso", "service-2"),
        ("sso-oidc", "service-2"),
    ):
        assert Models().load_service_model(service, kind) == Loader().load_service_model(service, kind)


@pytest.mark.parametrize("name", ["endpoints", "partitions", "sdk-default-configuration"])
def test_documents_are_what_they_are_without_it(name: str) -> None:
    assert Models().load_data(name) == Loader().load_data(name)


def test_what_is_no_service_is_told() -> None:
    with pytest.raises(UnknownServiceError):
        Models().load_service_model("no-such-service", "service-2")
    with pytest.raises(DataNotFoundError):
        Models().load_service_model("s3", "no-such-kind")
    with pytest.raises(DataNotFoundError):
        Models().load_data("no-such-document")


def test_models_of_the_user_s_own_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine" / "2026-01-01"
    folder.mkdir(parents=True)
    (folder / "service-2.json").write_text('{"metadata": {}}')
    monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(tmp_path))
    assert "mine" in Models().list_available_services("service-2")
    assert Models().load_service_model("mine", "service-2") == {"metadata": {}}


@pytest.mark.parametrize(
    "told",
    [
        "2026-11-20T10:11:12.345Z",
        "2026-11-20T10:11:12Z",
        "2026-11-20T10:11:12.345678Z",
        "2026-11-20T10:11:12.345678912Z",
        "2024-02-29T23:59:59.9Z",
        "2026-11-20T10:11:12.345+02:00",
        "Fri, 20 Nov 2026 10:11:12 GMT",
        "1763633472",
        1763633472,
        "20261120T101112Z",
    ],
)
def test_times_are_what_they_are_without_it(told: str | float) -> None:
    assert moment(told) == parse_timestamp(cast(str, told))
    assert moment(told).tzinfo is not None


@pytest.mark.parametrize("text", ["2026-13-20T10:11:12.345Z", "2026-11-20T25:11:12Z", "soon", ""])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"month|hour|Invalid timestamp"):
        moment(text)
