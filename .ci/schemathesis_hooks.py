"""What Schemathesis does not know of a valid request.

- It leaves the patterns of headers aside in valid requests: a value that does not fit is left out there.
- An idempotency key names one request: the same key with another one is refused (422). So each request gets a key of
  its own. Keys that are to be invalid stay as they are.
- A cursor is one that the server gave for the same query. A well-formed one is replaced by such a one, or left out
  where there is none.
"""

import itertools
import re

import requests
import schemathesis

KEY = re.compile(r"[\t ]*[!-~]([\t -~]{0,253}[!-~])?[\t ]*")
TAGS = re.compile(r'\*|(W/)?"[!#-~]*"(, ?(W/)?"[!#-~]*")*')
CURSOR = re.compile(r"[0-9a-f]{48}")
numbers = itertools.count(1)


def is_valid(case):
    """Whether the request is to be one that the schema allows."""
    return case.meta is None or case.meta.generation.mode.is_positive


@schemathesis.hook
def before_call(context, case, kwargs):
    headers, query = case.headers or {}, case.query or {}
    for name in ("If-Match", "If-None-Match"):
        tags = headers.get(name)
        if tags is not None and is_valid(case) and not TAGS.fullmatch(str(tags)):
            del headers[name]
    key = headers.get("Idempotency-Key")
    if isinstance(key, str) and KEY.fullmatch(key):
        headers["Idempotency-Key"] = f"key {next(numbers)}"
    cursor = query.get("cursor")
    if isinstance(cursor, str) and CURSOR.fullmatch(cursor):
        given = own_cursor(case, query)
        if given:
            query["cursor"] = given
        else:
            del query["cursor"]


def own_cursor(case, query):
    """The cursor of the query's first page of one task; None where the query itself is refused, or has no more."""
    first = {**query, "limit": 1}
    del first["cursor"]
    page = requests.get(f"{case.operation.base_url.rstrip('/')}/tasks", params=first, timeout=10)
    return page.json().get("next_cursor") if page.ok else None
