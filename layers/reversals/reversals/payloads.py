"""What a body means: the merchant's request, Kopo Kopo's answers, results and webhooks. Pure.

Kopo Kopo's documents are described at https://developers.kopokopo.com/guides/reversals.html. What its pages leave open
is read either way; what would make a reversal `failed` without evidence is not read into anything.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, InvalidOperation
from enum import Enum
from typing import Any, NoReturn
from urllib.parse import SplitResult, urlsplit

import fastjsonschema

from . import schemas
from .errors import InvalidRequestError, UnboundResultError
from .model import ReversalRequest, Source, Status
from .rules import RESOLUTIONS, Evidence, Fact

RESULT_TYPES = frozenset({"reversal", "reversals"})
REVERSED_TOPICS = frozenset({"buygoods_transaction_reversed", "b2b_transaction_reversed"})
REVERSALS_PATH = "/api/v2/reversals"
SUBSCRIPTIONS_PATH = "/api/v2/webhook_subscriptions"

_REFERENCE = re.compile(schemas.TRANSACTION_REFERENCE["pattern"][1:-1])
_ATTEMPT = re.compile("[1-9][0-9]{0,8}")
_SAFE_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_PHONE_NUMBER = re.compile(r"\+?\b(?:254[ -]?|0)[17]\d\d[ -]?\d{3}[ -]?\d{3}\b")
_MESSAGE_LENGTH = 255


# -------------------------------------------------------------------------------------------------- reading JSON


def parse_json(body: bytes, *, unique_keys: bool) -> Any:
    """Read JSON as RFC 8259 has it, with every number that has a fraction as a Decimal.

    Args:
        body: As received.
        unique_keys: Refuse an object that has a name twice, rather than take the last of them.

    Raises:
        InvalidRequestError: it is not UTF-8, not JSON, holds NaN or half a surrogate pair, or is nested too deeply.
    """
    try:
        document = json.loads(
            body.decode("utf-8"),
            parse_float=Decimal,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique if unique_keys else None,
        )
        _require_text(json.dumps(document, ensure_ascii=False, default=str))
    except InvalidRequestError:
        raise
    except RecursionError:
        raise InvalidRequestError("The body is nested too deeply.") from None
    except (ValueError, InvalidOperation):
        raise InvalidRequestError("The body is not JSON (RFC 8259, in UTF-8).") from None
    return document


def _require_text(value: str) -> None:
    """Half a surrogate pair is legal JSON, but no text: nothing behind us could store it. Raises ValueError."""
    value.encode("utf-8")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in pairs:
        if name in document:
            raise InvalidRequestError(
                "The body has a name twice.", [{"field": _clip(name), "message": "must be there once"}]
            )
        document[name] = value
    return document


# -------------------------------------------------------------------------------------------- the merchant's request


def reversal_request(body: bytes, idempotency_key: str | None) -> ReversalRequest:
    """Read the body of `POST /reversals`.

    Raises:
        InvalidRequestError: with every field that has to be mended.
    """
    document = _request_document(body)
    errors = list(_field_errors(document, schemas.REVERSAL_REQUEST, _REQUEST_VALIDATORS))
    if idempotency_key is not None and not _is_key(idempotency_key):
        errors.append({"field": "Idempotency-Key", "message": "must be 1 to 255 characters"})
    if errors:
        raise InvalidRequestError("The request has fields that cannot be used.", errors)
    return ReversalRequest(
        transaction_reference=document["transaction_reference"],
        reason=document["reason"],
        metadata=document.get("metadata", {}),
        idempotency_key=idempotency_key,
    )


def _is_key(value: str) -> bool:
    try:
        _require_text(value)
    except ValueError:
        return False
    return 1 <= len(value) <= 255


def resolution(body: bytes, by: str) -> Evidence:
    """Read the body of `POST /reversals/{transaction_reference}/resolution`.

    Args:
        body: As received.
        by: The caller's ARN.

    Raises:
        InvalidRequestError: with every field that has to be mended.
    """
    document = _request_document(body)
    errors = list(_field_errors(document, schemas.RESOLUTION, _RESOLUTION_VALIDATORS))
    if errors:
        raise InvalidRequestError("The request has fields that cannot be used.", errors)
    return Evidence(RESOLUTIONS[Status(document["status"])], Source.OPERATOR, by=by, note=document["note"])


def _request_document(body: bytes) -> dict[str, Any]:
    document = parse_json(body, unique_keys=True)
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    return document


Validator = Callable[[Any], Any]


def _validators(schema: Mapping[str, Any]) -> dict[str, Validator]:
    return {name: fastjsonschema.compile(part) for name, part in schema["properties"].items()}


_REQUEST_VALIDATORS = _validators(schemas.REVERSAL_REQUEST)
_RESOLUTION_VALIDATORS = _validators(schemas.RESOLUTION)
_validate_result: Validator = fastjsonschema.compile(schemas.RESULT)
_validate_reversed_webhook: Validator = fastjsonschema.compile(schemas.REVERSED_WEBHOOK)


def _field_errors(
    document: Mapping[str, Any], schema: Mapping[str, Any], validators: Mapping[str, Validator]
) -> Iterator[dict[str, str]]:
    """Every field's error; a schema as a whole would stop at the first."""
    for name in document.keys() - validators.keys():
        yield {"field": _clip(name), "message": "is not a field of this request"}
    for name, validate in validators.items():
        if name not in document:
            if name in schema["required"]:
                yield {"field": name, "message": "is required"}
            continue
        try:
            validate(document[name])
        except fastjsonschema.JsonSchemaValueException:
            yield {"field": name, "message": f"must be {schema['properties'][name]['description']}"}


