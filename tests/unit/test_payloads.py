"""What bodies mean: the merchant's request, an operator's resolution, Kopo Kopo's answers, results and webhooks."""

import json
from decimal import Decimal
from typing import Any

import pytest
from reversals import payloads
from reversals.errors import InvalidRequestError, UnboundResultError
from reversals.model import ReversalRequest, Source
from reversals.payloads import Kind
from reversals.rules import Evidence, Fact

from tests import kopokopo
from tests.kopokopo import ABSENT, CANCELLED, TRANSFERRED, anything, result, webhook

API_URL = "https://sandbox.kopokopo.com"
BODY = {"transaction_reference": "TQ2L262026", "reason": "Paid twice", "metadata": {"ticket": "T-1"}}


def encoded(document: Any = None, /, **changes: Any) -> bytes:
    """The usual request with changes, or another document."""
    fields = {**BODY, **changes} if document is None else document
    present = {name: value for name, value in fields.items() if value is not ABSENT} if fields else fields
    return json.dumps(present).encode()


# ------------------------------------------------------------------------------------------------------ JSON

NOT_JSON = {
    "empty": b"",
    "white space": b" \n",
    "words": b"reverse it",
    "cut": b'{"a":',
    "two documents": b"{}{}",
    "a comma too much": b'{"a":1,}',
    "single quotes": b"{'a':1}",
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":Infinity}',
    "-Infinity": b'{"a":-Infinity}',
    "a number of 5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "an exponent without end": b'{"a":1e99999999999999999999}',
    "half a surrogate pair": b'{"a":"\\ud800"}',
    "half a surrogate pair as a name": b'{"\\udc00":1}',
    "a raw control character": b'{"a":"\n"}',
    "invalid UTF-8": b'{"a":"\xff"}',
    "UTF-8 of a surrogate": b'{"a":"\xed\xa0\x80"}',
    "overlong UTF-8": b'{"a":"\xc0\xaf"}',
    "UTF-16": '{"a":1}'.encode("utf-16"),
    "UTF-16 without a mark": '{"a":1}'.encode("utf-16-le"),
    "UTF-32": '{"a":1}'.encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf{}",
    "arrays without end": b"[" * 100_000,
    "objects without end": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
}


@pytest.mark.parametrize("body", [pytest.param(body, id=name) for name, body in NOT_JSON.items()])
@pytest.mark.parametrize("unique_keys", [True, False])
def test_what_is_not_json_is_refused(body: bytes, unique_keys: bool) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.parse_json(body, unique_keys=unique_keys)


@pytest.mark.parametrize(
    ("body", "document"),
    [
        (b"{}", {}),
        (b' \r\n\t{"a" : [1, 2.50, null, true]} ', {"a": [1, Decimal("2.50"), None, True]}),
        (b'{"a":"\\u00e9\\/\\ud83d\\ude00"}', {"a": "\u00e9/\U0001f600"}),
        ('{"a":"\u00e9<>&"}'.encode(), {"a": "\u00e9<>&"}),
        (b'{"a":0.1}', {"a": Decimal("0.1")}),
        (b'{"a":1e400}', {"a": Decimal("1e400")}),
        (b"[" * 50 + b"]" * 50, json.loads("[" * 50 + "]" * 50)),
    ],
)
def test_json_is_read(body: bytes, document: Any) -> None:
    assert payloads.parse_json(body, unique_keys=True) == document


def test_a_name_that_is_there_twice() -> None:
    body = b'{"a":{"b":1,"b":2}}'
    assert payloads.parse_json(body, unique_keys=False) == {"a": {"b": 2}}
    with pytest.raises(InvalidRequestError) as raised:
        payloads.parse_json(body, unique_keys=True)
    assert raised.value.errors == [{"field": "b", "message": "must be there once"}]


# ------------------------------------------------------------------------------------------- the merchant's request


