"""Every variant in which Kopo Kopo may send a result or a webhook, or answer our POST: taken, refused, or unknown.

Of what comes in, the signature is first, on the raw bytes; only then is anything read.
"""

import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests import kopokopo
from tests.conftest import Cloud, Line, Peer, answers, response
from tests.kopokopo import (
    ABSENT,
    CANCELLED,
    KOPOKOPO_ID,
    REFERENCE,
    TRANSFERRED,
    anything,
    encode,
    result,
    sign,
    webhook,
)

StartPeer = Callable[..., Peer]
Deploy = Callable[..., Cloud]

PATH = f"/kopokopo/results/{REFERENCE}/1"
WEBHOOKS = "/kopokopo/webhooks"
LIMIT = 256 * 1024
REQUEST = {"transaction_reference": REFERENCE, "reason": "Paid twice"}
TOKEN = response("200 OK", body=b'{"access_token":"t","expires_in":3600}')


@dataclass
class Posts:
    """A stack in which the usual transaction is unknown to begin with."""

    cloud: Cloud

    def pending(self) -> None:
        """What the POST's own answer would have left: pending, with the id that Kopo Kopo gave."""
        self.cloud.deliver(result(bulk=None))

    @property
    def status(self) -> str | None:
        item = self.cloud.item()
        return item["status"]["S"] if item else None


@pytest.fixture
def posts(cloud: Cloud) -> Posts:
    return Posts(cloud)


def variants(**cases: Any) -> Any:
    return [pytest.param(*(case if isinstance(case, tuple) else (case,)), id=name) for name, case in cases.items()]


# ------------------------------------------------------------------------------------------------ what a result says

UNDECIDED = {
    f"{word or 'no'} status, bulk payment {name}": (result(status=word, bulk=bulk), "pending")
    for word in ("Received", "Scheduled", "Pending", "Processed", "Success", "Failed", "Reversed", "", None)
    for name, bulk in {"null": None, "absent": ABSENT, "unknown": {**TRANSFERRED, "status": "Sent"}}.items()
}
ERRORS: dict[str, Any] = {
    "null": None,
    "absent": ABSENT,
    "an empty list": [],
    "a list": ["Not enough money"],
    "a string": "Not enough money",
    "a list of objects": [{"code": 1, "message": "Not enough money"}],
}
# Without a bulk payment, errors are a verdict only where the status word says that it is over.
NO_PAYMENT = {
    f"no bulk payment, {word}, errors {name}": (
        result(status=word, bulk=bulk, errors=errors),
        "failed" if errors and errors is not ABSENT and word in ("Processed", "Failed") else "pending",
    )
    for word, bulk in (("Processed", None), ("Failed", ABSENT), ("Received", None), ("Success", ABSENT))
    for name, errors in ERRORS.items()
}
METADATA: dict[str, Any] = {
    "null": None,
    "absent": ABSENT,
    "empty": {},
    "of other values": {"count": 1, "paid": True, "price": 1.5, "list": [1, {"deep": None}]},
}


@pytest.mark.parametrize(
    ("document", "status"),
    variants(
        **{
            "type reversal": (result(type="reversal"), "reversed"),
            "type reversals": (result(type="reversals"), "reversed"),
            "transferred": (result(), "reversed"),
            "cancelled, without a reference": (result(bulk=CANCELLED), "failed"),
            **UNDECIDED,
            **{f"errors {name}": (result(errors=errors), "reversed") for name, errors in ERRORS.items()},
            **{f"cancelled, errors {n}": (result(bulk=CANCELLED, errors=it), "failed") for n, it in ERRORS.items()},
            **NO_PAYMENT,
            **{f"metadata {name}": (result(metadata=metadata), "reversed") for name, metadata in METADATA.items()},
            "a code as the transaction's reference": (result(transaction_reference=REFERENCE), "reversed"),
            "a UUID as the transaction's reference": (result(), "reversed"),
            "another code as the transaction's reference": (result(transaction_reference="QX91TEST07"), "reversed"),
            "no reference of the transaction": (result(transaction_reference=ABSENT), "reversed"),
            **{
                f"the time {time}": (
                    result(created_at=time, bulk={**TRANSFERRED, "origination_time": time}),
                    "reversed",
                )
                for time in (
                    *("2026-05-01T10:00:00+03:00", "2026-04-30T19:30:00.001-11:30", "2026-05-01T07:00:00.123456Z"),
                    *("2026-05-01", "", None, 0),
                )
            },
            "extra fields": (result(surprise={"a": [1]}) | {"included": []}, "reversed"),
            "a reversed bulk payment with a failed status word": (result(status="Failed"), "reversed"),
        }
    ),
)
@pytest.mark.parametrize("known", [False, True], ids=["unknown before", "pending before"])
def test_taken(posts: Posts, document: Any, status: str, known: bool) -> None:
    if known:
        posts.pending()
    assert posts.cloud.deliver(document).status == 200
    assert posts.status == status


