"""What may come in at a door, from the true to the absurd: Hypothesis draws it as API Gateway hands it over."""

import base64
import binascii
import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests import kopokopo
from tests.kopokopo import ABSENT, CANCELLED, REFERENCE, TRANSFERRED, result, sign, webhook

Document = dict[str, Any]
Draw = st.DrawFn

SIGNATURE = "X-KopoKopo-Signature"
LIMITS = {"callback": 256 * 1024, "initiate": 64 * 1024}  # bytes

# ------------------------------------------------------------------------------------------------------ JSON, and worse


class Raw(str):
    """Text that stands in a document as it is, be it JSON or not."""

    __slots__ = ()


class Twin(str):
    """A name that an object may have twice."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__


def written(value: Any, *, ascii_only: bool) -> str:
    """A document as JSON, but for what is Raw in it."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, Mapping):
        members = (
            f"{json.dumps(str(name), ensure_ascii=ascii_only)}:{written(it, ascii_only=ascii_only)}"
            for name, it in value.items()
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(it, ascii_only=ascii_only) for it in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


ODD_NUMBERS = [
    *("NaN", "Infinity", "-Infinity", "-0", "-0.0", "0.0000000", "1e5", "1E400", "-1e999", "1e-999999999999999999999"),
    *(
        "9" * 400,
        "9" * 5000,
        f"0.{'3' * 400}",
        "400.00000000000001",
        "2.5e-7",
        "9007199254740993",
        "18446744073709551616",
    ),
    *("01", "+1", "1.", ".5", "0x1F", "1_000", "\u0661\u0662", "--1", "1e", "true", "nul", "'400.0'", ""),
]
ODD_TEXTS = [
    *("", " ", "\0", "a\0b", "\ud800", "\udfff\ud800", "\ufeff", "\ufffe", "\uffff", "\u2028", "\x7f", "\x80", "\r\n"),
    *("e\u0301", "\u202eTQ2L262026", "\U0001f600" * 20, "\u4e2d" * 255, "A" * 255, "A" * 256, "A" * 1001, "\U0010ffff"),
    *(
        "../../oauth/token",
        "https://evil.example/1",
        "#token-lease",
        "__proto__",
        "<script>",
        "${jndi:ldap://x}",
        "%00",
    ),
    *("' OR 1=1 --", "null", "NaN", "TRANSFERRED", " Cancelled ", "reversed", "Pending Reversal", "0" * 64, "A,A"),
]
PHONE_NUMBERS = ["+254700000000", "0700 000 000", "254-700-000-000"]

TEXTS = st.sampled_from(ODD_TEXTS) | st.text(max_size=8) | st.text(st.characters(exclude_categories=()), max_size=4)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True)
    | TEXTS
    | st.sampled_from(ODD_NUMBERS).map(Raw)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | TEXTS.map(Twin), inner, max_size=3),
    max_leaves=5,
)


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a document: what holds it, and under which name or number."""
    names: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for name in names:
        yield value, name
        yield from spots(value[name])


@st.composite
def mutated(draw: Draw, documents: st.SearchStrategy[Document]) -> Any:
    """A true document, of which up to three places are not as they should be."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.sampled_from((0, 0, 0, 0, 1, 1, 1, 2, 3)))):
        places = list(spots(document))
        if not places:
            return document
        holder, name = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.sampled_from(("replace", "replace", "remove", "twice", "wrap", "add"))):
            case "remove":
                del holder[name]
            case "wrap":
                holder[name] = [holder[name]]
            case "twice" if isinstance(holder, dict):
                holder[Twin(name)] = draw(VALUES)
            case "add" if isinstance(holder, dict):
                holder[draw(TEXTS)] = draw(VALUES)
            case _:
                holder[name] = draw(VALUES)
    return document


