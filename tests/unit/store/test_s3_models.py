"""What botocore is driven by: quicker to be had, and the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import DataNotFoundError, UnknownServiceError
from botocore.loaders import Loader

from cdp_container.store.s3_models import Models


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
