"""What the tests share: a clock that is moved, a peer on a raw socket, and the stack of template.yaml on moto."""

import base64
import gc
import importlib
import io
import json
import logging
import os
import queue
import re
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import boto3
import moto.core.models
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError
from reversals import assembly
from reversals.observability import logger

from local.template import Stack, load, parameter_values, translate
from tests import kopokopo

Document = dict[str, Any]

ROOT = Path(__file__).parents[1]
REGION = "eu-west-1"
START = datetime(2026, 5, 1, 7, 0, tzinfo=UTC)
INBOX = "Subscriber"  # a queue of our own beside those of the template
SECRETS = {
    "CredentialsSecret": {"client_id": "local-client-id", "client_secret": "local-client-secret"},
    "SignatureSecret": {"api_key": kopokopo.API_KEY},
}


# ------------------------------------------------------------------------------------------------------ time


class FakeClock:
    """A clock that only moves when it is told to, or slept by."""

    def __init__(self, at: datetime = START) -> None:
        self.at = at
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# ------------------------------------------------------------------------------------------------------ the wire


class Peer:
    """A server on a raw socket: each connection is handed to the next of its scripts, the last one again and again.

    Attributes:
        connections: How many were made.
        requests: What was read from them, one entry per request.
        arrived: The same, to wait for.
    """

    def __init__(self, *scripts: Callable[["Line"], None]) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self.arrived: queue.Queue[bytes] = queue.Queue()
        self.stopped = threading.Event()
        self._scripts = scripts
        self._lines: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.stopped.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for line in self._lines:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for line in self._lines:
            line.close()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            script = self._scripts[min(self.connections, len(self._scripts) - 1)]
            self.connections += 1
            self._lines.append(accepted)
            thread = threading.Thread(target=self._serve, args=(accepted, script), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket, script: Callable[["Line"], None]) -> None:
        with suppress(OSError):
            script(Line(accepted, self))
            accepted.shutdown(socket.SHUT_RDWR)


@dataclass
class Line:
    """One connection, as a script sees it."""

    socket: socket.socket
    peer: Peer

    def read_request(self) -> bytes:
        """One request, to the end of its body; empty at the end of the connection."""
        request = b""
        while b"\r\n\r\n" not in request:
            if not (more := self.socket.recv(65536)):
                return b""
            request += more
        head, _, body = request.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length[1]):
            body += self.socket.recv(65536)
        self.peer.requests.append(head + b"\r\n\r\n" + body)
        self.peer.arrived.put(self.peer.requests[-1])
        return self.peer.requests[-1]

    def drip(self, data: bytes, pause: float = 0.02) -> None:
        """Send byte by byte, until the peer is stopped."""
        for position in range(len(data)):
            if self.peer.stopped.wait(pause):
                return
            self.socket.sendall(data[position : position + 1])

    def hold(self) -> None:
        """Say nothing more, until the other side goes or the peer is stopped."""
        while self.socket.recv(65536):
            pass


@pytest.fixture
def peer() -> Iterator[Callable[..., Peer]]:
    """Starts peers by their scripts."""
    peers: list[Peer] = []

    def start(*scripts: Callable[[Line], None]) -> Peer:
        peers.append(Peer(*scripts))
        return peers[-1]

    yield start
    for each in peers:
        each.stop()


def answers(*responses: bytes) -> Callable[[Line], None]:
    """A script that answers one request after the other, and then says nothing more."""

    def script(line: Line) -> None:
        for response in responses:
            if not line.read_request():
                return
            line.socket.sendall(response)
        line.hold()

    return script


def acknowledges(line: Line) -> None:
    """A script that answers 200 and hangs up."""
    line.read_request()
    line.socket.sendall(response("200 OK", "Connection: close"))