@pytest.mark.parametrize(
    ("amount", "shown"),
    variants(
        one_decimal=("400.0", "400.0"),
        no_decimals=("400", "400"),
        a_number=(400, "400"),
        a_float=(400.0, "400.0"),
        two_decimals=("1300.50", "1300.50"),
        null=(None, None),
        words=("much", None),
    ),
)
def test_amounts_are_decimals(posts: Posts, amount: Any, shown: str | None) -> None:
    assert posts.cloud.deliver(result(bulk={**TRANSFERRED, "amount": amount})).status == 200
    assert posts.cloud.get(f"/reversals/{REFERENCE}").json["amount"] == shown


# ------------------------------------------------------------------------------------------------ how it is written


def reordered(document: Any) -> bytes:
    return encode({"data": dict(reversed(document["data"].items()))})


def with_duplicates(document: Any) -> bytes:
    return encode(document).replace(b'"status":"Processed"', b'"status":"Received","status":"Processed"')


TEXT: dict[str, Any] = {"reason": '\u00e9 \u4e2d <b>&amp;</b> / \\ "quoted" \U0001f600'}
WRITTEN: dict[str, Callable[[Any], bytes]] = {
    "compact": encode,
    "spaced": lambda document: json.dumps(document).encode(),
    "pretty": lambda document: json.dumps(document, indent=4).encode(),
    "with a newline at the end": lambda document: encode(document) + b"\r\n",
    "escaped": lambda document: json.dumps(document, ensure_ascii=True).encode(),
    "literal": lambda document: json.dumps(document, ensure_ascii=False).encode(),
    "escaped slashes": lambda document: encode(document).replace(b"/", b"\\/"),
    "escaped brackets": lambda document: encode(document).replace(b"<", b"\\u003c").replace(b"&", b"\\u0026"),
    "in another order": reordered,
    "with a name twice": with_duplicates,
}


@pytest.mark.parametrize("write", variants(**WRITTEN))
@pytest.mark.parametrize("as_base64", [False, True], ids=["text", "base64"])
def test_taken_however_it_is_written(posts: Posts, write: Callable[[Any], bytes], as_base64: bool) -> None:
    assert posts.cloud.notify(PATH, write(result(**TEXT)), as_base64=as_base64).status == 200
    assert posts.status == "reversed"


@pytest.mark.parametrize(("size", "status"), variants(**{"at the limit": (LIMIT, 200), "above it": (LIMIT + 1, 413)}))
@pytest.mark.parametrize("as_base64", [False, True], ids=["text", "base64"])
def test_taken_up_to_a_limit(posts: Posts, size: int, status: int, as_base64: bool) -> None:
    body = encode(result())
    body = body[:-1] + b" " * (size - len(body)) + b"}"
    answer = posts.cloud.notify(PATH, body, as_base64=as_base64)
    assert answer.status == status
    assert posts.status == ("reversed" if status == 200 else None)


@pytest.mark.parametrize(
    "body",
    variants(
        **{
            "arrays": encode(result(metadata="?")).replace(b'"?"', b"[" * 100_000 + b"]" * 100_000),
            "objects": encode(result(metadata="?")).replace(b'"?"', b'{"a":' * 40_000 + b"1" + b"}" * 40_000),
            "alone": b"[" * 200_000,
        }
    ),
)
def test_refused_when_nested_without_end(posts: Posts, body: bytes) -> None:
    assert posts.cloud.notify(PATH, body).status == 400
    assert posts.status is None


# ------------------------------------------------------------------------------------------------ when it comes


def test_the_same_callback_twice_has_no_second_effect(posts: Posts) -> None:
    posts.pending()
    assert posts.cloud.deliver(result()).status == 200
    once = posts.cloud.item()
    assert [posts.cloud.deliver(result()).status for _ in range(3)] == [200] * 3
    assert posts.cloud.item() == once