@pytest.mark.parametrize(
    ("body", "key", "expected"),
    [
        (encoded(), None, ReversalRequest("TQ2L262026", "Paid twice", {"ticket": "T-1"})),
        (encoded(metadata=ABSENT), "key-1", ReversalRequest("TQ2L262026", "Paid twice", {}, "key-1")),
        (encoded(reason="x"), "k", ReversalRequest("TQ2L262026", "x", {"ticket": "T-1"}, "k")),
        (encoded(metadata={}), "k" * 255, ReversalRequest("TQ2L262026", "Paid twice", {}, "k" * 255)),
        (encoded(transaction_reference="a-Z-0-9"), None, ReversalRequest("a-Z-0-9", "Paid twice", {"ticket": "T-1"})),
        (encoded(transaction_reference="A" * 64, reason="x"), None, ReversalRequest("A" * 64, "x", {"ticket": "T-1"})),
        (encoded(reason="\u00e9" * 255), None, ReversalRequest("TQ2L262026", "\u00e9" * 255, {"ticket": "T-1"})),
        (encoded(reason='<b>&"\\\n'), None, ReversalRequest("TQ2L262026", '<b>&"\\\n', {"ticket": "T-1"})),
        (
            encoded(metadata={f"n{number}": "" for number in range(5)}),
            None,
            ReversalRequest("TQ2L262026", "Paid twice", {f"n{number}": "" for number in range(5)}),
        ),
    ],
)
def test_a_request_is_read(body: bytes, key: str | None, expected: ReversalRequest) -> None:
    assert payloads.reversal_request(body, key) == expected


ODD_REFERENCES = [
    "",
    "A" * 65,
    "TQ 26",
    "TQ/26",
    "TQ_26",
    "TQ.26",
    "TQ\n",
    "\nTQ",
    "T\u00dc26",
    "\u0661\u0662",
    "#token-lease",
]


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"transaction_reference": ABSENT}, ["transaction_reference"]),
        ({"reason": ABSENT}, ["reason"]),
        *[
            ({"transaction_reference": it}, ["transaction_reference"])
            for it in anything(None, 1, ["TQ"], *ODD_REFERENCES)
        ],
        *[({"reason": it}, ["reason"]) for it in anything(None, 1, True, {}, "", "x" * 256)],
        *[
            ({"metadata": it}, ["metadata"])
            for it in anything(None, [], "ticket", 1, {"a": 1}, {"a": None}, {"a": {"b": "c"}})
        ],
        ({"metadata": {f"n{number}": "x" for number in range(6)}}, ["metadata"]),
        ({"metadata": {"": "x"}}, ["metadata"]),
        ({"amount": "400"}, ["amount"]),
        ({"callback_url": "https://evil.example", "_links": {}}, ["_links", "callback_url"]),
        (
            {"transaction_reference": "", "reason": "", "metadata": [], "amount": 1},
            ["amount", "metadata", "reason", "transaction_reference"],
        ),
    ],
)
def test_every_field_that_cannot_be_used_is_named(changes: dict[str, Any], fields: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        payloads.reversal_request(encoded(**changes), None)
    assert sorted(error["field"] for error in raised.value.errors) == fields
    assert all(error["message"] for error in raised.value.errors)


@pytest.mark.parametrize("document", [[], [BODY], "TQ2L262026", 1, None, True])
def test_a_request_is_an_object(document: Any) -> None:
    with pytest.raises(InvalidRequestError, match="object"):
        payloads.reversal_request(json.dumps(document).encode(), None)


@pytest.mark.parametrize("key", ["", "k" * 256, "\ud800"])
def test_an_idempotency_key_is_text_of_some_length(key: str) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        payloads.reversal_request(encoded(), key)
    assert [error["field"] for error in raised.value.errors] == ["Idempotency-Key"]


def test_a_name_twice_in_a_request_is_refused() -> None:
    body = b'{"transaction_reference":"TQ1","transaction_reference":"TQ2","reason":"x"}'
    with pytest.raises(InvalidRequestError) as raised:
        payloads.reversal_request(body, None)
    assert [error["field"] for error in raised.value.errors] == ["transaction_reference"]


def test_an_error_does_not_repeat_all_that_was_sent() -> None:
    with pytest.raises(InvalidRequestError) as raised:
        payloads.reversal_request(encoded(**{"x" * 10_000: 1}), None)
    assert len(raised.value.errors[0]["field"]) <= 255


# ------------------------------------------------------------------------------------------ an operator's resolution


@pytest.mark.parametrize(("status", "fact"), [("reversed", Fact.RESOLVED_REVERSED), ("failed", Fact.RESOLVED_FAILED)])
def test_a_resolution_is_read(status: str, fact: Fact) -> None:
    body = json.dumps({"status": status, "note": "Seen in M-PESA"}).encode()
    expected = Evidence(fact, Source.OPERATOR, by="arn:aws:iam::1:user/o", note="Seen in M-PESA")
    assert payloads.resolution(body, "arn:aws:iam::1:user/o") == expected


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        ({}, ["note", "status"]),
        ({"status": "reversed"}, ["note"]),
        ({"note": "x"}, ["status"]),
        *[
            ({"status": it, "note": "x"}, ["status"])
            for it in anything("pending", "unknown", "REVERSED", "", None, 1, [], {})
        ],
        *[({"status": "failed", "note": it}, ["note"]) for it in anything("", None, 1, [])],
        ({"status": "failed", "note": "x", "by": "somebody else"}, ["by"]),
    ],
)
def test_every_field_of_a_resolution_that_cannot_be_used_is_named(document: Any, fields: list[str]) -> None:
    with pytest.raises(InvalidRequestError) as raised:
        payloads.resolution(json.dumps(document).encode(), "arn")
    assert sorted(error["field"] for error in raised.value.errors) == fields