@st.composite
def bodies(draw: Draw, documents: st.SearchStrategy[Document], limit: int) -> bytes:
    """A body's bytes: mostly a true document, mutated and oddly encoded; at times no document at all."""
    kind = draw(st.sampled_from(("document",) * 10 + ("values", "values", "bytes", "nested", "sized", "cut")))
    if kind == "bytes":
        return draw(st.binary(max_size=64))
    document = draw(VALUES if kind == "values" else mutated(documents))
    if kind == "nested":
        depth = draw(st.sampled_from((20, 500, 990, 1010, 5_000, limit // 8)))
        opening, closing = draw(st.sampled_from((("[", "]"), ('{"a":', "}"), ("[", ""))))
        deep = Raw(opening * depth + "1" + closing * depth)
        document = {**document, "metadata": deep} if isinstance(document, dict) and draw(st.booleans()) else deep
    text = written(document, ascii_only=draw(st.booleans()))
    encoding = draw(st.sampled_from(("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-32", "utf-7")))
    body = text.encode(encoding, "surrogatepass" if encoding != "utf-7" else "replace")
    if kind == "sized":
        size = limit + draw(st.sampled_from((-1, 0, 1, 1, 5000)))
        return body + b" " * max(size - len(body), 0)
    if kind == "cut":
        at = draw(st.integers(0, len(body)))
        return body[:at] + draw(st.binary(max_size=3)) + body[at + draw(st.integers(0, 3)) :]
    return body


# ------------------------------------------------------------------------------------------------------ requests


@dataclass(frozen=True)
class Post:
    """A request, as a function gets it.

    Attributes:
        route: That of the template which takes it.
        parameters: The path's.
        content: The bytes that were sent; None if the body is marked as Base64, and is not.
    """

    route: str
    parameters: Mapping[str, str]
    headers: Mapping[str, str] | None
    body: str | None
    is_base64: bool

    @property
    def content(self) -> bytes | None:
        if not self.is_base64:
            return (self.body or "").encode("utf-8", "replace")
        try:
            return base64.b64decode(self.body or "", validate=True)
        except (binascii.Error, ValueError):
            return None

    @property
    def path(self) -> str:
        return self.route.partition(" ")[2].format(**self.parameters)

    def header(self, name: str) -> str | None:
        return {key.lower(): value for key, value in (self.headers or {}).items()}.get(name.lower())

    @property
    def is_signed(self) -> bool:
        """Whether Kopo Kopo could have sent it."""
        return self.content is not None and self.header(SIGNATURE) == sign(self.content)

    @property
    def event(self) -> Document:
        """In payload format 2.0."""
        event: Document = {
            "version": "2.0",
            "routeKey": self.route,
            "rawPath": self.path,
            "rawQueryString": "",
            "headers": self.headers,
            "pathParameters": dict(self.parameters),
            "requestContext": {
                "authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:user/merchant"}},
                "domainName": "api1234.execute-api.eu-west-1.amazonaws.com",
                "http": {"method": "POST", "path": self.path, "sourceIp": "192.0.2.1"},
                "requestId": "request-1",
            },
            "body": self.body,
            "isBase64Encoded": self.is_base64,
        }
        return {name: value for name, value in event.items() if value is not None}


HEADER_NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=6).map("x-{}".format)
HEADERS = st.dictionaries(HEADER_NAMES, TEXTS, max_size=2)
SPELLINGS: st.SearchStrategy[Callable[[str], str]] = st.sampled_from((str.lower, str.lower, str.upper, str))


@st.composite
def posts(draw: Draw, route: str, parameters: Mapping[str, str], headers: Mapping[str, str], body: bytes) -> Post:
    """A request with this body, on one of the ways on which it may travel."""
    way = draw(st.sampled_from(("text",) * 8 + ("base64",) * 6 + ("no base64", "nothing", "odd text")))
    encoded = base64.b64encode(body).decode()
    text: str | None = encoded
    if way == "nothing":
        text = draw(st.sampled_from((None, "")))
    elif way == "odd text":
        text = draw(TEXTS)
    elif way == "no base64":
        text = draw(st.sampled_from((encoded[:-1], encoded + "=", f"{encoded}\n", encoded[::-1], "\u00e9", "{}")))
    elif way == "text":
        try:
            text = body.decode()
        except UnicodeDecodeError:
            way = "base64"
    return Post(route, parameters, headers, text, way in ("base64", "no base64"))


SIGNATURES = (
    "none",
    "empty",
    "of another body",
    "another key",
    "the client secret",
    "capitals",
    "prefix",
    "twice",
    "odd",
)


@st.composite
def signed(draw: Draw, post: Post) -> Post:
    """The same request, with a signature: as often as not the true one."""
    content = post.content or b""
    true = sign(content)
    given = {
        "true": true,
        "empty": "",
        "of another body": sign(content + b" "),
        "another key": sign(content, "somebody else's key"),
        "the client secret": sign(content, "local-client-secret"),
        "capitals": true.upper(),
        "prefix": f"sha256={true}",
        "twice": f"{true},{true}",
        "odd": None,
    }
    how = draw(st.sampled_from(("true",) * len(SIGNATURES) + SIGNATURES))
    headers = {**(post.headers or {}), **draw(HEADERS)}
    if how != "none":
        value = given[how]
        headers[draw(SPELLINGS)(SIGNATURE)] = draw(TEXTS) if value is None else value
    elif draw(st.booleans()):
        return Post(post.route, post.parameters, None, post.body, post.is_base64)
    return Post(post.route, post.parameters, headers, post.body, post.is_base64)


