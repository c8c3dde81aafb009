"""A server of buckets on a port of its own: S3, and what Google's XML API has in common with it.

A Google client that has no login sends an empty one or none, and is given one of S3's: moto's server reads
whose it is and looks at no signature.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

OF_ANYBODY = (
    "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)
moto = DomainDispatcherApplication(create_backend_app)


def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    if not environ.get("HTTP_AUTHORIZATION", "").startswith("AWS4"):
        environ["HTTP_AUTHORIZATION"] = OF_ANYBODY
    answer: Iterable[bytes] = moto(environ, start_response)
    return answer


if __name__ == "__main__":
    run_simple("127.0.0.1", 0, served, threaded=True)