# ------------------------------------------------------------------------------------------ Kopo Kopo's answer to POST

ID = "7c0a52f0-3f1e-4a53-9d0e-0d4b61c7c001"
USABLE = {
    "absolute": f"{API_URL}/api/v2/reversals/{ID}",
    "relative": f"/api/v2/reversals/{ID}",
    "the page's typo": f"{API_URL}/api/api/v2/reversals/{ID}",
    "trailing slash": f"{API_URL}/api/v2/reversals/{ID}/",
    "host in capitals": f"https://SANDBOX.kopokopo.com/api/v2/reversals/{ID}",
    "port": f"https://sandbox.kopokopo.com:443/api/v2/reversals/{ID}",
    "plain http": f"http://sandbox.kopokopo.com/api/v2/reversals/{ID}",
    "query": f"{API_URL}/api/v2/reversals/{ID}?a=b#c",
    "spaces around": f" {API_URL}/api/v2/reversals/{ID} ",
}
UNUSABLE = {
    "missing": None,
    "empty": "",
    "another host": f"https://evil.example/api/v2/reversals/{ID}",
    "another port": f"https://sandbox.kopokopo.com:8443/api/v2/reversals/{ID}",
    "a host that begins alike": f"https://sandbox.kopokopo.com.evil.example/api/v2/reversals/{ID}",
    "our host as a user": f"https://sandbox.kopokopo.com@evil.example/api/v2/reversals/{ID}",
    "another host, without a scheme": f"//evil.example/api/v2/reversals/{ID}",
    "another path": f"{API_URL}/api/v2/payments/{ID}",
    "no id": f"{API_URL}/api/v2/reversals",
    "no id, slash": f"{API_URL}/api/v2/reversals/",
    "two ids": f"{API_URL}/api/v2/reversals/{ID}/{ID}",
    "dots": f"{API_URL}/api/v2/reversals/..",
    "an id with an escape": f"{API_URL}/api/v2/reversals/a%2Fb",
    "an id of odd characters": f"{API_URL}/api/v2/reversals/a_b",
    "an id that is too long": f"{API_URL}/api/v2/reversals/{'a' * 65}",
    "a port that is none": f"https://sandbox.kopokopo.com:x/api/v2/reversals/{ID}",
    "an open bracket": f"http://[/api/v2/reversals/{ID}",
    "two of them": f"{API_URL}/api/v2/reversals/{ID}, {API_URL}/api/v2/reversals/{'b' * 36}",
    "words": "see the dashboard",
}