@pytest.mark.parametrize("final", variants(reversed=result(), failed=result(bulk=CANCELLED)))
@pytest.mark.parametrize("word", ["Received", "Scheduled", "Pending", "Processed"])
def test_an_older_status_after_a_final_one_changes_nothing(posts: Posts, final: Any, word: str) -> None:
    posts.pending()
    posts.cloud.deliver(final)
    ended = posts.cloud.item()
    assert posts.cloud.deliver(result(status=word, bulk=None)).status == 200
    assert posts.cloud.item() == ended


def test_a_final_result_against_another_is_a_conflict_and_no_regress(posts: Posts) -> None:
    posts.cloud.deliver(result())
    assert posts.cloud.deliver(result(bulk=CANCELLED)).status == 200
    item = posts.cloud.item() or {}
    assert (item["status"], item["conflict"]) == ({"S": "reversed"}, {"BOOL": True})


@pytest.mark.parametrize("attempt", [1, 2, 17])
def test_a_result_of_what_we_do_not_know_is_kept(posts: Posts, attempt: int) -> None:
    assert posts.cloud.deliver(result("UNHEARD-OF", attempt), "UNHEARD-OF", attempt).status == 200
    item = posts.cloud.item("UNHEARD-OF") or {}
    assert (item["status"], item["attempt"]) == ({"S": "reversed"}, {"N": str(attempt)})


@pytest.mark.parametrize(
    ("final", "status"), variants(reversed=(result(), "reversed"), failed=(result(bulk=CANCELLED), "failed"))
)
@pytest.mark.parametrize("answer", ["201 Created", "202 Accepted", "500 Internal Server Error"])
def test_a_result_that_comes_before_our_post_is_answered_is_kept(
    deploy: Deploy, peer: StartPeer, final: Any, status: str, answer: str
) -> None:
    def script(line: Line) -> None:
        line.read_request()
        line.socket.sendall(TOKEN)
        line.read_request()
        early.append(cloud.deliver(final).status)
        line.socket.sendall(response(answer, f"Location: /api/v2/reversals/{KOPOKOPO_ID}"))
        line.hold()

    early: list[int] = []
    api = peer(script)
    cloud = deploy(KopoKopoApiUrl=api.url, KopoKopoAuthUrl=api.url)
    assert cloud.post("/reversals", REQUEST).status == 201
    assert early == [200]
    assert Posts(cloud).status == status


# ------------------------------------------------------------------------------------------------ webhooks


@pytest.mark.parametrize(
    "document",
    variants(
        **{
            "buygoods": webhook(),
            "b2b": webhook(topic="b2b_transaction_reversed"),
            "b2b, by a phone": webhook(topic="b2b_transaction_reversed", sender_phone_number=kopokopo.PHONE_NUMBER),
            "with reversal_time": webhook(reversal_time="2026-05-01T10:00:05+03:00"),
            "without hashed_sender_phone": webhook(hashed_sender_phone=ABSENT),
            **{f"middle name {name!r}": webhook(sender_middle_name=name) for name in (None, "", "M")},
            **{f"amount {amount!r}": webhook(amount=amount) for amount in ("233", "233.0", 233, 233.0, None)},
            "another event type": webhook(type="Something New"),
            "extra fields": webhook(surprise=[1, 2]),
            "the topic in capitals": webhook(topic="Buygoods_Transaction_Reversed"),
        }
    ),
)
@pytest.mark.parametrize("path", [WEBHOOKS, PATH], ids=["at the webhooks' URL", "at a result's URL"])
@pytest.mark.parametrize("known", [False, True], ids=["unknown before", "pending before"])
def test_a_reversed_webhook_is_taken(posts: Posts, document: Any, path: str, known: bool) -> None:
    if known:
        posts.pending()
    assert posts.cloud.notify(path, document).status == 200
    assert posts.status == "reversed"


