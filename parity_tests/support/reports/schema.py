"""Validate a report's JSON against its schema."""

import functools
import json
from importlib import resources
from typing import Any

import jsonschema  # which nbformat, of the extra `test`, needs too


@functools.cache
def _validator() -> Any:
    schema = json.loads((resources.files("parity_tests.harness.formats") / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def validated(document: dict[str, Any]) -> dict[str, Any]:
    """Return a report's JSON as it is read back, after it was found to be one."""
    back = json.loads(json.dumps(document, allow_nan=False))
    assert back == document
    _validator().validate(back)
    return back