def answered(status: int, location: str | None = None, body: bytes | None = b"") -> Evidence:
    return payloads.answer(status, location, body, API_URL)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("body", [b"", b'{"data":null}', b"<html>", None])
@pytest.mark.parametrize("location", [pytest.param(value, id=name) for name, value in USABLE.items()])
def test_a_2xx_with_a_usable_location_is_accepted(location: str, body: bytes | None, status: int) -> None:
    assert answered(status, location, body) == Evidence(Fact.ACCEPTED, Source.API, kopokopo_id=ID)


@pytest.mark.parametrize("status", [200, 201, 202])
@pytest.mark.parametrize("location", [pytest.param(value, id=name) for name, value in UNUSABLE.items()])
def test_a_2xx_without_a_usable_location_tells_nothing(location: str | None, status: int) -> None:
    evidence = answered(status, location)
    assert (evidence.fact, evidence.kopokopo_id) == (Fact.AMBIGUOUS, None)


def words(message: Any, **more: Any) -> bytes:
    return json.dumps({"error_code": 400, "error_message": message, **more}).encode()


@pytest.mark.parametrize(
    "status", [100, 199, 204, 300, 301, 302, 303, 307, 308, 402, 405, 408, 409, 410, 418, 500, 502, 503, 504]
)
@pytest.mark.parametrize("body", [b"", words("No"), b"<html><h1>Service Unavailable</h1></html>", None])
def test_any_other_answer_tells_nothing(status: int, body: bytes | None) -> None:
    assert answered(status, None, body).fact is Fact.AMBIGUOUS


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_no_acceptance_wherever_it_leads(status: int) -> None:
    assert answered(status, f"{API_URL}/api/v2/reversals/{ID}").fact is Fact.AMBIGUOUS


@pytest.mark.parametrize("body", [b"", words("Slow down"), None])
def test_429_was_not_processed(body: bytes | None) -> None:
    assert answered(429, None, body).fact is Fact.NOT_SENT


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (words("Transaction reference invalid"), "Transaction reference invalid"),
        (words(["Too old", "Not yours"]), "Too old; Not yours"),
        (b'{"errors":["Too old"]}', "Too old"),
        (b'{"error_message":"Too new","error_message":"Too old"}', "Too old"),
        (b'{"error":"forbidden","error_description":"Not yours"}', "Not yours"),
        (words([{"field": "reason", "text": "odd"}]), '{"field": "reason", "text": "odd"}'),
        (words("x" * 300), "x" * 255),
        (words(""), None),
        (words(None), None),
        (b"", None),
        (b"<html>No</html>", None),
        (b"[]", None),
    ],
)
def test_a_no_is_a_no_with_kopo_kopos_words(status: int, body: bytes, message: str | None) -> None:
    evidence = answered(status, None, body)
    assert evidence.fact is Fact.REJECTED
    assert evidence.message == message or (message is None and str(status) in (evidence.message or ""))


@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_no_whose_words_are_lost_may_be_another(status: int) -> None:
    """It may have said that a reversal is running."""
    assert answered(status, None, None).fact is Fact.AMBIGUOUS


