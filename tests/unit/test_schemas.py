"""The JSON Schemas stay JSON Schemas, for the functions and for the API's description alike."""

import json
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]
from reversals import schemas

SCHEMAS = {name: value for name, value in vars(schemas).items() if name.isupper()}


@pytest.mark.parametrize("schema", [pytest.param(schema, id=name) for name, schema in SCHEMAS.items()])
def test_a_schema_is_a_schema_and_json(schema: Any) -> None:
    Draft7Validator.check_schema(schema)
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize("schema", [schemas.REVERSAL_REQUEST, schemas.RESOLUTION])
def test_what_merchants_send_is_described_field_by_field_and_nothing_else_is_taken(schema: Any) -> None:
    assert schema["additionalProperties"] is False
    assert all(field["description"] for field in schema["properties"].values())


@pytest.mark.parametrize("schema", [schemas.RESULT, schemas.REVERSED_WEBHOOK])
def test_what_kopo_kopo_sends_may_gain_fields(schema: Any) -> None:
    assert "additionalProperties" not in json.dumps(schema)