DARAJA = {"TransactionType": "Buygoods", "TransID": REFERENCE, "TransAmount": "400.0", "MSISDN": "254700000000"}
FOREIGN = {
    "a Daraja body": DARAJA,
    "incoming_payment": {"data": {"id": "1", "type": "incoming_payment", "attributes": {"status": "Success"}}},
    "send_money": {"data": {"id": "1", "type": "send_money", "attributes": {"status": "Processed"}}},
    "payment, as an object with another id": {"data": {"id": 1, "type": "payment", "attributes": None}},
    "buygoods_transaction_received": webhook(topic="buygoods_transaction_received"),
    "settlement_transfer_completed": webhook(topic="settlement_transfer_completed"),
    "customer_created": {"topic": "customer_created", "id": "1", "event": {"type": "Customer Created"}},
}


@pytest.mark.parametrize("document", variants(**FOREIGN))
@pytest.mark.parametrize("path", [WEBHOOKS, PATH], ids=["at the webhooks' URL", "at a result's URL"])
def test_other_families_are_acknowledged_and_ignored(posts: Posts, document: Any, path: str) -> None:
    assert posts.cloud.notify(path, document).status == 200
    assert posts.cloud.items() == []


# ------------------------------------------------------------------------------------------------ signatures

BODY = encode(result())
RIGHT = sign(BODY)


@pytest.mark.parametrize(
    "given",
    variants(
        **{
            "missing": None,
            "empty": "",
            "short": RIGHT[:-2],
            "long": RIGHT + "00",
            "no hex": "z" * 64,
            "not ASCII": "\u00e9" * 64,
            "wrong": sign(BODY, "somebody else's key"),
            "of another body": sign(b"{}"),
            "by the client secret": sign(BODY, "local-client-secret"),
            "by an empty key": sign(BODY, ""),
            "repeated": f"{RIGHT},{RIGHT}",
            "repeated, with a space": f"{RIGHT}, {RIGHT}",
            "in capitals": RIGHT.upper(),
            "with a prefix": f"sha256={RIGHT}",
            "with a space": f" {RIGHT}",
        }
    ),
)
@pytest.mark.parametrize("path", [PATH, WEBHOOKS], ids=["result", "webhook"])
def test_a_bad_signature_is_refused_with_an_answer(posts: Posts, given: str | None, path: str) -> None:
    answer = posts.cloud.notify(path, BODY, signature=given)
    assert answer.status == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert RIGHT not in answer.body
    assert posts.cloud.items() == []


@pytest.mark.parametrize("body", [BODY + b" ", BODY[:-1], BODY.replace(b"400.0", b"900.0"), b""])
def test_a_body_that_was_changed_is_refused(posts: Posts, body: bytes) -> None:
    assert posts.cloud.notify(PATH, body, signature=RIGHT).status == 401


def test_what_is_unusable_is_told_only_to_who_can_sign(posts: Posts) -> None:
    assert posts.cloud.notify(PATH, b"no JSON", key="somebody else's key").status == 401


# ------------------------------------------------------------------------------------------------ signed, yet unusable


@pytest.mark.parametrize(
    "body",
    variants(
        **{
            "empty": b"",
            "no JSON": b"<xml/>",
            "cut": BODY[:-3],
            "invalid UTF-8": BODY.replace(b"Erroneous", b"\xff\xfe"),
            "UTF-16": BODY.decode().encode("utf-16"),
            "NaN": BODY.replace(b'"400.0"', b"NaN"),
            "half a surrogate pair": BODY.replace(b"Erroneous", b"\\ud800"),
            "a list": encode([result()]),
            "a string": encode("data"),
            "a number": b"1",
            "null": b"null",
            "neither data nor a topic": b"{}",
            "an id, and no more": b'{"id":"1"}',
            "data null": b'{"data":null}',
            "data a list": encode({"data": [result()["data"]]}),
            "no attributes": encode({"data": {"id": KOPOKOPO_ID, "type": "reversal"}}),
            **{f"the id {id_!r}": encode(result(id=id_)) for id_ in anything(1, None, [], {}, True, "")},
            "no id": encode(result(id=ABSENT)),
        }
    ),
)
@pytest.mark.parametrize("as_base64", [True])
def test_signed_and_yet_unusable_is_refused(posts: Posts, body: bytes, as_base64: bool) -> None:
    answer = posts.cloud.notify(PATH, body, as_base64=as_base64)
    assert answer.status == 400
    assert posts.cloud.items() == []


