"""The likely cause of failures that look alike, by what their message says.                    (B-42)

It is a hint and no verdict: four causes that a person on call tells apart first, each with the words that
Postgres, drivers and clients use for it. What fits none is unknown, and said so.
"""

from __future__ import annotations

import re

UNKNOWN = "unknown"

CAUSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (cause, re.compile(words, re.IGNORECASE))
    for cause, words in (
        (
            "external rate limit",
            r"\b429\b|too many requests|rate.?limit|throttl|quota|retry.after|slow ?down",
        ),
        (
            "resource exhaustion",
            r"out of memory|memoryerror|\boom\b|oomkilled|no space left|disk ?full|disk is full"
            r"|too many (connections|clients|open files)|remaining connection slots|pool.*(exhausted|busy)"
            r"|out of shared memory|sigkill|killed by signal 9|resource temporarily unavailable"
            r"|temp(orary)? file.*limit|\b5(3100|3200|3300)\b",
        ),
        (
            "schema change",
            r"(column|relation|table|type|function|attribute|field|key)\b.{0,200}"
            r"\b(does not exist|is missing|not found)|no such (column|table)|has no (column|attribute|field)"
            r"|undefined ?(column|table|object|function)"
            r"|unexpected (column|field|key)|keyerror|attributeerror|missing (column|field|required)"
            r"|invalid input syntax|cannot cast|violates not-null|datatypemismatch|\b42(703|P01|804|883)\b"
            r"|validationerror|schema|^'[^']{1,100}'$",  # the last is all that a KeyError says
        ),
        (
            "source unavailable",
            r"connection (refused|reset|aborted|closed|lost|timed? ?out)|could not connect|cannot be reached"
            r"|name or service not known|name resolution|getaddrinfo|no route to host|network is unreachable"
            r"|host.{0,40}unreachable|\b50[234]\b|bad gateway|service unavailable|gateway time-?out"
            r"|remote.*disconnected|server closed the connection|broken pipe|ssl.*error|timed? ?out|timeout"
            r"|no answer|nosuchkey|no such file|404 not found",
        ),
    )
)
"""In this order: what says several of it is named after the first."""

WHAT_TO_DO = {
    "external rate limit": "lower --concurrency with backfill set, or wait, then retry-failed",
    "resource exhaustion": "lower --concurrency, give its workers more, then retry-failed",
    "schema change": "mend the handler or the source, then retry-failed, or clone with what is right",
    "source unavailable": "pause until the source is back, then retry-failed and resume",
    UNKNOWN: "read the message of one partition, then retry-failed with its fingerprint",
}


def likely_cause(message: str | None) -> str:
    """Return the likely cause of a failure with this message, `unknown` where nothing points to one."""
    if not message:
        return UNKNOWN
    return next((cause for cause, words in CAUSES if words.search(message)), UNKNOWN)
