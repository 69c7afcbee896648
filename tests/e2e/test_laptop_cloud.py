"""The laptop cloud, over HTTP and with real child processes, on a small template of its own.

Most functions of the template are puppets: each invocation connects to the test, which sees the event and says what the
function does next. So a test decides how long something takes, and waits for what happens instead of for time to pass.
"""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import pytest
import requests

from local.cloud import LaptopCloud
from local.lambdas import FunctionError
from local.settings import ROOT, LaptopCloudError
from local.waiting import until

PATIENCE = 15.0  # seconds, for what must happen
A_MOMENT = 0.3  # seconds, for what must not

HANDLERS = """
import json, os, socket

def echo(event, context):
    return {"event": event, "environment": dict(os.environ), "left": context.get_remaining_time_in_millis(),
            "arn": context.invoked_function_arn, "shared": __import__("shared").NAME}

def custom(event, context):
    import urllib.request
    answer = {"Status": event["ResourceProperties"]["Outcome"], "Reason": event["LogicalResourceId"] + " was told to"}
    request = urllib.request.Request(event["ResponseURL"], json.dumps(answer).encode(), method="PUT")
    urllib.request.urlopen(request, timeout=10).close()

def answer(event, context):
    return json.loads(event["body"])

def puppet(event, context):
    host, port = os.environ["PUPPETEER"].split(":")
    with socket.create_connection((host, int(port))) as line, line.makefile("rw") as file:
        call = {"function": context.function_name.rpartition("-")[2], "pid": os.getpid(), "event": event}
        print(json.dumps(call), file=file, flush=True)
        reply = json.loads(file.readline())
    if "error" in reply:
        raise RuntimeError(reply["error"])
    if "exit" in reply:
        os._exit(reply["exit"])
    return reply["result"]
"""

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters:
  Puppeteer: { Type: String }
  CallbackBaseUrl: { Type: String, Default: "" }
Globals:
  Function:
    Runtime: python3.13
    CodeUri: code
    Handler: handlers.puppet
    Timeout: 20
    Layers: [!Ref SourceLayer, !Ref BuiltLayer]
    AutoPublishAlias: live
    Environment: { Variables: { PUPPETEER: !Ref Puppeteer, BASE_URL: !Ref CallbackBaseUrl, TABLE: !Ref Table } }
Resources:
  SourceLayer: { Type: AWS::Serverless::LayerVersion, Properties: { ContentUri: source } }
  BuiltLayer: { Type: AWS::Serverless::LayerVersion, Properties: { ContentUri: built } }
  Api: { Type: AWS::Serverless::HttpApi, Properties: { Auth: { EnableIamAuthorizer: true } } }
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: id, AttributeType: S }, { AttributeName: kind, AttributeType: S }]
      KeySchema: [{ AttributeName: id, KeyType: HASH }]
      GlobalSecondaryIndexes:
        - IndexName: by-kind
          KeySchema: [{ AttributeName: kind, KeyType: HASH }]
          Projection: { ProjectionType: KEYS_ONLY }
      StreamSpecification: { StreamViewType: NEW_AND_OLD_IMAGES }
      TimeToLiveSpecification: { AttributeName: ends_at, Enabled: true }
  Queue: { Type: AWS::SQS::Queue, Properties: { VisibilityTimeout: 1, RedrivePolicy: {
    maxReceiveCount: 3, deadLetterTargetArn: !GetAtt DeadLetterQueue.Arn } } }
  DeadLetterQueue: { Type: AWS::SQS::Queue }
  Topic: { Type: AWS::SNS::Topic }
  TopicQueue: { Type: AWS::SQS::Queue }
  TopicSubscription: { Type: AWS::SNS::Subscription, Properties: {
    TopicArn: !Ref Topic, Protocol: sqs, Endpoint: !GetAtt TopicQueue.Arn, RawMessageDelivery: true } }
  Unpublished: { Type: AWS::S3::Bucket }
  CredentialsSecret: { Type: AWS::SecretsManager::Secret }
  SignatureSecret: { Type: AWS::SecretsManager::Secret }
  TokenSecret: { Type: AWS::SecretsManager::Secret }
  Echo:
    Type: AWS::Serverless::Function
    Properties:
      Handler: handlers.echo
      Events:
        Iam: { Type: HttpApi, Properties: {
          ApiId: !Ref Api, Path: "/things/{name}/{part}", Method: POST, Auth: { Authorizer: AWS_IAM } } }
        Fixed: { Type: HttpApi, Properties: { ApiId: !Ref Api, Path: "/things/fixed/{part}", Method: ANY } }
        Greedy: { Type: HttpApi, Properties: { ApiId: !Ref Api, Path: "/things/{rest+}", Method: GET } }
        Open: { Type: HttpApi, Properties: { ApiId: !Ref Api, Path: /echo, Method: POST } }
  Answer:
    Type: AWS::Serverless::Function
    Properties:
      Handler: handlers.answer
      Events: { Any: { Type: HttpApi, Properties: { ApiId: !Ref Api, Path: /answer, Method: ANY } } }
  Puppet:
    Type: AWS::Serverless::Function
    Properties:
      Events: { Get: { Type: HttpApi, Properties: { ApiId: !Ref Api, Path: /puppet, Method: GET } } }
  Crowd: { Type: AWS::Serverless::Function, Properties: {} }
  Hasty: { Type: AWS::Serverless::Function, Properties: { Timeout: 1 } }
  Broken: { Type: AWS::Serverless::Function, Properties: { Handler: missing.handler } }
  Quitter: { Type: AWS::Serverless::Function, Properties: { Handler: quitter.handler } }
  Streamed:
    Type: AWS::Serverless::Function
    Properties:
      Events:
        Changes:
          Type: DynamoDB
          Properties:
            Stream: !GetAtt Table.StreamArn
            StartingPosition: TRIM_HORIZON
            BatchSize: 10
            FunctionResponseTypes: [ReportBatchItemFailures]
            BisectBatchOnFunctionError: true
            MaximumRetryAttempts: 2
            DestinationConfig: { OnFailure: { Type: S3, Destination: !GetAtt Unpublished.Arn } }
            FilterCriteria: { Filters: [{ Pattern: '{"dynamodb":{"NewImage":{"kind":{"S":["told"]}}}}' }] }
  Queued:
    Type: AWS::Serverless::Function
    Properties:
      Events:
        Messages: { Type: SQS, Properties: {
          Queue: !GetAtt Queue.Arn, BatchSize: 5, FunctionResponseTypes: [ReportBatchItemFailures] } }
  Scheduled:
    Type: AWS::Serverless::Function
    Properties:
      Timeout: 600 # the first run is held until its test begins
      Events:
        Often: { Type: ScheduleV2, Properties: { ScheduleExpression: rate(1 second) } }
        Rarely: { Type: Schedule, Properties: { Schedule: rate(1 day), Input: '{"rarely":true}' } }
