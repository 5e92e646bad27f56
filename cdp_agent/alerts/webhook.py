"""A process that POSTs what it reads from its standard input, and says by its exit code how that went.

Its own process, so that a server which hangs can be ended like any command. What does not belong here:
repeating; whoever waits for alerts gets the next one.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from typing import Final
from urllib.parse import urlsplit

URL_VARIABLE: Final = "ALERT_WEBHOOK_URL"
POST_SECONDS: Final = 15
NO_ANSWER: Final = 11
NOT_TAKEN: Final = 12
UNTRUSTED: Final = 13
WHY: Final = {
    NO_ANSWER: "the webhook's server did not answer",
    NOT_TAKEN: "the webhook's server answered with an error",
    UNTRUSTED: "the certificate of the webhook's server is not trusted",
}
"""The exit codes for people. None tells the URL, which may hold a secret."""


def post(url: str, body: bytes) -> int:
    """POST once, without following any redirection; gives 0 or a key of WHY."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=POST_SECONDS)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        status = connection.getresponse().status
    except ssl.SSLError:
        return UNTRUSTED
    except (OSError, http.client.HTTPException):
        return NO_ANSWER
    finally:
        connection.close()
    return 0 if 200 <= status < 300 else NOT_TAKEN


if __name__ == "__main__":
    sys.exit(post(os.environ[URL_VARIABLE], sys.stdin.buffer.read()))