PENDING = "You cannot reverse a transaction in Pending Reversal"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(words(PENDING), id="a string"),
        pytest.param(words([PENDING]), id="a list"),
        pytest.param(words(PENDING.lower()), id="lower case"),
        pytest.param(words(["Wrong reason", PENDING]), id="second in a list"),
        pytest.param(words(["x" * 300, PENDING]), id="behind many words"),
        pytest.param(words("Bad request", errors=[PENDING]), id="in another field"),
        pytest.param(json.dumps([PENDING]).encode(), id="the list is the body"),
        pytest.param(json.dumps(PENDING).encode(), id="the string is the body"),
        pytest.param(PENDING.encode(), id="no JSON"),
    ],
)
def test_a_reversal_that_is_running_is_no_refusal(body: bytes) -> None:
    evidence = answered(400, None, body)
    assert evidence.fact is Fact.RUNNING
    assert evidence.message


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("+254700000000 has no money", "(phone number) has no money"),
        ("254700000000", "(phone number)"),
        ("call 0700000000, or 0110000000.", "call (phone number), or (phone number)."),
        ("(+254711222333)", "((phone number))"),
        ("+254 700 000 000", "(phone number)"),
        ("0700-000-000", "(phone number)"),
        ("msisdn=254700000000&x", "msisdn=(phone number)&x"),
        ("id 25470000000012345", "id 25470000000012345"),
        ("TQ2L262026 of 1300.0", "TQ2L262026 of 1300.0"),
        ("2026-05-01", "2026-05-01"),
    ],
)
def test_words_are_kept_without_phone_numbers(text: str, kept: str) -> None:
    assert payloads.error_words(words(text)) == kept
    assert answered(400, None, words([text])).message == kept
    assert payloads.outcome(result(errors=[text]), Source.POLL).message == kept


# ------------------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize(
    ("document", "fact"),
    [
        pytest.param(result(), Fact.TRANSFERRED, id="transferred"),
        pytest.param(result(bulk=CANCELLED), Fact.CANCELLED, id="cancelled"),
        pytest.param(result(bulk={**TRANSFERRED, "status": " TRANSFERRED "}), Fact.TRANSFERRED, id="in capitals"),
        pytest.param(result(bulk={"status": "Transferred"}), Fact.TRANSFERRED, id="without details"),
        pytest.param(result(bulk=TRANSFERRED, errors=["odd"]), Fact.TRANSFERRED, id="transferred, with errors"),
        pytest.param(result(bulk=TRANSFERRED, status="Failed"), Fact.TRANSFERRED, id="transferred, yet failed"),
        *[
            pytest.param(result(bulk=bulk, status=status), Fact.ACCEPTED, id=f"{status}, bulk {name}")
            for status in (
                "Received",
                "Scheduled",
                "Pending",
                "Processed",
                "Success",
                "Failed",
                "Anything",
                "",
                None,
                1,
            )
            for name, bulk in {"null": None, "absent": ABSENT, "unknown": {**TRANSFERRED, "status": "Sent"}}.items()
        ],
        *[
            pytest.param(result(bulk=bulk), Fact.ACCEPTED, id=f"bulk {bulk!r}")
            for bulk in anything({}, [], "Transferred", {"status": None}, {"status": ["Transferred"]})
        ],
        *[
            pytest.param(result(bulk=None, status=status, errors=errors), Fact.CANCELLED, id=f"{status}, {errors!r}")
            for status in ("Processed", "Failed")
            for errors in anything("No money", ["No money"], [{"code": 1}], {"code": 1})
        ],
        *[
            pytest.param(result(bulk=None, status=status, errors=["odd"]), Fact.ACCEPTED, id=f"{status}, errors")
            for status in ("Received", "Scheduled", "Pending", "Anything")
        ],
        *[
            pytest.param(result(bulk=None, errors=errors), Fact.ACCEPTED, id=f"no errors: {errors!r}")
            for errors in anything(None, ABSENT, [], "", {}, [""], [None])
        ],
    ],
)
def test_the_bulk_payment_decides(document: dict[str, Any], fact: Fact) -> None:
    assert payloads.outcome(document, Source.POLL).fact is fact


