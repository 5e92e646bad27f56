"""Prints a bucket policy made of deploy/policies/, for servers where users have none of their own (Ceph).

    python -m deploy.bucket_policy backups shop:writer:shop-agent shop:reader:munich bank:writer:bank-agent

Each word is DOMAIN:ROLE:USER; DOMAIN is the prefix of its container in the bucket. A user with ":" in it is a
whole principal (arn:aws:iam::TENANT:user/NAME). What the roles may do does not belong here, but in the files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

POLICIES: Final = Path(__file__).with_name("policies")
ROLES: Final = ("reader", "takeover", "writer", "collector")


def role_policy(role: str, bucket: str, domain: str) -> dict[str, Any]:
    """The policy of one role for one domain, as a user's own."""
    text = (POLICIES / f"{role}.json").read_text()
    policy: dict[str, Any] = json.loads(text.replace("BUCKET", bucket).replace("DOMAIN", domain))
    return policy


def bucket_policy(bucket: str, grants: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """The policy of a bucket: for each (domain, role, user) what that role may do."""
    statements: list[dict[str, Any]] = []
    for domain, role, user in grants:
        principal = user if ":" in user else f"arn:aws:iam:::user/{user}"
        for statement in role_policy(role, bucket, domain)["Statement"]:
            sid = f"{len(statements)}{statement['Sid']}"
            statements.append({**statement, "Sid": sid, "Principal": {"AWS": [principal]}})
    return {"Version": "2012-10-17", "Statement": statements}


def main() -> int:
    """From the command line; 2 where that makes no sense."""
    words = sys.argv[1:]
    grants = [tuple(word.split(":", 2)) for word in words[1:]]
    if not grants or any(len(grant) != 3 or grant[1] not in ROLES for grant in grants):
        print(__doc__, file=sys.stderr)
        return 2
    print(json.dumps(bucket_policy(words[0], [(a, b, c) for a, b, c in grants]), indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