@pytest.mark.parametrize(
    "document",
    variants(
        **{
            "no event": {"topic": "buygoods_transaction_reversed"},
            "no resource": {"topic": "buygoods_transaction_reversed", "event": {}},
            **{
                f"the reference {it!r}": webhook(it)
                for it in anything(None, 1, "", "A" * 65, "TQ 1", "../x", "#token-lease")
            },
        }
    ),
)
def test_a_webhook_that_names_no_transaction_is_refused(posts: Posts, document: Any) -> None:
    assert posts.cloud.notify(WEBHOOKS, document).status == 400
    assert posts.cloud.items() == []


# ------------------------------------------------------------------------------------------------ where it belongs


@pytest.mark.parametrize(
    "path",
    [
        "/kopokopo/results/ANOTHER/1",
        f"/kopokopo/results/{REFERENCE}/2",
        f"/kopokopo/results/{REFERENCE.lower()}/1",
        f"/kopokopo/results/{REFERENCE}/0",
        f"/kopokopo/results/{REFERENCE}/x",
        "/kopokopo/results/odd_reference/1",
    ],
)
def test_a_true_result_replayed_at_another_reversals_url_is_refused(posts: Posts, path: str) -> None:
    assert posts.cloud.notify(path, result()).status == 400
    assert posts.cloud.items() == []


def test_a_true_result_with_another_id_than_the_reversals_is_refused(posts: Posts) -> None:
    posts.pending()
    before = posts.cloud.item()
    assert posts.cloud.deliver(result(id="c5486bd6-54c5-4d38-9e8a-e5a3597cd704")).status == 400
    assert posts.cloud.item() == before


@pytest.mark.parametrize(
    "links", variants(**{"absent": ABSENT, "null": None, "empty": {}, "of nobody": {"callback_url": ""}})
)
def test_a_result_that_names_no_url_is_refused(posts: Posts, links: Any) -> None:
    assert posts.cloud.deliver(result(_links=links)).status == 400


@pytest.mark.parametrize(
    "id_", ["https://evil.example/api/v2/reversals/1", "../../oauth/token", "a/b", "a?b=c", "x" * 500]
)
def test_an_id_that_leads_elsewhere_is_never_kept(posts: Posts, id_: str) -> None:
    """The result counts all the same; nothing is ever fetched by such an id."""
    assert posts.cloud.deliver(result(id=id_)).status == 200
    item = posts.cloud.item() or {}
    assert item["status"] == {"S": "reversed"}
    assert "kopokopo_id" not in item


def test_a_self_link_to_another_host_is_of_no_interest(posts: Posts) -> None:
    links = {**result()["data"]["attributes"]["_links"], "self": "https://evil.example/api/v2/reversals/1"}
    assert posts.cloud.deliver(result(_links=links)).status == 200
    assert "evil.example" not in json.dumps(posts.cloud.items())


# ------------------------------------------------------------------------------------------------ answers to our POST

Script = Callable[[Line], None]
HERE = f"/api/v2/reversals/{KOPOKOPO_ID}"


def says(status: str, *headers: str, body: bytes = b"") -> Script:
    def script(line: Line) -> None:
        line.socket.sendall(
            response(status, *(header.replace("{url}", line.peer.url) for header in headers), body=body)
        )
        line.hold()

    return script


def drips(at_once: bytes, slowly: bytes) -> Script:
    def script(line: Line) -> None:
        line.socket.sendall(at_once)
        line.drip(slowly)

    return script


def resets(line: Line) -> None:
    line.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.socket.close()