Outputs:
  TableName: { Value: !Ref Table }
  TopicArn: { Value: !Ref Topic }
  QueueUrl: { Value: !Ref Queue }
  DeadLetterQueueUrl: { Value: !Ref DeadLetterQueue }
  TopicQueueUrl: { Value: !Ref TopicQueue }
  Bucket: { Value: !Ref Unpublished }
  Credentials: { Value: !Ref CredentialsSecret }
  Signature: { Value: !Ref SignatureSecret }
  Token: { Value: !Ref TokenSecret }
"""

SMALL_TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters: { KopoKopoApiUrl: { Type: String, Default: "" }, Size: { Type: Number, Default: 1 } }
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{ AttributeName: id, AttributeType: S }]
      KeySchema: [{ AttributeName: id, KeyType: HASH }]
  Layer: { Type: AWS::Serverless::LayerVersion, Properties: { ContentUri: built } }
  Echo:
    Type: AWS::Serverless::Function
    Properties:
      Layers: [!Ref Layer]
      Runtime: python3.13
      CodeUri: code
      Handler: handlers.echo
      Environment: { Variables: { API: !Ref KopoKopoApiUrl, SIZE: !Ref Size } }
      Events: { Any: { Type: HttpApi } }
Outputs: { TableName: { Value: !Ref Table } }
"""


class Call:
    """One invocation of a puppet, which waits for what the test tells it to do."""

    def __init__(self, line: socket.socket) -> None:
        self._file = line.makefile("rw")
        self._line = line
        call = json.loads(self._file.readline())
        self.function: str = call["function"]
        self.pid: int = call["pid"]
        self.event: Any = call["event"]

    def returns(self, result: Any) -> None:
        self._tell({"result": result})

    def raises(self, message: str) -> None:
        self._tell({"error": message})

    def exits(self, status: int) -> None:
        self._tell({"exit": status})

    def is_cut_off(self) -> bool:
        """Wait until the function is no more."""
        self._line.settimeout(PATIENCE)
        with suppress(ConnectionError):
            return self._file.readline() == ""
        return True

    def close(self) -> None:
        with suppress(OSError):
            self._file.close()
        self._line.close()

    def _tell(self, what: dict[str, Any]) -> None:
        print(json.dumps(what), file=self._file, flush=True)