def test_a_result_brings_its_details() -> None:
    assert payloads.outcome(result(), Source.CALLBACK, attempt=2) == Evidence(
        Fact.TRANSFERRED,
        Source.CALLBACK,
        attempt=2,
        kopokopo_id=kopokopo.KOPOKOPO_ID,
        amount=Decimal("400.0"),
        reversal_reference=kopokopo.REVERSAL_REFERENCE,
    )


def test_a_cancellation_has_no_reference_and_may_have_words() -> None:
    evidence = payloads.outcome(result(bulk=CANCELLED, errors=["No money", "Closed"]), Source.CALLBACK)
    assert (evidence.reversal_reference, evidence.message) == (None, "No money; Closed")


@pytest.mark.parametrize("id_", ["../oauth/token", "https://evil.example/x", "a/b", "a?b", "a b", "\u00e9", "x" * 65])
def test_an_id_that_could_lead_elsewhere_is_never_kept(id_: str) -> None:
    evidence = payloads.outcome(result(id=id_), Source.CALLBACK)
    assert (evidence.fact, evidence.kopokopo_id) == (Fact.TRANSFERRED, None)


@pytest.mark.parametrize("reference", [None, "", 1, [], {}])
def test_a_reference_that_is_none_is_not_kept(reference: Any) -> None:
    bulk = {**TRANSFERRED, "transaction_reference": reference}
    assert payloads.outcome(result(bulk=bulk), Source.CALLBACK).reversal_reference is None


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"data": None},
        {"data": []},
        {"data": {}},
        result(id=ABSENT),
        *[result(id=id_) for id_ in anything(None, 1, "", [], {})],
        {"data": {"id": "x", "type": "reversal"}},
        *[{"data": {"id": "x", "attributes": attributes}} for attributes in anything(None, [], "x", 1)],
    ],
)
def test_what_is_no_result_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.outcome(document, Source.POLL)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("400.0", "400.0"),
        ("400", "400"),
        (400, "400"),
        (Decimal("400.0"), "400.0"),
        (Decimal("4E2"), "4E+2"),
        ("0.01", "0.01"),
        ("1300.50", "1300.50"),
        ("0", "0"),
        *[(odd, None) for odd in anything(None, "", "KES 400", "4,000", "-1", -1, "NaN", "Infinity", True, [], {})],
        *[(odd, None) for odd in anything("1e999999999", Decimal("1e400"), 10**40, "0.00000000001")],
    ],
)
def test_amounts_are_decimals(value: Any, amount: str | None) -> None:
    read = payloads.amount(value)
    assert (None if read is None else str(read)) == amount


# ------------------------------------------------------------------------------------------------------ binding


def test_a_result_counts_at_the_url_that_its_signed_body_names() -> None:
    evidence = payloads.bound_outcome(result("TQ1", 2), "TQ1", 2)
    assert (evidence.fact, evidence.attempt, evidence.source) == (Fact.TRANSFERRED, 2, Source.CALLBACK)


@pytest.mark.parametrize("base", ["https://other.example", "http://127.0.0.1:3000", "https://x.example/v1", ""])
def test_the_host_may_be_another_name_of_ours(base: str) -> None:
    links = {"callback_url": f"{base}/kopokopo/results/TQ1/2"}
    assert payloads.bound_outcome(result(_links=links), "TQ1", 2).fact is Fact.TRANSFERRED


@pytest.mark.parametrize(
    "links",
    [
        ABSENT,
        None,
        [],
        {},
        {"callback_url": None},
        {"callback_url": 1},
        {"callback_url": ""},
        {"callback_url": "http://["},
        {"callback_url": "https://merchant.example/"},
        {"callback_url": "https://merchant.example/kopokopo/results/TQ1/1"},
        {"callback_url": "https://merchant.example/kopokopo/results/TQ1/22"},
        {"callback_url": "https://merchant.example/kopokopo/results/TQ12/2"},
        {"callback_url": "https://merchant.example/kopokopo/results/XTQ1/2"},
        {"callback_url": "https://merchant.example/kopokopo/results/TQ1/2/"},
        {"callback_url": "https://merchant.example/?/kopokopo/results/TQ1/2"},
        {"callback_url": "https://merchant.example/#/kopokopo/results/TQ1/2"},
        {"callback_url": "https://merchant.example/kopokopo/results/tq1/2"},
    ],
)
def test_a_result_of_another_url_is_not_bound_to_this_one(links: Any) -> None:
    with pytest.raises(UnboundResultError):
        payloads.bound_outcome(result(_links=links), "TQ1", 2)