ACCEPTED, UNKNOWN, REJECTED, NOT_SENT = (201, "pending"), (202, "unknown"), (422, "failed"), (503, "failed")
SLOW = {
    "silence": (Line.hold, UNKNOWN),
    "201, its body drips": (
        drips(f"HTTP/1.1 201 Created\r\nLocation: {HERE}\r\nContent-Length: 900\r\n\r\n".encode(), b"x" * 900),
        ACCEPTED,
    ),
    "201, its head drips": (drips(b"", response("201 Created", f"Location: {HERE}")), UNKNOWN),
    "400, its body drips": (drips(b"HTTP/1.1 400 Bad\r\nContent-Length: 900\r\n\r\n", b"x" * 900), UNKNOWN),
}
ANSWERS: dict[str, tuple[Script, tuple[int, str]]] = {
    "201, empty": (says("201 Created", "location: {url}" + HERE), ACCEPTED),
    "201, JSON": (says("201 Created", "LOCATION: {url}" + HERE, body=b'{"data":null}'), ACCEPTED),
    "201, relative": (says("201 Created", f"Location: {HERE}"), ACCEPTED),
    "201, a slash at its end": (says("201 Created", "Location: {url}" + HERE + "/"), ACCEPTED),
    "200": (says("200 OK", "Location: {url}" + HERE), ACCEPTED),
    "202": (says("202 Accepted", "Location: {url}" + HERE), ACCEPTED),
    "201, without a Location": (says("201 Created", body=f'{{"id":"{KOPOKOPO_ID}"}}'.encode()), UNKNOWN),
    "201, an empty Location": (says("201 Created", "Location: "), UNKNOWN),
    "201, two Locations": (says("201 Created", f"Location: {HERE}", "Location: /api/v2/reversals/b"), UNKNOWN),
    "201, another host": (says("201 Created", f"Location: https://evil.example{HERE}"), UNKNOWN),
    "201, another path": (says("201 Created", f"Location: /oauth/{KOPOKOPO_ID}"), UNKNOWN),
    "201, an id that leads elsewhere": (says("201 Created", "Location: /api/v2/reversals/..%2Foauth"), UNKNOWN),
    "302": (says("302 Found", "Location: {url}" + HERE), UNKNOWN),
    "307": (says("307 Temporary Redirect", "Location: {url}" + HERE), UNKNOWN),
    "400, a string": (says("400 Bad Request", body=b'{"error_code":400,"error_message":"No"}'), REJECTED),
    "400, a list": (says("400 Bad Request", body=b'{"error_message":["No","Never"]}'), REJECTED),
    "400, HTML": (says("400 Bad Request", body=b"<html>"), REJECTED),
    "400, one is running": (says("400 Bad Request", body=b'{"error_message":["in Pending Reversal"]}'), UNKNOWN),
    "404": (says("404 Not Found", body=b'{"error_message":"Not found"}'), REJECTED),
    "409": (says("409 Conflict", body=b'{"error_message":"Duplicate"}'), UNKNOWN),
    "422": (says("422 Unprocessable Entity", body=b'{"error_message":["No"]}'), REJECTED),
    "429": (says("429 Too Many Requests", "Retry-After: 1"), NOT_SENT),
    "500, HTML": (says("500 Internal Server Error", body=b"<html>"), UNKNOWN),
    "503": (says("503 Service Unavailable", "Retry-After: 1", body=b"<html>"), UNKNOWN),
    "a reset": (resets, UNKNOWN),
    **SLOW,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_whatever_our_post_is_answered_it_is_never_sent_again(deploy: Deploy, peer: StartPeer, name: str) -> None:
    answer, expected = ANSWERS[name]
    oauth, api = peer(_gives_tokens), peer(_answers_once(answer))
    timeout = "0.3" if name in SLOW else "5"
    cloud = deploy(KopoKopoApiUrl=api.url, KopoKopoAuthUrl=oauth.url, KopoKopoTimeout=timeout)
    assert (cloud.post("/reversals", REQUEST).status, Posts(cloud).status) == expected
    if expected is UNKNOWN:
        assert cloud.post("/reversals", REQUEST).status == 202
    assert len(api.requests) == 1


@pytest.mark.parametrize(("second", "expected"), [("201 Created", ACCEPTED), ("401 Unauthorized", NOT_SENT)])
def test_a_401_was_not_processed_and_is_sent_again_once_with_another_token(
    deploy: Deploy, peer: StartPeer, second: str, expected: tuple[int, str]
) -> None:
    location = f"Location: {HERE}"
    oauth, api = peer(_gives_tokens), peer(answers(response("401 Unauthorized"), response(second, location)))
    cloud = deploy(KopoKopoApiUrl=api.url, KopoKopoAuthUrl=oauth.url)
    assert (cloud.post("/reversals", REQUEST).status, Posts(cloud).status) == expected
    tokens = [re.search(rb"Bearer (\S+)", request) for request in api.requests]
    assert [token and token[1] for token in tokens] == [b"t1", b"t2"]


def _gives_tokens(line: Line) -> None:
    while line.read_request():
        number = len(line.peer.requests)
        line.socket.sendall(response("200 OK", body=f'{{"access_token":"t{number}","expires_in":3600}}'.encode()))


def _answers_once(answer: Script) -> Script:
    def script(line: Line) -> None:
        if line.read_request():
            answer(line)

    return script