def response(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as the test runs: it is bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


# ------------------------------------------------------------------------------------------------------ AWS


class _Session(boto3.Session):
    """A session that keeps its clients: to make one takes longer than most tests."""

    def __init__(self) -> None:
        super().__init__(region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test")
        self._kept: Document = {}

    def client(self, service_name: Any, *_: Any, config: Config | None = None, **__: Any) -> Any:
        if service_name not in self._kept:
            # With an account's own endpoints, moto does not see what is a table's stream.
            config = Config(account_id_endpoint_mode="disabled").merge(config or Config())
            self._kept[service_name] = super().client(service_name, config=config)
            self._kept[service_name].meta.events.register_first("before-parse", _say_how_long)
        return self._kept[service_name]


def _say_how_long(response_dict: Document, **_: Any) -> None:
    """AWS does; moto leaves it out where nothing goes over a wire."""
    if isinstance(response_dict["body"], bytes):  # not of an object that is read bit by bit
        response_dict["headers"]["content-length"] = str(len(response_dict["body"]))


_TESTS, _FUNCTIONS = _Session(), _Session()
_FUNCTIONS.events.register("provide-client-params.*", lambda **call: Cloud.deployed.check(**call))


@contextmanager
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account in this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {"ACCESS_KEY_ID": "test", "SECRET_ACCESS_KEY": "test", "DEFAULT_REGION": REGION}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Test")
    # botocore's calls are what is mocked; thousands of patterns for those of requests would take half of the time.
    monkeypatch.setattr(moto.core.models, "RESPONSES_METHODS", [])
    with moto.mock_aws(config={"core": {"reset_boto3_session": False, "mock_credentials": False}}):
        yield


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with account(monkeypatch):
        yield


@cache
def the_template() -> tuple[Document, Document]:
    """template.yaml, and the same as plain CloudFormation, not resolved."""
    path = ROOT / "template.yaml"
    template = load(path)
    return template, translate(load(path), path, parameter_values(template, {}, {}))


@pytest.fixture(scope="session")
def template() -> Document:
    return the_template()[0]


@pytest.fixture(scope="session")
def cloudformation() -> Document:
    """template.yaml as plain CloudFormation, not resolved."""
    return the_template()[1]


@contextmanager
def deployment(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator["Callable[..., Cloud]"]:
    """Deploys the stack with the given parameters, into the account of this process."""
    template, cloudformation = the_template()
    monkeypatch.setattr(assembly, "_clock", clock)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", _FUNCTIONS)

    def start(**overrides: str) -> Cloud:
        Cloud.deployed = Cloud(cloudformation, parameter_values(template, overrides, {}), clock, monkeypatch)
        return Cloud.deployed

    yield start
    _forget_collaborators()


@pytest.fixture
def deploy(aws: None, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> Iterator["Callable[..., Cloud]"]:
    """Deploys the stack with the given parameters."""
    with deployment(clock, monkeypatch) as start:
        yield start


@pytest.fixture
def cloud(deploy: "Callable[..., Cloud]") -> "Cloud":
    """The stack with the template's defaults, and no Kopo Kopo at hand."""
    return deploy(KopoKopoApiUrl="http://127.0.0.1:9", KopoKopoAuthUrl="http://127.0.0.1:9")


def _forget_collaborators() -> None:
    for value in vars(assembly).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


Meddling = Callable[[Callable[[], Any]], Any]


class Meddled:
    """A boto3 client, one call at a time (moto's conditions are not atomic), that can be meddled with.

    Attributes:
        calls: The names of the operations that were called, in order.
        arguments: Of each call.
    """

    def __init__(self, client: Any) -> None:
        self.calls: list[str] = []
        self.arguments: list[Document] = []
        self._client = client
        self._lock = threading.RLock()
        self._meddlings: defaultdict[str, list[Meddling]] = defaultdict(list)

    def meddle(self, operation: str, *meddlings: Meddling) -> None:
        """Meddle with the next calls of an operation: each is told how to do the call, and returns its answer."""
        self._meddlings[operation] += meddlings

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            with self._lock:
                self.calls.append(operation)
                self.arguments.append(arguments)
                meddlings = self._meddlings[operation]
                meddling = meddlings.pop(0) if meddlings else lambda do: do()
                return meddling(lambda: getattr(self._client, operation)(**arguments))

        return call


def twice(do: Callable[[], Any]) -> Any:
    """The first answer is lost, and botocore calls again."""
    do()
    return do()


def lost(do: Callable[[], Any]) -> Any:
    """It is done, and every answer is lost."""
    do()
    raise ReadTimeoutError(endpoint_url="https://aws.example")


def unreachable(do: Callable[[], Any]) -> Any:
    raise EndpointConnectionError(endpoint_url="https://aws.example")


def refused(code: str) -> Meddling:
    def meddling(do: Callable[[], Any]) -> Any:
        raise ClientError({"Error": {"Code": code, "Message": "..."}}, "Operation")

    return meddling


def after(something: Callable[[], Any]) -> Meddling:
    """Something else happens first."""

    def meddling(do: Callable[[], Any]) -> Any:
        something()
        return do()

    return meddling


@dataclass(frozen=True)
class Reply:
    """What a function answered to a request."""

    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Context:
    """Lambda's context of one invocation."""

    function_name: str
    seconds_left: float
    memory_limit_in_mb: int = 512
    invoked_function_arn: str = "arn:aws:lambda:eu-west-1:123456789012:function:test"
    aws_request_id: str = "request-1"

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds_left * 1000)


class Cloud:
    """The stack on moto; its functions run in this process, one container each, with no right but their roles'.

    Attributes:
        stack: The resolved template.
        clock: The functions' time.
        seconds_left: What the context of an invocation tells.
        caller: The ARN that API Gateway's authorizer found.
        calls: What the functions called, as `dynamodb:PutItem`.
    """

    deployed: "ClassVar[Cloud]"  # the one whose functions are calling

    def __init__(
        self, cloudformation: Document, parameters: Document, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.clock = clock
        self.seconds_left = 28.0
        self.caller = "arn:aws:iam::123456789012:user/operator"
        self.calls: list[str] = []
        self._resources: Document = {**cloudformation["Resources"], INBOX: {"Type": "AWS::SQS::Queue"}}
        self.stack = Stack({**cloudformation, "Resources": self._resources}, parameters, self._create)
        self._monkeypatch = monkeypatch
        self._function = ""
        self._allowed: list[Document] = []

    # What the tests look at it with

    dynamodb, secretsmanager, sns = map(_TESTS.client, ("dynamodb", "secretsmanager", "sns"))
    sqs, s3, streams = map(_TESTS.client, ("sqs", "s3", "dynamodbstreams"))

    @cached_property
    def table(self) -> str:
        return self.ref("ReversalsTable")

    def ref(self, logical_id: str) -> str:
        ref: str = self.stack.attributes(logical_id)["Ref"]
        return ref

    # Calling functions

    def invoke(self, function: str, event: Any) -> Any:
        """Invoke a function by its folder's name; its container stays warm until another function is invoked."""
        if function != self._function:
            self.cold_start(function)
        module = importlib.import_module(f"functions.{function}.app")
        handler = getattr(module, self._properties(function)["Handler"].partition(".")[2])
        context = Context(function, self.seconds_left)
        # What goes in and what comes out is JSON.
        return json.loads(json.dumps(handler(json.loads(json.dumps(event)), context)))

    def cold_start(self, function: str) -> None:
        """Give a function a new container, with the environment and the role that the template gives it."""
        _forget_collaborators()
        self._function = function
        for properties in self._functions.values():
            for name in properties["Environment"]["Variables"]:
                self._monkeypatch.delenv(name, raising=False)
        properties = self._properties(function)
        for name, value in self.stack.resolve(properties["Environment"]["Variables"]).items():
            self._monkeypatch.setenv(name, str(value))
        role = self._resources[properties["Role"]["Fn::GetAtt"][0]]["Properties"]
        self._allowed = [
            statement
            for policy in self.stack.resolve(role.get("Policies", []))
            for statement in policy["PolicyDocument"]["Statement"]
        ]

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        as_base64: bool = False,
    ) -> Reply:
        """Call the API as API Gateway does: the route and its function are the template's.

        Args:
            method: The HTTP method.
            path: Without a query.
            body: Bytes or text as they are; anything else as JSON.
            headers: Over a Content-Type of JSON.
            query: The query string's parameters.
            as_base64: Hand a body on as API Gateway does with what is not text.
        """
        route, function, parameters = self._route(method, path)
        given = {"content-type": "application/json"} | {name.lower(): it for name, it in (headers or {}).items()}
        event: Document = {
            "version": "2.0",
            "routeKey": route,
            "rawPath": path,
            "rawQueryString": "",
            "headers": {name: value for name, value in given.items() if value is not None},
            "requestContext": {
                "accountId": "123456789012",
                "apiId": "api1234",
                "authorizer": {"iam": {"userArn": self.caller}},
                "domainName": "api1234.execute-api.eu-west-1.amazonaws.com",
                "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
                "requestId": "request-1",
                "routeKey": route,
                "stage": "$default",
            },
            "isBase64Encoded": as_base64,
        }
        if parameters:
            event["pathParameters"] = parameters
        if query:
            event["queryStringParameters"] = dict(query)
        if body is not None:
            raw = body if isinstance(body, bytes) else (body if isinstance(body, str) else json.dumps(body)).encode()
            event["body"] = base64.b64encode(raw).decode() if as_base64 else raw.decode()
        answer = self.invoke(function, event)
        return Reply(answer["statusCode"], answer["headers"], answer.get("body", ""))

    def post(self, path: str, body: Any, **options: Any) -> Reply:
        return self.request("POST", path, body, **options)

    def get(self, path: str, **query: str) -> Reply:
        return self.request("GET", path, query=query)

    def notify(
        self, path: str, document: Any, *, key: str = kopokopo.API_KEY, signature: Any = ..., as_base64: bool = False
    ) -> Reply:
        """Post what Kopo Kopo signs; a document that is bytes goes out as it is."""
        body = document if isinstance(document, bytes) else kopokopo.encode(document)
        given = kopokopo.sign(body, key) if signature is ... else signature
        return self.post(path, body, headers={"X-KopoKopo-Signature": given}, as_base64=as_base64)

    def deliver(self, document: Document, reference: str = kopokopo.REFERENCE, attempt: int = 1) -> Reply:
        """Post a signed result at an attempt's URL."""
        return self.notify(f"/kopokopo/results/{reference}/{attempt}", document)

    # Looking at what is there

    def item(self, reference: str = kopokopo.REFERENCE) -> Document | None:
        """An item as it is stored, in DynamoDB's own types."""
        key = {"transaction_reference": {"S": reference}}
        item: Document | None = self.dynamodb.get_item(TableName=self.table, Key=key).get("Item")
        return item

    def items(self) -> list[Document]:
        """All reversals as they are stored; not the lease, which has no version."""
        return [item for item in self.dynamodb.scan(TableName=self.table)["Items"] if "version" in item]

    def secret(self, logical_id: str) -> Any:
        return json.loads(self.secretsmanager.get_secret_value(SecretId=self.ref(logical_id))["SecretString"])

    def put_secret(self, logical_id: str, document: Any) -> None:
        self.secretsmanager.put_secret_value(SecretId=self.ref(logical_id), SecretString=json.dumps(document))

    def told(self) -> list[Document]:
        """The messages that subscribers got since the last look: each with `Message` and `MessageAttributes`."""
        messages: list[Document] = []
        while got := self.sqs.receive_message(QueueUrl=self.ref(INBOX), MaxNumberOfMessages=10).get("Messages"):
            messages += [json.loads(message["Body"]) for message in got]
            for message in got:
                self.sqs.delete_message(QueueUrl=self.ref(INBOX), ReceiptHandle=message["ReceiptHandle"])
        return messages

    # The template

    @cached_property
    def _functions(self) -> dict[str, Document]:
        found = {name: it for name, it in self._resources.items() if it["Type"] == "AWS::Lambda::Function"}
        return {name: it["Properties"] for name, it in found.items() if "S3Key" in it["Properties"]["Code"]}

    def _properties(self, function: str) -> Document:
        return next(it for it in self._functions.values() if Path(it["Code"]["S3Key"]).name == function)

    def _route(self, method: str, path: str) -> tuple[str, str, dict[str, str]]:
        """The route's key, its function and the path's parameters."""
        (api,) = [it for it in self._resources.values() if it["Type"] == "AWS::ApiGatewayV2::Api"]
        paths: Document = api["Properties"]["Body"]["paths"]
        for template in sorted(paths, key=lambda template: (template == "$default", template.count("{"))):
            pattern = ".*" if template == "$default" else re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", template)
            match = re.fullmatch(pattern, path)
            for name, operation in paths[template].items() if match else ():
                if match and name in (method.lower(), "x-amazon-apigateway-any-method"):
                    uri = json.dumps(operation["x-amazon-apigateway-integration"]["uri"])
                    # The target is a function, or an alias whose logical id begins with the function's.
                    target = re.findall(r"\$\{(\w+)(?:\.Arn)?\}", uri)[-1]
                    function = next(it for name, it in self._functions.items() if target.startswith(name))
                    key = template if template == "$default" else f"{method} {template}"
                    return key, Path(function["Code"]["S3Key"]).name, match.groupdict()
        raise LookupError(f"{method} {path}")

    def _create(self, logical_id: str, kind: str, properties: Document) -> Mapping[str, Any]:
        """Make a resource on moto; of what is not needed here, there is only a name."""
        attributes: defaultdict[str, Any] = defaultdict(lambda: logical_id)
        if kind == "AWS::DynamoDB::Table":
            taken = ("AttributeDefinitions", "KeySchema", "BillingMode", "GlobalSecondaryIndexes")
            stream = {"StreamEnabled": True, **properties["StreamSpecification"]}
            table = self.dynamodb.create_table(
                TableName=logical_id,
                StreamSpecification=stream,
                **{name: properties[name] for name in taken if name in properties},
            )["TableDescription"]
            attributes |= {"Arn": table["TableArn"], "StreamArn": table["LatestStreamArn"]}
        elif kind == "AWS::SecretsManager::Secret":
            value = {"SecretString": json.dumps(SECRETS[logical_id])} if logical_id in SECRETS else {}
            attributes |= {"Ref": self.secretsmanager.create_secret(Name=logical_id, **value)["ARN"]}
        elif kind == "AWS::SNS::Topic":
            topic = self.sns.create_topic(Name=logical_id)["TopicArn"]
            self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=self.stack.attributes(INBOX)["Arn"])
            attributes |= {"Ref": topic}
        elif kind == "AWS::SQS::Queue":
            url = self.sqs.create_queue(QueueName=logical_id)["QueueUrl"]
            arn = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            attributes |= {"Ref": url, "Arn": arn}
        elif kind == "AWS::S3::Bucket":
            name = logical_id.lower()
            self.s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
            attributes |= {"Ref": name, "Arn": f"arn:aws:s3:::{name}"}
        return attributes

    def check(self, params: Document, model: Any, **_: Any) -> None:
        """Refuse what the function's role does not allow."""
        service, operation = model.service_model.service_name, model.name
        action = {"sns:PublishBatch": "sns:Publish"}.get(f"{service}:{operation}", f"{service}:{operation}")
        self.calls.append(f"{service}:{operation}")
        resource = self._resource(service, params)
        for statement in self._allowed:
            actions, resources = (_listed(statement[name]) for name in ("Action", "Resource"))
            if any(fnmatchcase(action, it) for it in actions) and any(
                fnmatchcase(resource, pattern) for pattern in resources
            ):
                return
        pytest.fail(f"{self._function} may not {action} on {resource}")

    def _resource(self, service: str, params: Document) -> str:
        if service == "dynamodb":
            arn: str = self.stack.attributes("ReversalsTable")["Arn"]
            return f"{arn}/index/{params['IndexName']}" if "IndexName" in params else arn
        if service == "s3":
            return f"arn:aws:s3:::{params['Bucket']}/{params.get('Key', '')}"
        if service == "sqs":
            return f"arn:aws:sqs:{REGION}:123456789012:{params['QueueUrl'].rpartition('/')[2]}"
        return str(params.get("SecretId") or params.get("TopicArn"))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# ------------------------------------------------------------------------------------------------------ output


@dataclass
class Output:
    """Everything that the functions wrote: their log and their metrics."""

    _log: io.StringIO
    _capsys: pytest.CaptureFixture[str]
    _printed: str = field(default="")

    @property
    def text(self) -> str:
        captured = self._capsys.readouterr()
        self._printed += captured.out + captured.err
        return self._log.getvalue() + self._printed

    @property
    def lines(self) -> list[Document]:
        """The log, line by line."""
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    def metric(self, name: str) -> float:
        """The sum of a metric, over all that it may be told apart by."""
        found = 0.0
        for line in self.text.splitlines():
            blob = json.loads(line) if line.startswith('{"_aws"') else {}
            if name in blob and set(blob["_aws"]["CloudWatchMetrics"][0]["Dimensions"][0]) <= {"service"}:
                found += sum(_listed(blob[name]))
        return found


@pytest.fixture
def output(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Output]:
    monkeypatch.setenv("POWERTOOLS_METRICS_NAMESPACE", "Test")
    log = io.StringIO()
    handler = logger.registered_handler
    assert isinstance(handler, logging.StreamHandler)
    before = handler.setStream(log)
    yield Output(log, capsys)
    handler.setStream(before)


def pytest_collection_finish() -> None:
    """What is there by now stays: to look through it again and again would take a third of the time."""
    gc.collect()
    gc.freeze()
