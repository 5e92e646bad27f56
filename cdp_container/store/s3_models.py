"""What botocore is slow at, done quicker: descriptions of services, and the times that listings have.

What a client is made of does not belong here (s3_clients).
"""

from __future__ import annotations

import gzip
import os
import re
from contextlib import suppress
from datetime import datetime
from typing import Final, cast

import orjson
from botocore.loaders import JSONFileLoader, Loader
from botocore.utils import parse_timestamp

_OPENERS: Final = ((".json", open), (".json.gz", gzip.open))
_UTC: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


class _Documents(JSONFileLoader):
    """Botocore's parser makes an ordered dictionary of every object; plain ones keep their order as well."""

    def load_file(self, file_path: str) -> object:
        """The document at a path without its ending; None where there is none."""
        for ending, opener in _OPENERS:
            with suppress(FileNotFoundError, NotADirectoryError), opener(file_path + ending, "rb") as file:
                return orjson.loads(file.read())
        return None


class Models(Loader):
    """Botocore's loader, which does not look into the folders of 400 services before it opens one."""

    def __init__(self) -> None:
        super().__init__(file_loader=_Documents())

    def list_available_services(self, type_name: str) -> list[str]:
        """All that may be services: opening one says whether it is."""
        names: set[str] = set()
        for path in self.search_paths:
            with suppress(FileNotFoundError):
                names.update(os.listdir(path))
        return sorted(names)


def moment(told: str | float) -> datetime:
    """A time of an answer. Raises ValueError.

    What guesses the form of each, as botocore does, takes half of the time of a listing.
    """
    if isinstance(told, str) and _UTC.fullmatch(told):
        return datetime.fromisoformat(told)
    return parse_timestamp(cast(str, told))  # it takes numbers too
