"""The OpenAPI document of the HTTP input, and a page that shows it without asking any other host."""

from html import escape
from typing import Any, Final

import msgspec

from consecutiond import __version__

_ANY: Final = {"description": "any JSON value"}
_RANGES: Final = {
    "type": "array",
    "description": "first and last position in the input log of values that are recorded; positions name roots in the "
    "dead letters. A range is missing when the acker was replaced before it could tell.",
    "items": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
}
_ACCEPTED: Final = {
    "type": "object",
    "required": ["accepted", "ids"],
    "properties": {
        "accepted": {"type": "integer", "description": "values that are recorded"},
        "ids": _RANGES,
        "more_ids": {"type": "boolean", "description": "there are more ranges than are listed"},
    },
}
_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "position": {"type": "object", "description": "`value` or `line` of the bad one, from 1"},
        "unknown": {"type": "integer", "description": "values of which nobody can say whether they are recorded"},
        **_ACCEPTED["properties"],  # type: ignore[dict-item]
    },
}
_REFUSALS: Final = {
    "400": "a value is bad; those before it are recorded, neither it nor any behind it is",
    "401": "the token is missing or wrong",
    "403": "the request comes from a web page of another site, or under another machine's name",
    "408": "the body came too slowly",
    "413": "the body, or a line of a stream, is too large",
    "415": "the body is of another type",
    "429": "the backlog is full; `Retry-After` says when to try again",
    "503": "it is being stopped, or gone",
}


def document(prefix: str, max_body: int, *, token: bool) -> bytes:
    """Return the document."""
    refusals = {
        status: {"description": text, "content": {"application/json": {"schema": _ERROR}}}
        for status, text in _REFUSALS.items()
    }
    post: dict[str, Any] = {
        "summary": "Hand values to the graph",
        "description": "The answer comes when the values are recorded. A body, or a line of a stream, has up to "
        f"{max_body:,} bytes; a stream has any number of lines.",
        "parameters": [
            {
                "name": "each", "in": "query", "schema": {"enum": [0, 1], "default": 0},
                "description": "1: the body is an array, and its elements are the values",
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": _ANY},
                "application/x-ndjson": {"schema": {"type": "string", "description": "a JSON value a line"}},
                "application/msgpack": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "202": {"description": "recorded", "content": {"application/json": {"schema": _ACCEPTED}}},
            **refusals,
        },
    }  # fmt: skip
    whole: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "consecutiond input", "version": __version__},
        "paths": {
            f"{prefix}/items": {"post": post},
            f"{prefix}/healthz": {"get": _health("Whether it is alive", "its consecutor is gone")},
            f"{prefix}/readyz": {"get": _health("Whether it takes values", "the backlog is full, or it is stopping")},
        },
    }
    if token:
        post["security"] = [{"token": []}]
        whole["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    return msgspec.json.encode(whole)


def _health(summary: str, otherwise: str) -> dict[str, Any]:
    return {"summary": summary, "responses": {"200": {"description": "yes"}, "503": {"description": otherwise}}}


def page(text: bytes) -> bytes:
    """Return the document as a page."""
    whole = msgspec.json.decode(text)
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>consecutiond input</title>",
        "<style>body{font:16px/1.5 sans-serif;max-width:46em;margin:2em auto;padding:0 1em}"
        "code{background:#eee;padding:.1em .3em}td{padding:.2em 1em .2em 0;vertical-align:top}</style>",
        f"<h1>{escape(whole['info']['title'])}</h1><p>The same as <a href=openapi.json>OpenAPI</a>.",
    ]
    for path, methods in whole["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}.")
            parts.append(f"<p>{escape(operation.get('description', ''))}<table>")
            rows = [
                ("body", f"<code>{escape(kind)}</code>")
                for kind in operation.get("requestBody", {"content": ()})["content"]
            ]
            rows += [
                (f"<code>?{each['name']}=</code>", escape(each["description"]))
                for each in operation.get("parameters", ())
            ]
            rows += [(status, escape(response["description"])) for status, response in operation["responses"].items()]
            parts += [f"<tr><td>{left}<td>{right}" for left, right in rows]
            parts.append("</table>")
    return "".join(parts).encode()