REFERENCES = st.sampled_from((REFERENCE,) * 12 + ("ANOTHER", "a", "A" * 64, "A" * 65, "odd_reference", "..", "TQ1\n"))
ATTEMPTS = st.sampled_from(("1",) * 12 + ("2", "999999999", "1000000000", "0", "01", "-1", "+1", "1 ", "\u0661", "x"))

# Of what a true document says, the places that are read; the texts are anybody's.
AMOUNTS = st.sampled_from(("400.0", "400", 400, 400.5, None)) | st.sampled_from(ODD_NUMBERS).map(Raw) | TEXTS
WORDS = st.sampled_from(("Transferred", "Cancelled", "Sent", "transferred ", None)) | TEXTS
PAYMENTS = (
    st.sampled_from((TRANSFERRED, TRANSFERRED, CANCELLED, None, ABSENT))
    | st.fixed_dictionaries({"status": WORDS, "amount": AMOUNTS, "transaction_reference": TEXTS})
    | VALUES
)
ERRORS = st.sampled_from((None, ABSENT, [], "No", PHONE_NUMBERS, [{"message": PHONE_NUMBERS[0]}])) | st.lists(
    TEXTS, max_size=3
)
IDS = st.sampled_from((kopokopo.KOPOKOPO_ID, kopokopo.KOPOKOPO_ID, "x" * 500, "../1", 1)) | TEXTS
STATUSES = st.sampled_from(("Processed", "Processed", "Received", "Failed", None)) | TEXTS
OTHERS: st.SearchStrategy[Document] = st.sampled_from(
    (
        {"TransactionType": "Buygoods", "TransID": REFERENCE, "MSISDN": "254700000000"},
        {"data": {"id": "1", "type": "incoming_payment", "attributes": {"status": "Success"}}},
        webhook(topic="buygoods_transaction_received"),
    )
)
WEBHOOKS = st.builds(
    webhook,
    st.sampled_from((REFERENCE, REFERENCE, REFERENCE, "ANOTHER", "odd_reference")),
    topic=st.sampled_from(("buygoods_transaction_reversed", "b2b_transaction_reversed")),
    amount=AMOUNTS,
)
# What Kopo Kopo may have signed before.
HISTORIES: Sequence[Sequence[Document]] = [
    *([], [], []),
    [result(bulk=None)],
    [result()],
    [result(bulk=CANCELLED)],
    [webhook()],
]


def true_results(reference: str, attempt: Any) -> st.SearchStrategy[Document]:
    types = st.sampled_from(("reversal", "reversals"))
    return st.builds(
        result, st.just(reference), st.just(attempt), bulk=PAYMENTS, id=IDS, type=types, errors=ERRORS, status=STATUSES
    )


@st.composite
def results(draw: Draw) -> Post:
    """A POST to a result's URL: mostly to the one that the document names."""
    reference, attempt = draw(REFERENCES), draw(ATTEMPTS)
    documents = true_results(reference, attempt)
    body = draw(bodies(documents | documents | WEBHOOKS | OTHERS, LIMITS["callback"]))
    parameters = {"transaction_reference": reference, "attempt": attempt}
    route = "POST /kopokopo/results/{transaction_reference}/{attempt}"
    return draw(signed(draw(posts(route, parameters, {}, body))))


@st.composite
def webhooks(draw: Draw) -> Post:
    body = draw(bodies(WEBHOOKS | WEBHOOKS | true_results(REFERENCE, 1) | OTHERS, LIMITS["callback"]))
    return draw(signed(draw(posts("POST /kopokopo/webhooks", {}, {}, body))))


REQUESTS: st.SearchStrategy[Document] = st.fixed_dictionaries(
    {
        "transaction_reference": st.sampled_from((REFERENCE, "A" * 64, "-", "0")),
        "reason": st.sampled_from(("Paid twice", "x", "\u00e9" * 255)) | TEXTS,
    },
    optional={"metadata": st.dictionaries(TEXTS, TEXTS, max_size=5)},
)
MEDIA_TYPES = ("application/json",) * 20 + (
    "Application/JSON; charset=utf-8",
    "text/plain",
    "",
    "application/json,text/html",
)
KEYS = st.sampled_from((None, None, None, None, "order-17", "k" * 255, "k" * 256, "")) | st.none() | TEXTS


@st.composite
def requests(draw: Draw) -> Post:
    """A POST of a merchant's."""
    headers = {draw(SPELLINGS)("Content-Type"): draw(st.sampled_from(MEDIA_TYPES)), **draw(HEADERS)}
    if (key := draw(KEYS)) is not None:
        headers[draw(SPELLINGS)("Idempotency-Key")] = key
    body = draw(bodies(REQUESTS, LIMITS["initiate"]))
    return draw(posts("POST /reversals", {}, headers if draw(st.integers(0, 20)) else {}, body))