# ------------------------------------------------------------------------------------------ Kopo Kopo's answer to POST


def answer(status: int, location: str | None, body: bytes | None, api_url: str) -> Evidence:
    """What Kopo Kopo's answer to `POST /api/v2/reversals` proves.

    Args:
        status: Not 401: that one was not processed, and is for the caller to try again with a new token.
        location: The Location header.
        body: None if it broke off.
        api_url: The origin that was asked; a Location elsewhere is not usable.
    """
    if 200 <= status < 300:
        kopokopo_id = location_id(location, api_url)
        if kopokopo_id:
            return Evidence(Fact.ACCEPTED, Source.API, kopokopo_id=kopokopo_id)
        return Evidence(Fact.AMBIGUOUS, Source.API, message=f"Kopo Kopo answered {status} without a usable Location.")
    if status == 429:
        return Evidence(Fact.NOT_SENT, Source.API, message="Kopo Kopo asked us to slow down (429).")
    if status in (400, 403, 404, 422) and body is not None:
        words = error_words(body)
        # It may stand in any field, or none: what matters is not to call failed what is running.
        if b"pending reversal" in body.lower():
            return Evidence(Fact.RUNNING, Source.API, message=words or "A reversal of it is running already.")
        return Evidence(Fact.REJECTED, Source.API, message=words or f"Kopo Kopo answered {status}.")
    return Evidence(Fact.AMBIGUOUS, Source.API, message=f"Kopo Kopo answered {status}: it may have been processed.")


def location_id(location: str | None, api_url: str) -> str | None:
    """The id in a Location, if it names a reversal of the API that was asked; the URL itself is never followed."""
    if not location or "," in location:  # two of them, folded into one
        return None
    try:
        there, here = urlsplit(location.strip()), urlsplit(api_url)
        foreign = there.netloc and _authority(there) != _authority(here)
    except ValueError:
        return None
    prefix, _, last = there.path.rstrip("/").rpartition("/")
    return safe_id(last) if prefix.endswith(REVERSALS_PATH) and not foreign else None


def _authority(url: SplitResult) -> tuple[str | None, int | None]:
    return url.hostname, None if url.port in (80, 443) else url.port


def is_transaction_reference(value: str) -> bool:
    return _REFERENCE.fullmatch(value) is not None


def safe_id(value: object) -> str | None:
    """The value, if it can stand in a path as it is."""
    return value if isinstance(value, str) and _SAFE_ID.fullmatch(value) else None


def error_words(body: bytes) -> str | None:
    """Kopo Kopo's own words of refusal: `error_message` may be text or a list. None where there are none to be read."""
    try:
        document = parse_json(body, unique_keys=False)
    except InvalidRequestError:
        return None
    if not isinstance(document, dict):
        return None
    return _words(document.get("error_message") or document.get("errors") or document.get("error_description"))


def _words(value: Any) -> str | None:
    """Whatever stands for errors, as one line without phone numbers."""
    parts = value if isinstance(value, list) else [value]
    texts = [part if isinstance(part, str) else json.dumps(part, default=str) for part in parts if part]
    return _clip(_PHONE_NUMBER.sub("(phone number)", "; ".join(texts))) or None


def _clip(text: str) -> str:
    return text[:_MESSAGE_LENGTH]


# --------------------------------------------------------------------------------------- Kopo Kopo's status and results


