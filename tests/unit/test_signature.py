"""Kopo Kopo's signature: lowercase hex HMAC-SHA256 of the raw body, keyed by the API key."""

import pytest
from reversals import signature
from reversals.errors import SignatureError

from tests import kopokopo

# Pinned: printf '%s' '{"topic":"buygoods_transaction_reversed"}' | openssl dgst -sha256 -hmac local-api-key
BODY = b'{"topic":"buygoods_transaction_reversed"}'
KEY = "local-api-key"
SIGNATURE = "16abf829723bbc5f71928d9a10301a04ff33f2dbdebe38a76757a098a2d605be"


def test_the_pinned_vector() -> None:
    assert signature.sign(BODY, KEY) == SIGNATURE
    signature.verify(BODY, SIGNATURE, [KEY])


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{ "a" : 1 }\n', '{"a":"Ng\u0169g\u0129"}'.encode(), b'{"a":"\\u0169\\/"}', b"<>&", b"\x00\xff\xfe"],
)
def test_the_raw_bytes_are_what_is_signed(body: bytes) -> None:
    signature.verify(body, kopokopo.sign(body), [KEY])
    for changed in (body + b" ", body[1:] if body else b" "):
        with pytest.raises(SignatureError):
            signature.verify(changed, kopokopo.sign(body), [KEY])


@pytest.mark.parametrize("keys", [["old", KEY], [KEY, "old"]])
def test_while_a_key_is_being_rotated_both_count(keys: list[str]) -> None:
    signature.verify(BODY, SIGNATURE, keys)


def test_a_key_may_hold_any_text() -> None:
    signature.verify(BODY, kopokopo.sign(BODY, "schl\u00fcssel"), ["schl\u00fcssel"])


MALFORMED = {
    "missing": None,
    "empty": "",
    "short": SIGNATURE[:-1],
    "long": SIGNATURE + "0",
    "not hex": "g" + SIGNATURE[1:],
    "not ASCII": "\u00e9" + SIGNATURE[1:],
    "digits of another script": "\u0661" + SIGNATURE[1:],
    "repeated": f"{SIGNATURE},{SIGNATURE}",
    "repeated, with a space": f"{SIGNATURE}, {SIGNATURE}",
    "uppercase": SIGNATURE.upper(),
    "prefixed": f"sha256={SIGNATURE}",
    "with a newline": f"{SIGNATURE}\n",
    "with a space": f" {SIGNATURE}",
    "base64": "k0Zyh2V1tVb7yPcvxTkfTCPwzHXuQ1sY5d8o3nq6g0A=",
}
WRONG = {
    "by another key": kopokopo.sign(BODY, "another-key"),
    "of another body": kopokopo.sign(b"{}"),
    "by the client secret": kopokopo.sign(BODY, "local-client-secret"),
}


@pytest.mark.parametrize("given", [pytest.param(value, id=name) for name, value in MALFORMED.items()])
def test_what_is_no_signature_is_refused(given: str | None) -> None:
    assert refusal(given) == "The signature is missing or malformed."


@pytest.mark.parametrize("given", [pytest.param(value, id=name) for name, value in WRONG.items()])
def test_a_signature_of_something_else_is_refused(given: str) -> None:
    assert refusal(given) == "The signature does not match the body."


def refusal(given: str | None) -> str:
    """What is said of a signature that is not taken: neither it nor the body."""
    with pytest.raises(SignatureError) as raised:
        signature.verify(BODY, given, [KEY])
    return str(raised.value)


def test_without_a_key_nothing_is_believed() -> None:
    with pytest.raises(SignatureError):
        signature.verify(BODY, SIGNATURE, [])


@pytest.mark.parametrize(
    ("given", "expected"), [(SIGNATURE, True), (None, False), ("", False), (SIGNATURE[:-1], False)]
)
def test_what_could_be_a_signature_at_all(given: str | None, expected: bool) -> None:
    assert signature.is_well_formed(given) is expected


def test_the_header_is_looked_up_as_api_gateway_hands_it_on_in_lower_case() -> None:
    assert "X-KopoKopo-Signature".lower() == signature.HEADER