def test_where_kopo_kopo_is_told_to_send_results() -> None:
    assert payloads.result_path("TQ2L262026", 12) == "/kopokopo/results/TQ2L262026/12"


@pytest.mark.parametrize(("text", "attempt"), [("1", 1), ("12", 12), ("999999999", 999999999)])
def test_a_path_is_read_back(text: str, attempt: int) -> None:
    assert payloads.result_target("TQ2L262026", text) == ("TQ2L262026", attempt)


@pytest.mark.parametrize("text", ["", "0", "01", "-1", "1.0", "one", "\u0661", "9" * 30, "1\n"])
def test_what_can_be_no_attempt_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.result_target("TQ2L262026", text)


@pytest.mark.parametrize("reference", ODD_REFERENCES)
def test_what_can_be_no_reference_is_refused(reference: str) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.result_target(reference, "1")


# ------------------------------------------------------------------------------------------------------ webhooks


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (result(), Kind.RESULT),
        (result(type="reversals"), Kind.RESULT),
        (result(type=ABSENT), Kind.RESULT),
        ({"data": None}, Kind.RESULT),
        (webhook(), Kind.REVERSED_WEBHOOK),
        (webhook(topic="b2b_transaction_reversed"), Kind.REVERSED_WEBHOOK),
        (webhook(topic="buygoods_transaction_received"), Kind.OTHER),
        (webhook(topic="customer_created"), Kind.OTHER),
        (webhook(topic=None), Kind.OTHER),
        ({"data": {"id": "1", "type": "incoming_payment", "attributes": {}}}, Kind.OTHER),
        ({"data": {"id": "1", "type": "send_money", "attributes": {}}}, Kind.OTHER),
        ({"TransactionType": "Buygoods", "TransID": "TQ1"}, Kind.OTHER),
    ],
)
def test_signed_bodies_are_sorted(document: Any, kind: Kind) -> None:
    assert payloads.kind(document) is kind


@pytest.mark.parametrize("document", [None, [], "data", 1, {}, {"id": "1"}, [result()]])
def test_what_kopo_kopo_never_sends_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.kind(document)


@pytest.mark.parametrize("topic", ["buygoods_transaction_reversed", "b2b_transaction_reversed"])
@pytest.mark.parametrize("amount", ["233", "233.0", 233, Decimal("233.0"), None, ABSENT])
def test_a_reversed_webhook_names_the_original_transaction(topic: str, amount: Any) -> None:
    reference, evidence = payloads.reversed_webhook(webhook("TQ9", topic=topic, amount=amount))
    assert reference == "TQ9"
    told = None if amount in (None, ABSENT) else Decimal(amount)
    assert evidence == Evidence(Fact.TRANSFERRED, Source.WEBHOOK, amount=told)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"topic": "buygoods_transaction_reversed"},
        {"topic": "buygoods_transaction_reversed", "event": None},
        {"topic": "buygoods_transaction_reversed", "event": {}},
        {"topic": "buygoods_transaction_reversed", "event": {"resource": []}},
        *[webhook(it) for it in anything(None, 1, "", "A" * 65, "TQ 1", "TQ/../1", "TQ\n", "#token-lease", ABSENT)],
    ],
)
def test_a_webhook_that_names_no_transaction_is_refused(document: Any) -> None:
    with pytest.raises(InvalidRequestError):
        payloads.reversed_webhook(document)