def outcome(document: Any, source: Source, attempt: int | None = None) -> Evidence:
    """What a reversal's status document proves: the answer to GET and the callback's body are alike.

    The bulk payment decides, never the status word: Kopo Kopo says `Processed` of what it cancelled, too.

    Args:
        document: The parsed body, `{"data": {"id", "type", "attributes": {...}}}`.
        source: Who brought it.
        attempt: Whose result it is.

    Raises:
        InvalidRequestError: it is no such document.
    """
    try:
        data = _validate_result(document["data"])
    except (KeyError, TypeError, fastjsonschema.JsonSchemaValueException) as error:
        raise InvalidRequestError(f"This is not a reversal's result: {_schema_message(error)}.") from None
    attributes = data["attributes"]
    bulk = attributes.get("reversal_bulk_payment")
    payment = bulk if isinstance(bulk, dict) else {}
    errors = _words(attributes.get("errors"))
    verdict = _word(payment.get("status"))
    if verdict == "transferred":
        fact = Fact.TRANSFERRED
    elif verdict == "cancelled" or (bulk is None and errors and _word(attributes.get("status")) in _FINAL_WORDS):
        fact = Fact.CANCELLED
    else:
        fact = Fact.ACCEPTED
    reference = payment.get("transaction_reference")
    return Evidence(
        fact,
        source,
        attempt=attempt,
        kopokopo_id=safe_id(data["id"]),
        amount=amount(payment.get("amount")),
        reversal_reference=_clip(reference) if isinstance(reference, str) and reference else None,
        message=errors,
    )


_FINAL_WORDS = frozenset({"processed", "failed"})


def _word(value: Any) -> str:
    return value.strip().lower() if isinstance(value, str) else ""


def _schema_message(error: Exception) -> str:
    if isinstance(error, fastjsonschema.JsonSchemaValueException):
        return str(error.message)
    return "data is missing"


def amount(value: Any) -> Decimal | None:
    """KES, from text or a number, with the decimals that it came with. None where it is no amount of money."""
    try:
        number = Decimal(value) if isinstance(value, str | int | Decimal) and not isinstance(value, bool) else None
    except InvalidOperation:
        return None
    if number is None or not number.is_finite() or number.is_signed():
        return None
    exponent = number.as_tuple().exponent
    sensible = isinstance(exponent, int) and -6 <= exponent <= 12 and number.adjusted() <= 12
    return number if sensible else None


# ------------------------------------------------------------------------------------------------- signed notifications


class Kind(Enum):
    """What a signed body is."""

    RESULT = "result"
    REVERSED_WEBHOOK = "webhook"
    OTHER = "other"  # another family, topic, or a Daraja body: acknowledged, and nothing else


def kind(document: Any) -> Kind:
    """Sort a signed body.

    Raises:
        InvalidRequestError: it is nothing that Kopo Kopo sends.
    """
    if not isinstance(document, dict):
        raise InvalidRequestError("The body must be a JSON object.")
    if "topic" in document:
        return Kind.REVERSED_WEBHOOK if _word(document["topic"]) in REVERSED_TOPICS else Kind.OTHER
    if "data" in document:
        data = document["data"]
        other = isinstance(data, dict) and _word(data.get("type", "reversal")) not in RESULT_TYPES
        return Kind.OTHER if other else Kind.RESULT
    if "TransactionType" in document:
        return Kind.OTHER
    raise InvalidRequestError("The body has neither data nor a topic.")


def bound_outcome(document: Any, transaction_reference: str, attempt: int) -> Evidence:
    """The evidence of a result that arrived at this attempt's URL, if that is where Kopo Kopo was told to send it.

    A signature has no time and no address, so a true result can be replayed anywhere. What ties it to its reversal is
    the callback URL inside the signed body; its host may be another name of ours, so the path is what counts.

    Raises:
        UnboundResultError: the signed body names another URL, or none.
        InvalidRequestError: it is no result.
    """
    evidence = outcome(document, Source.CALLBACK, attempt)
    links = document["data"]["attributes"].get("_links")
    url = links.get("callback_url") if isinstance(links, dict) else None
    try:
        path = urlsplit(url).path if isinstance(url, str) else ""
    except ValueError:
        path = ""
    if not path.endswith(result_path(transaction_reference, attempt)):
        raise UnboundResultError("The signed result names another callback_url than the one at which it arrived.")
    return evidence


def result_path(transaction_reference: str, attempt: int) -> str:
    """The path of the `callback_url` of one attempt."""
    return f"/kopokopo/results/{transaction_reference}/{attempt}"


def result_target(transaction_reference: str, attempt: str) -> tuple[str, int]:
    """The same, read back from the path's parts.

    Raises:
        InvalidRequestError: it is no path that we ever gave out.
    """
    if not is_transaction_reference(transaction_reference) or not _ATTEMPT.fullmatch(attempt):
        raise InvalidRequestError("This is no reversal's callback_url.")
    return transaction_reference, int(attempt)


def reversed_webhook(document: Any) -> tuple[str, Evidence]:
    """The transaction reference of a `*_transaction_reversed` webhook, and its evidence.

    Raises:
        InvalidRequestError: it names no transaction.
    """
    try:
        resource = _validate_reversed_webhook(document)["event"]["resource"]
    except fastjsonschema.JsonSchemaValueException as error:
        raise InvalidRequestError(f"This is not a reversed transaction's webhook: {error.message}.") from None
    evidence = Evidence(Fact.TRANSFERRED, Source.WEBHOOK, amount=amount(resource.get("amount")))
    return resource["reference"], evidence
