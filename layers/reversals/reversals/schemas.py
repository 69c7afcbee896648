"""The JSON Schemas (draft 7) of what comes in, for the functions and for the API's description alike."""

from typing import Any

TRANSACTION_REFERENCE = {"type": "string", "pattern": "^[A-Za-z0-9-]{1,64}$"}

REVERSAL_REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["transaction_reference", "reason"],
    "additionalProperties": False,
    "properties": {
        "transaction_reference": {
            **TRANSACTION_REFERENCE,
            "description": "1 to 64 of A-Z a-z 0-9 - : the M-PESA reference of the payment to reverse",
        },
        "reason": {"type": "string", "minLength": 1, "maxLength": 255, "description": "1 to 255 characters"},
        "metadata": {
            "type": "object",
            "maxProperties": 5,
            "propertyNames": {"minLength": 1},  # DynamoDB has no attribute without a name
            "additionalProperties": {"type": "string"},
            "description": "at most 5 pairs of string to string, each with a name",
        },
    },
}

RESOLUTION: dict[str, Any] = {
    "type": "object",
    "required": ["status", "note"],
    "additionalProperties": False,
    "properties": {
        "status": {"enum": ["reversed", "failed"], "description": "reversed or failed"},
        "note": {
            "type": "string",
            "minLength": 1,
            "maxLength": 1000,
            "description": "1 to 1000 characters: how it was found out",
        },
    },
}

# Kopo Kopo's documents: no more is asked of them than is needed to read the outcome, since they may gain fields.
RESULT: dict[str, Any] = {
    "type": "object",
    "required": ["id", "attributes"],
    "properties": {
        "id": {"type": "string", "minLength": 1},
        "attributes": {"type": "object"},
    },
}

REVERSED_WEBHOOK: dict[str, Any] = {
    "type": "object",
    "required": ["event"],
    "properties": {
        "event": {
            "type": "object",
            "required": ["resource"],
            "properties": {
                "resource": {
                    "type": "object",
                    "required": ["reference"],
                    "properties": {"reference": TRANSACTION_REFERENCE},
                }
            },
        }
    },
}