class Puppeteer:
    """Where the puppets call."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._waiting: defaultdict[str, Queue[Call]] = defaultdict(Queue)
        self._calls: list[Call] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def call(self, function: str, patience: float = PATIENCE) -> Call:
        """The next invocation of a function."""
        return self._waiting[function].get(timeout=patience)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for call in self._calls:
            call.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                call = Call(self._listener.accept()[0])
                self._calls.append(call)
                self._waiting[call.function].put(call)


def wait_until(holds: Callable[[], Any]) -> Any:
    result = until(holds, PATIENCE)
    assert result, "it did not come to hold in time"
    return result


def write_code(folder: Path) -> None:
    for name, content in {
        "code/handlers.py": HANDLERS,
        "code/quitter.py": "raise SystemExit(3)",
        "source/shared.py": "NAME = 'source'",
        "built/python/shared.py": "NAME = 'built'",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@pytest.fixture(scope="module")
def puppeteer() -> Iterator[Puppeteer]:
    puppeteer = Puppeteer()
    yield puppeteer
    puppeteer.close()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory, puppeteer: Puppeteer) -> Iterator[LaptopCloud]:
    folder = tmp_path_factory.mktemp("stack")
    write_code(folder)
    (folder / "template.yaml").write_text(TEMPLATE)
    environ = {
        **os.environ,
        "KOPOKOPO_API_KEY": "given-api-key",
        "AWS_PROFILE": "nobody",
        "HTTP_PROXY": "http://x.invalid",
    }
    with LaptopCloud(
        folder / "template.yaml",
        simulator=None,
        parameters={"Puppeteer": puppeteer.address},
        state_dir=folder / "state",
        environ=environ,
    ) as cloud:
        yield cloud


@pytest.fixture
def api(cloud: LaptopCloud) -> str:
    return cloud.outputs["ApiUrl"]


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(20) as pool:
        yield pool


# ------------------------------------------------------------------------------------------------------ resources


def test_resources_are_made_from_the_template(cloud: LaptopCloud) -> None:
    table = cloud.client("dynamodb").describe_table(TableName=cloud.outputs["TableName"])["Table"]
    secrets = cloud.client("secretsmanager")

    assert cloud.outputs["TableName"] == "kopokopo-reversals-Table"
    assert [index["IndexName"] for index in table["GlobalSecondaryIndexes"]] == ["by-kind"]
    time_to_live = cloud.client("dynamodb").describe_time_to_live(TableName=cloud.outputs["TableName"])
    assert time_to_live["TimeToLiveDescription"]["TimeToLiveStatus"] == "ENABLED"
    assert json.loads(secrets.get_secret_value(SecretId=cloud.outputs["Credentials"])["SecretString"]) == {
        "client_id": "local-client-id",
        "client_secret": "local-client-secret",
    }
    signature = secrets.get_secret_value(SecretId=cloud.outputs["Signature"])["SecretString"]
    assert json.loads(signature) == {"api_key": "given-api-key"}
    with pytest.raises(secrets.exceptions.ResourceNotFoundException):
        secrets.get_secret_value(SecretId=cloud.outputs["Token"])


def test_a_topic_reaches_its_queue_and_a_long_poll_holds_nobody_up(
    cloud: LaptopCloud, background: ThreadPoolExecutor
) -> None:
    url = cloud.outputs["TopicQueueUrl"]
    poll = background.submit(cloud.client("sqs").receive_message, QueueUrl=url, WaitTimeSeconds=20)

    cloud.client("sns").publish(TopicArn=cloud.outputs["TopicArn"], Message="hello")

    assert [message["Body"] for message in poll.result(PATIENCE)["Messages"]] == ["hello"]


def test_a_resource_type_that_is_not_known_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text("Resources: { Cluster: { Type: AWS::ECS::Cluster } }")

    with (
        pytest.raises(LaptopCloudError, match="Cluster: AWS::ECS::Cluster is unknown to the laptop cloud"),
        LaptopCloud(tmp_path / "template.yaml", simulator=None, state_dir=tmp_path),
    ):
        pytest.fail("it started")


@pytest.mark.parametrize("outcome", ["SUCCESS", "FAILED"])
def test_a_custom_resource_is_created_by_its_function_or_nothing_starts(tmp_path: Path, outcome: str) -> None:
    write_code(tmp_path)
    handler = "{ Handler: handlers.custom, Runtime: python3.13, CodeUri: code }"
    resource = f"{{ ServiceToken: !GetAtt Custom.Arn, Outcome: {outcome} }}"
    (tmp_path / "template.yaml").write_text(f"""
        Transform: AWS::Serverless-2016-10-31
        Resources:
          Custom: {{ Type: AWS::Serverless::Function, Properties: {handler} }}
          Thing: {{ Type: AWS::CloudFormation::CustomResource, Properties: {resource} }}
    """)
    cloud = LaptopCloud(tmp_path / "template.yaml", simulator=None, state_dir=tmp_path)

    if outcome == "FAILED":
        with pytest.raises(LaptopCloudError, match="Thing could not be created: Thing was told to"), cloud:
            pytest.fail("it started")
    else:
        with cloud:
            assert list(cloud.functions) == ["Custom"]


def test_another_aws_endpoint_is_used_and_what_is_there_is_kept(cloud: LaptopCloud, tmp_path: Path) -> None:
    write_code(tmp_path)
    (tmp_path / "template.yaml").write_text(SMALL_TEMPLATE)
    cloud.client("dynamodb").put_item(TableName=cloud.outputs["TableName"], Item={"id": {"S": "kept"}})
    environ = {"AWS_ENDPOINT_URL": cloud.outputs["AwsEndpointUrl"], "PATH": os.environ["PATH"]}

    with LaptopCloud(tmp_path / "template.yaml", simulator=None, state_dir=tmp_path, environ=environ) as second:
        assert second.outputs["AwsEndpointUrl"] == cloud.outputs["AwsEndpointUrl"]
        found = second.client("dynamodb").get_item(TableName=second.outputs["TableName"], Key={"id": {"S": "kept"}})

    assert "Item" in found


# ------------------------------------------------------------------------------------------------------ HTTP API


def test_a_request_is_an_event_of_payload_format_2(cloud: LaptopCloud, api: str) -> None:
    response = requests.post(
        f"{api}/things/a%20b/2?x=1&y=%2F&x=2&empty=",
        data='{"é": 1}'.encode(),
        headers={"Content-Type": "application/json", "X-Seen": "yes", "User-Agent": "test", "Cookie": "a=1; b=2"},
        timeout=PATIENCE,
    )

    event = response.json()["event"]
    context = event.pop("requestContext")
    headers = event.pop("headers")
    assert event == {
        "version": "2.0",
        "routeKey": "POST /things/{name}/{part}",
        "rawPath": "/things/a b/2",
        "rawQueryString": "x=1&y=%2F&x=2&empty=",
        "cookies": ["a=1", "b=2"],
        "queryStringParameters": {"x": "1,2", "y": "/", "empty": ""},
        "pathParameters": {"name": "a b", "part": "2"},
        "body": '{"é": 1}',
        "isBase64Encoded": False,
    }
    domain = api.removeprefix("http://")
    assert headers["host"] == domain
    assert headers["x-seen"] == "yes"
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", headers["x-amzn-trace-id"])
    assert "cookie" not in headers
    assert re.fullmatch(r"\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000", context.pop("time"))
    assert abs(context.pop("timeEpoch") / 1000 - time.time()) < PATIENCE
    assert context.pop("requestId") == response.headers["apigw-requestid"]
    assert context.pop("authorizer")["iam"]["userArn"] == "arn:aws:iam::123456789012:user/local"
    assert context == {
        "accountId": "123456789012",
        "apiId": "local",
        "domainName": domain,
        "domainPrefix": "local",
        "http": {
            "method": "POST",
            "path": "/things/a b/2",
            "protocol": "HTTP/1.1",
            "sourceIp": "127.0.0.1",
            "userAgent": "test",
        },
        "routeKey": "POST /things/{name}/{part}",
        "stage": "$default",
    }


def test_what_a_request_has_not_the_event_has_not(api: str) -> None:
    event = requests.post(f"{api}/echo", timeout=PATIENCE).json()["event"]

    assert not {"cookies", "queryStringParameters", "pathParameters", "body"} & set(event)
    assert event["rawQueryString"] == ""
    assert event["isBase64Encoded"] is False
    assert "authorizer" not in event["requestContext"]


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/things/a/b", "POST /things/{name}/{part}"),
        ("POST", "/things/fixed/b", "ANY /things/fixed/{part}"),
        ("GET", "/things/a/b", "GET /things/{rest+}"),
        ("GET", "/things/a/b/c", "GET /things/{rest+}"),
        ("DELETE", "/things/fixed/b", "ANY /things/fixed/{part}"),
        ("DELETE", "/things/a/b", None),
        ("GET", "/things", None),
        ("GET", "/echo/", None),
    ],
)
def test_the_most_specific_route_takes_a_request(api: str, method: str, path: str, route: str | None) -> None:
    response = requests.request(method, api + path, timeout=PATIENCE)

    if route is None:
        assert (response.status_code, response.json()) == (404, {"message": "Not Found"})
    else:
        assert response.json()["event"]["routeKey"] == route


def test_the_default_route_takes_the_rest(small_cloud: LaptopCloud) -> None:
    result = requests.patch(small_cloud.outputs["ApiUrl"] + "/any/thing?x", timeout=PATIENCE).json()

    assert result["event"]["routeKey"] == "$default"
    assert result["shared"] == "built"


@pytest.mark.parametrize(
    ("content_type", "body", "encoded"),
    [
        ("application/json", b"{}", False),
        ("application/json; charset=utf-8", "é".encode(), False),
        ("application/problem+json", b"{}", False),
        ("text/plain", b"x", False),
        ("application/json", b"\xff", True),
        ("application/x-www-form-urlencoded", b"a=1", True),
        ("application/octet-stream", b"x", True),
        (None, b"x", True),
    ],
)
def test_a_body_that_is_no_text_travels_as_base64(
    api: str, content_type: str | None, body: bytes, encoded: bool
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    event = requests.post(f"{api}/echo", data=body, headers=headers, timeout=PATIENCE).json()["event"]

    assert event["isBase64Encoded"] is encoded
    assert (base64.b64decode(event["body"]) if encoded else event["body"].encode()) == body


def test_a_chunked_body_is_put_together(api: str) -> None:
    chunks = iter([b'{"a":', b" 1}"])

    response = requests.post(f"{api}/echo", data=chunks, headers={"Content-Type": "text/plain"}, timeout=PATIENCE)

    assert response.json()["event"]["body"] == '{"a": 1}'


def test_expect_100_continue_is_answered_before_the_body_is_sent(api: str) -> None:
    head = b"POST /echo HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(address_of(api), PATIENCE) as line, line.makefile("rb") as file:
        line.sendall(head)
        assert file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert file.readline() == b"\r\n"
        line.sendall(b"hi")
        assert file.readline() == b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_10_mb_is_refused_before_the_function(api: str, chunked: bool) -> None:
    body = b"x" * (10 * 1024 * 1024 + 1)
    session = requests.Session()

    response = session.post(f"{api}/echo", data=iter([body]) if chunked else body, timeout=PATIENCE)

    assert (response.status_code, response.json()) == (413, {"message": "Request Entity Too Large"})
    assert session.post(f"{api}/echo", timeout=PATIENCE).status_code == 200
    session.close()


def test_what_is_no_http_is_answered_400(api: str) -> None:
    with socket.create_connection(address_of(api), PATIENCE) as line, line.makefile("rb") as file:
        line.sendall(b"POST /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n\r\n")

        assert b" 400 " in file.readline()
        assert file.read().endswith(b'{"message":"Bad Request"}')


@pytest.mark.parametrize(
    ("result", "status", "content_type", "body"),
    [
        ({"statusCode": 418, "body": "tea"}, 418, "text/plain;charset=UTF-8", b"tea"),
        ({"statusCode": "201", "headers": {"Content-Type": "x/y"}, "body": "é"}, 201, "x/y", "é".encode()),
        ({"statusCode": 200, "body": "//8=", "isBase64Encoded": True}, 200, "text/plain;charset=UTF-8", b"\xff\xff"),
        ({"statusCode": 204}, 204, "text/plain;charset=UTF-8", b""),
        ({"hello": ["world"]}, 200, "application/json", b'{"hello": ["world"]}'),
        ("hello", 200, "application/json", b"hello"),
    ],
)
def test_a_result_is_read_as_format_2_does(api: str, result: Any, status: int, content_type: str, body: bytes) -> None:
    response = requests.post(
        f"{api}/answer", data=json.dumps(result), headers={"Content-Type": "text/plain"}, timeout=PATIENCE
    )

    assert (response.status_code, response.headers["content-type"], response.content) == (status, content_type, body)


def test_a_result_sets_cookies(api: str) -> None:
    result = {"statusCode": 200, "cookies": ["a=1", "b=2; HttpOnly"], "headers": {"X-Number": 7}}
    with requests.Session() as session:
        response = session.post(f"{api}/answer", json=result, timeout=PATIENCE)

        assert dict(session.cookies) == {"a": "1", "b": "2"}
        assert response.headers["X-Number"] == "7"


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "soon"},
        {"statusCode": 42},
        {"statusCode": 200, "body": {"a": 1}},
        {"statusCode": 200, "headers": ["X"]},
        {"statusCode": 200, "headers": {"X": "a\r\nb: c"}},
        {"statusCode": 200, "body": "***", "isBase64Encoded": True},
    ],
)
def test_a_malformed_result_is_500(api: str, result: Any) -> None:
    response = requests.post(f"{api}/answer", json=result, timeout=PATIENCE)

    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})


def test_a_function_that_raises_is_500(api: str) -> None:
    response = requests.post(f"{api}/answer", data="no JSON", headers={"Content-Type": "text/plain"}, timeout=PATIENCE)

    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})


def test_an_api_waits_30_seconds_at_most_and_the_function_goes_on(
    cloud: LaptopCloud, api: str, puppeteer: Puppeteer, background: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("local.gateway.INTEGRATION_TIMEOUT", A_MOMENT)
    request = background.submit(requests.get, f"{api}/puppet", timeout=PATIENCE)
    call = puppeteer.call("Puppet")

    response = request.result(PATIENCE)

    assert (response.status_code, response.json()) == (503, {"message": "Service Unavailable"})
    call.returns({"statusCode": 200})
    monkeypatch.undo()
    again = background.submit(requests.get, f"{api}/puppet", timeout=PATIENCE)
    call = puppeteer.call("Puppet")
    call.returns({"statusCode": 200})
    assert again.result(PATIENCE).status_code == 200


def test_200_connections_at_once_are_all_served(api: str) -> None:
    request = b"POST /answer HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"
    lines = [socket.create_connection(address_of(api), PATIENCE) for _ in range(200)]
    for line in lines:
        line.sendall(request)

    assert [line.recv(15) for line in lines] == [b"HTTP/1.1 200 OK"] * 200
    for line in lines:
        line.close()


# ------------------------------------------------------------------------------------------------------ functions


def test_a_function_has_its_environment_and_lambdas_and_no_other(cloud: LaptopCloud, api: str) -> None:
    result = cloud.functions["Echo"].invoke({"any": "event"})

    environment = result["environment"]
    assert result["event"] == {"any": "event"}
    assert result["arn"] == "arn:aws:lambda:eu-west-1:123456789012:function:kopokopo-reversals-Echo"
    assert 19_000 < result["left"] <= 20_000
    assert result["shared"] == "source"  # the layers come in the template's order
    assert environment["TABLE"] == cloud.outputs["TableName"]
    assert environment["BASE_URL"] == api
    assert environment["AWS_LAMBDA_FUNCTION_NAME"] == "kopokopo-reversals-Echo"
    assert environment["AWS_ENDPOINT_URL"] == cloud.outputs["AwsEndpointUrl"]
    assert environment["AWS_ACCESS_KEY_ID"] == "local"
    assert environment["TZ"] == ":UTC"
    assert not {"AWS_PROFILE", "HTTP_PROXY", "KOPOKOPO_API_KEY", "VIRTUAL_ENV"} & set(environment)


def test_what_a_function_runs_with_can_be_adjusted(folder: Path) -> None:
    (folder / "first").mkdir()
    (folder / "first" / "shared.py").write_text("NAME = 'first'")

    def adjust(function: str, properties: dict[str, Any]) -> dict[str, Any]:
        variables = {**properties["Environment"]["Variables"], "AWS_ENDPOINT_URL": f"http://{function}"}
        layers = [str(folder / "first"), *properties["Layers"]]
        return {**properties, "Environment": {"Variables": variables}, "Layers": layers}

    with LaptopCloud(folder / "template.yaml", simulator=None, state_dir=folder, adjust=adjust) as cloud:
        result = cloud.functions["Echo"].invoke({})

    assert result["shared"] == "first"
    assert result["environment"]["AWS_ENDPOINT_URL"] == "http://Echo"
    assert result["environment"]["SIZE"] == "1"


def test_a_child_is_used_again(cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor) -> None:
    first, second = (invoke_once(cloud, puppeteer, background) for _ in range(2))

    assert first == second


def test_ten_children_run_at_once_and_the_eleventh_waits(
    cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    invocations = [background.submit(cloud.functions["Crowd"].invoke, number) for number in range(11)]
    calls = [puppeteer.call("Crowd") for _ in range(10)]

    with pytest.raises(Empty):
        puppeteer.call("Crowd", patience=A_MOMENT)
    assert len({call.pid for call in calls}) == 10
    assert set(cloud.functions["Crowd"].pids) == {call.pid for call in calls}

    calls[4].returns("done")
    eleventh = puppeteer.call("Crowd")
    assert eleventh.pid == calls[4].pid
    for call in [*calls[:4], *calls[5:], eleventh]:
        call.returns("done")
    assert [invocation.result(PATIENCE) for invocation in invocations] == ["done"] * 11


def test_a_child_that_is_killed_fails_its_invocation_alone(
    cloud: LaptopCloud, api: str, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    doomed = background.submit(requests.get, f"{api}/puppet", timeout=PATIENCE)
    killed = puppeteer.call("Puppet")
    lucky = background.submit(requests.get, f"{api}/puppet", timeout=PATIENCE)
    other = puppeteer.call("Puppet")

    os.kill(killed.pid, signal.SIGKILL)

    response = doomed.result(PATIENCE)
    assert (response.status_code, response.json()) == (500, {"message": "Internal Server Error"})
    assert killed.pid not in cloud.functions["Puppet"].pids
    other.returns({"statusCode": 200})
    assert lucky.result(PATIENCE).status_code == 200
    log = (cloud.logs / "Puppet.log").read_text()
    assert "Runtime.ExitError" in log


def test_a_child_that_dies_while_idle_is_nobodys_failure(
    cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    invoke_once(cloud, puppeteer, background)
    for pid in cloud.functions["Puppet"].pids:
        os.kill(pid, signal.SIGKILL)

    invoke_once(cloud, puppeteer, background)


def test_a_child_that_exits_fails_its_invocation(
    cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    invocation = background.submit(cloud.functions["Puppet"].invoke, {})
    puppeteer.call("Puppet").exits(7)

    error = failure_of(invocation)
    assert error.error_type == "Runtime.ExitError"
    assert "exit status 7" in error.error_message


def test_an_exception_is_told_with_its_class(
    cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    invocation = background.submit(cloud.functions["Puppet"].invoke, {})
    puppeteer.call("Puppet").raises("on purpose")

    error = failure_of(invocation)
    assert (error.error_type, error.error_message) == ("RuntimeError", "on purpose")


def test_a_function_that_runs_out_of_time_is_killed(
    cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor
) -> None:
    invocation = background.submit(cloud.functions["Hasty"].invoke, {})
    call = puppeteer.call("Hasty")

    error = failure_of(invocation)
    assert error.error_type == "Sandbox.Timedout"
    assert "timed out after 1.00 seconds" in error.error_message
    assert call.is_cut_off()
    assert cloud.functions["Hasty"].pids == []


@pytest.mark.parametrize(
    ("name", "error_type"), [("Broken", "Runtime.ImportModuleError"), ("Quitter", "Runtime.ExitError")]
)
def test_a_handler_that_cannot_be_loaded_fails_each_invocation_at_once(
    cloud: LaptopCloud, name: str, error_type: str
) -> None:
    for _ in range(2):
        with pytest.raises(FunctionError) as caught:
            cloud.functions[name].invoke({})
        assert caught.value.error_type == error_type
    assert error_type in (cloud.logs / f"{name}.log").read_text()
    assert cloud.functions[name].pids == []


# ------------------------------------------------------------------------------------------------------ events


def put(cloud: LaptopCloud, *names: str, **attributes: str) -> None:
    item = {name: {"S": value} for name, value in {"kind": "told", **attributes}.items()}
    for name in names:
        cloud.client("dynamodb").put_item(TableName=cloud.outputs["TableName"], Item={"id": {"S": name}, **item})


def ids(call: Call) -> list[str]:
    return [record["dynamodb"]["Keys"]["id"]["S"] for record in call.event["Records"]]


def number(call: Call, name: str) -> str:
    return next(
        str(record["dynamodb"]["SequenceNumber"])
        for record in call.event["Records"]
        if record["dynamodb"]["Keys"]["id"]["S"] == name
    )


def test_a_stream_reaches_its_function_through_the_filter(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    put(cloud, "untold-1", kind="secret")
    put(cloud, "told-1", colour="red")
    call = puppeteer.call("Streamed")
    call.returns({"batchItemFailures": []})
    put(cloud, "told-1", colour="red")  # changes nothing: a stream does not tell of it
    put(cloud, "told-1", colour="blue")
    second = puppeteer.call("Streamed")
    second.returns(None)

    (record,) = call.event["Records"]
    assert record["eventName"] == "INSERT"
    assert record["eventSource"] == "aws:dynamodb"
    assert record["awsRegion"] == "eu-west-1"
    assert record["eventSourceARN"].startswith(
        "arn:aws:dynamodb:eu-west-1:123456789012:table/kopokopo-reversals-Table/"
    )
    assert record["dynamodb"]["NewImage"]["colour"] == {"S": "red"}
    assert isinstance(record["dynamodb"]["ApproximateCreationDateTime"], int)
    (change,) = second.event["Records"]
    assert change["eventName"] == "MODIFY"
    assert change["dynamodb"]["OldImage"]["colour"] == {"S": "red"}


def test_what_follows_the_first_failed_record_comes_again(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    held = hold_stream(cloud, puppeteer)
    put(cloud, "b-1", "b-2", "b-3", "b-4")
    held.returns(None)

    call = puppeteer.call("Streamed")
    assert ids(call) == ["b-1", "b-2", "b-3", "b-4"]
    failures = [{"itemIdentifier": number(call, name)} for name in ("b-4", "b-3")]
    call.returns({"batchItemFailures": failures})

    again = puppeteer.call("Streamed")
    assert ids(again) == ["b-3", "b-4"]
    again.returns(None)


def test_a_poison_record_ends_at_its_destination_and_the_others_go_on(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    held = hold_stream(cloud, puppeteer)
    put(cloud, "p-1", "p-poison", "p-3")
    held.returns(None)

    seen: list[list[str]] = []
    while "p-3" not in (seen or [[]])[-1] or "p-poison" in seen[-1]:
        call = puppeteer.call("Streamed")
        seen.append(ids(call))
        if "p-poison" in seen[-1]:
            call.raises("indigestible")
        else:
            call.returns(None)

    assert seen == [["p-1", "p-poison", "p-3"], ["p-1"], ["p-poison", "p-3"], *[["p-poison"]] * 3, ["p-3"]]
    kept = failure_with(cloud, "p-poison")
    assert kept["requestContext"]["condition"] == "RetryAttemptsExhausted"
    assert kept["requestContext"]["approximateInvokeCount"] == 3
    assert kept["DDBStreamBatchInfo"]["batchSize"] == 1
    (record,) = json.loads(kept["payload"])["Records"]
    assert record["dynamodb"]["NewImage"]["kind"] == {"S": "told"}


def test_a_transaction_that_fails_is_not_told_and_loses_nothing(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    table = cloud.outputs["TableName"]
    dynamodb = cloud.client("dynamodb")
    writes = [
        {"Put": {"TableName": table, "Item": {"id": {"S": "undone"}, "kind": {"S": "told"}}}},
        {
            "ConditionCheck": {
                "TableName": table,
                "Key": {"id": {"S": "absent"}},
                "ConditionExpression": "attribute_exists(id)",
            }
        },
    ]
    with pytest.raises(dynamodb.exceptions.TransactionCanceledException):
        dynamodb.transact_write_items(TransactItems=writes)
    put(cloud, "after")

    call = puppeteer.call("Streamed")
    call.returns(None)

    assert ids(call) == ["after"]


def test_a_queue_reaches_its_function_and_what_failed_comes_again(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    sqs = cloud.client("sqs")
    for body in ("good", "bad"):
        sqs.send_message(
            QueueUrl=cloud.outputs["QueueUrl"],
            MessageBody=body,
            MessageAttributes={"kind": {"DataType": "String", "StringValue": "test"}},
        )

    handled: list[str] = []
    dead: list[Any] = []
    while handled.count("bad") < 3:
        call = puppeteer.call("Queued")
        records = call.event["Records"]
        handled += [record["body"] for record in records]
        failed = [{"itemIdentifier": record["messageId"]} for record in records if record["body"] == "bad"]
        call.returns({"batchItemFailures": failed})
    dead = wait_until(
        lambda: sqs.receive_message(QueueUrl=cloud.outputs["DeadLetterQueueUrl"], WaitTimeSeconds=1).get("Messages")
    )

    assert handled.count("good") == 1
    assert [message["Body"] for message in dead] == ["bad"]
    record = records[0]
    assert record["eventSource"] == "aws:sqs"
    assert record["eventSourceARN"].endswith(":kopokopo-reversals-Queue")
    assert record["attributes"]["ApproximateReceiveCount"] == "3"
    assert record["messageAttributes"]["kind"]["stringValue"] == "test"


def test_a_schedule_runs_again_and_again_but_never_twice_at_once(cloud: LaptopCloud, puppeteer: Puppeteer) -> None:
    first = puppeteer.call("Scheduled")

    with pytest.raises(Empty):
        puppeteer.call("Scheduled", patience=1 + A_MOMENT)
    first.raises("it happens")
    second = puppeteer.call("Scheduled")
    second.returns(None)

    assert second.event["source"] == "aws.scheduler"
    assert second.event["detail-type"] == "Scheduled Event"
    assert second.event["id"] != first.event["id"]


# ------------------------------------------------------------------------------------------------------ the process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_code(tmp_path)
    (tmp_path / "template.yaml").write_text(SMALL_TEMPLATE)
    return tmp_path


@pytest.fixture
def small_cloud(folder: Path) -> Iterator[LaptopCloud]:
    with LaptopCloud(folder / "template.yaml", simulator=None, state_dir=folder) as cloud:
        yield cloud


class Started:
    """`python -m local` in a process group of its own, as a terminal would start it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        ports = {"API_PORT": "0", "AWS_PORT": "0", "SIMULATOR_PORT": "0"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KOPOKOPO_"))}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "local"],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(ROOT), **ports, **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ready(self) -> dict[str, str]:
        assert self.process.stdout
        line = next(line for line in self.process.stdout if line.startswith("ready "))
        outputs: dict[str, str] = json.loads((self.folder / ".local/outputs.json").read_text())
        assert line == f"ready {outputs['ApiUrl']}\n"
        return outputs

    def descendants(self) -> list[int]:
        """The processes that it has started, and those that they have."""
        table = [tuple(map(int, line.split())) for line in ps("-A", "-o", "pid=,ppid=").splitlines()]
        found = [self.process.pid]
        for parent in found:
            found += [pid for pid, ppid in table if ppid == parent]
        return found[1:]

    def ended(self) -> tuple[int, str]:
        """Its exit status and what it complained of, once it has ended."""
        _, complaints = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, complaints


def ps(*arguments: str) -> str:
    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout  # noqa: S607


def alive(pids: list[int]) -> list[int]:
    """Those that run; one that has ended and that nobody has asked about does not."""
    return [pid for pid in pids if ps("-o", "stat=", "-p", str(pid)).strip()[:1] not in ("", "Z")]


@contextmanager
def started(folder: Path, **settings: str) -> Iterator[Started]:
    it = Started(folder, **settings)
    try:
        yield it
    finally:
        with suppress(ProcessLookupError):
            os.killpg(it.process.pid, signal.SIGKILL)
        it.process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_quietly(folder: Path, number: signal.Signals) -> None:
    with started(folder) as it:
        outputs = it.ready()
        assert requests.get(outputs["SimulatorUrl"] + "/_journal", timeout=PATIENCE).json() == []
        variables = requests.get(outputs["ApiUrl"], timeout=PATIENCE).json()["environment"]
        descendants = it.descendants()

        os.killpg(it.process.pid, number)

        assert it.ended() == (0, "")
        assert len(descendants) == 3  # moto, the simulator, one function
        assert alive(descendants) == []
    assert variables["API"] == outputs["SimulatorUrl"]
    assert outputs["Region"] == "eu-west-1"
    assert outputs["TableName"] == "kopokopo-reversals-Table"


def test_a_signal_while_it_starts_ends_it_as_quietly(folder: Path) -> None:
    with started(folder) as it:
        assert it.process.stdout
        assert it.process.stdout.readline() == "Starting template.yaml ...\n"
        descendants = wait_until(it.descendants)

        it.process.terminate()

        assert it.ended() == (0, "")
        assert alive(descendants) == []


def test_not_even_a_kill_leaves_a_process_behind(folder: Path) -> None:
    with started(folder, KOPOKOPO_API_URL="http://127.0.0.1:9") as it:
        outputs = it.ready()
        requests.get(outputs["ApiUrl"], timeout=PATIENCE)
        descendants = it.descendants()

        it.process.kill()

        assert len(descendants) == 2  # no simulator
        assert outputs["SimulatorUrl"] == ""
        wait_until(lambda: alive(descendants) == [])


def test_two_stacks_run_side_by_side(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write_code(other)
    (other / "template.yaml").write_text(SMALL_TEMPLATE)
    nowhere = "http://127.0.0.1:9"
    with (
        started(folder, KOPOKOPO_API_URL=nowhere, PARAMETER_OVERRIDES="Size=2") as one,
        started(other, KOPOKOPO_API_URL=nowhere) as two,
    ):
        answers = [requests.get(it.ready()["ApiUrl"], timeout=PATIENCE).json() for it in (one, two)]

    assert [answer["environment"]["SIZE"] for answer in answers] == ["2", "1"]


@pytest.mark.parametrize("setting", ["API_PORT", "AWS_PORT", "SIMULATOR_PORT"])
def test_a_taken_port_is_said_with_the_setting_that_changes_it(folder: Path, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with started(folder, **{setting: port}) as it:
            status, complaints = it.ended()

    assert status == 1
    assert re.fullmatch(rf"Port {port} cannot be used \(.*\). Set {setting} to another one\.\n", complaints)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"PARAMETER_OVERRIDES": "Size"}, "PARAMETER_OVERRIDES has 'Size' where Key=Value belongs.\n"),
        ({"PARAMETER_OVERRIDES": "Nothing=1"}, "The template has no parameter Nothing; it has KopoKopoApiUrl, Size.\n"),
        ({"API_PORT": "high"}, "API_PORT is 'high': it has to be a port number.\n"),
        (
            {"TEMPLATE": "nowhere.yaml"},
            "nowhere.yaml cannot be read: [Errno 2] No such file or directory: 'nowhere.yaml'\n",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_one_clear_message(folder: Path, settings: dict[str, str], complaint: str) -> None:
    with started(folder, **settings) as it:
        assert it.ended() == (1, complaint)


# ------------------------------------------------------------------------------------------------------ helpers


def address_of(api: str) -> tuple[str, int]:
    host, port = api.removeprefix("http://").split(":")
    return host, int(port)


def invoke_once(cloud: LaptopCloud, puppeteer: Puppeteer, background: ThreadPoolExecutor) -> int:
    """Invoke Puppet, and return the process that it ran in."""
    invocation = background.submit(cloud.functions["Puppet"].invoke, {})
    call = puppeteer.call("Puppet")
    call.returns("done")
    assert invocation.result(PATIENCE) == "done"
    return call.pid


def failure_of(invocation: "Future[Any]") -> FunctionError:
    error = invocation.exception(PATIENCE)
    assert isinstance(error, FunctionError)
    return error


def hold_stream(cloud: LaptopCloud, puppeteer: Puppeteer) -> Call:
    """Keep the stream's function busy, so that what is written meanwhile comes in one batch."""
    put(cloud, f"hold-{time.monotonic_ns()}")
    return puppeteer.call("Streamed")


def failure_with(cloud: LaptopCloud, name: str) -> Any:
    """What the destination keeps of a record."""
    s3 = cloud.client("s3")
    found = s3.list_objects_v2(Bucket=cloud.outputs["Bucket"]).get("Contents", [])
    kept = [s3.get_object(Bucket=cloud.outputs["Bucket"], Key=it["Key"])["Body"].read().decode() for it in found]
    return next(json.loads(text) for text in kept if name in text)
