"""The crash harness: the tap does what it says, the main scenario holds at every crash point, and a defect is found."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.conftest import REGION, Line, Peer, answers, response
from tests.proof.crash import INITIATE, POST, SCENARIOS, Job, Outcome, Point, World, jobs_of, run
from tests.proof.tap import Action, Postbox, Reply, Request, Rule, Tap, name_of

ANSWER = response("200 OK", "X-Answer: yes", body=b'{"done":true}')
ORDINARY = next(scenario for scenario in SCENARIOS if scenario.name == "ordinary")


# ------------------------------------------------------------------------------------------------------ the tap


class Tapped:
    """A tap in front of a peer, and a caller of it."""

    def __init__(self, peer: Peer) -> None:
        self.killed: list[str] = []
        self.peer = peer
        self.tap = Tap(lambda _: peer.url, self.killed.append)
        self.url = self.tap.url("Caller", "somebody")

    def call(self, *done: Action | Reply | None) -> bytes:
        """What comes back of a call that this is done to, to the end of the connection."""
        self.tap.begin(*map(_always, done))
        with self.connected() as line:
            line.sendall(b"POST /oauth/token HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
            received = b""
            while more := line.recv(65536):
                received += more
        return received

    def connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), 10)

    def client(self, service: str, tries: int = 1) -> Any:
        config = Config(retries={"mode": "standard", "total_max_attempts": tries}, s3={"addressing_style": "path"})
        session: Any = boto3.Session("x", "x", region_name=REGION)
        return session.client(service, endpoint_url=self.url, config=config)


def _always(done: Action | Reply | None) -> Rule:
    return lambda _: done


@pytest.fixture
def tapped(peer: Callable[..., Peer]) -> Iterator[Callable[..., Tapped]]:
    taps: list[Tapped] = []

    def start(*scripts: Callable[[Line], None]) -> Tapped:
        taps.append(Tapped(peer(*scripts)))
        return taps[-1]

    yield start
    for each in taps:
        each.tap.stop()


def test_a_call_is_passed_on_whole_and_its_reply_too(tapped: Callable[..., Tapped]) -> None:
    it = tapped(answers(ANSWER))
    assert it.call() == response("200 OK", "X-Answer: yes", body=b'{"done":true}')
    assert it.peer.requests[0].endswith(b"\r\n\r\n{}")
    [call] = it.tap.calls
    assert (str(call), call.origin, call.attempt) == ("Caller POST /oauth/token #1", "somebody", 1)


def test_a_connection_serves_one_call_after_the_other(tapped: Callable[..., Tapped]) -> None:
    it = tapped(answers(ANSWER))
    with it.connected() as line:
        for _ in range(2):
            line.sendall(b"GET /api/v2/reversals/67b1bb87-0000-4000-8000-000000000000 HTTP/1.1\r\nHost: x\r\n\r\n")
            assert line.recv(65536) == ANSWER
    assert [str(call) for call in it.tap.calls] == [
        "Caller GET /api/v2/reversals/{id} #1",
        "Caller GET /api/v2/reversals/{id} #2",
    ]


@pytest.mark.parametrize(
    ("done", "arrived", "killed"), [(Action.KILL_BEFORE, 0, ["Caller"]), (Action.KILL_AFTER, 1, ["Caller"])]
)
def test_a_caller_is_killed_and_hears_nothing(
    tapped: Callable[..., Tapped], done: Action, arrived: int, killed: list[str]
) -> None:
    it = tapped(answers(ANSWER))
    assert it.call(done) == b""
    assert (len(it.peer.requests), it.killed) == (arrived, killed)


@pytest.mark.parametrize(("done", "arrived"), [(Action.LOSE_REQUEST, 0), (Action.LOSE_REPLY, 1)])
def test_what_is_lost_ends_in_a_reset(tapped: Callable[..., Tapped], done: Action, arrived: int) -> None:
    it = tapped(answers(ANSWER))
    with pytest.raises(ConnectionResetError):
        it.call(done)
    assert len(it.peer.requests) == arrived


@pytest.mark.parametrize(
    ("done", "received"), [(Action.CUT_HEAD, ANSWER[: ANSWER.index(b"{") // 2]), (Action.CUT_END, ANSWER[:-1])]
)
def test_a_reply_is_cut(tapped: Callable[..., Tapped], done: Action, received: bytes) -> None:
    assert tapped(answers(ANSWER)).call(done) == received


def test_a_late_reply_is_held_until_the_caller_has_hung_up(tapped: Callable[..., Tapped]) -> None:
    it = tapped(answers(ANSWER))
    it.tap.begin(_always(Action.DELAY_REPLY))
    with it.connected() as line:
        line.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        it.peer.arrived.get(timeout=10)
        line.settimeout(0.2)
        with pytest.raises(TimeoutError):
            line.recv(1)
        line.settimeout(10)
        line.shutdown(socket.SHUT_WR)
        assert line.recv(65536) == ANSWER


def test_a_caller_who_gives_up_leaves_nobody_waiting(tapped: Callable[..., Tapped]) -> None:
    it = tapped(lambda line: (line.read_request(), line.hold(), line.peer.arrived.put(b"gone"))[0])
    with it.connected() as line:
        line.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
        it.peer.arrived.get(timeout=10)
    assert it.peer.arrived.get(timeout=10) == b"gone"


@pytest.mark.parametrize("part", [b"POST /x HTTP/1.1\r\nContent-", b"POST /x HTTP/1.1\r\nContent-Length: 5\r\n\r\n{}"])
def test_a_request_that_broke_off_is_none(tapped: Callable[..., Tapped], part: bytes) -> None:
    it = tapped(answers(ANSWER))
    with it.connected() as line:
        line.sendall(part)
        line.shutdown(socket.SHUT_WR)
        assert line.recv(65536) == b""
    assert (it.tap.calls, it.peer.requests) == ([], [])


def test_a_reply_can_be_made_up_and_the_first_rule_that_speaks_wins(tapped: Callable[..., Tapped]) -> None:
    it = tapped(answers(ANSWER))
    assert it.call(None, Reply.of(204, "", "text/plain"), Action.KILL_BEFORE).startswith(b"HTTP/1.1 204 ")
    assert (it.peer.requests, it.killed) == ([], [])


THROTTLED: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamodb": ("list_tables", {}, "ProvisionedThroughputExceededException"),
    "secretsmanager": ("get_secret_value", {"SecretId": "x"}, "ThrottlingException"),
    "sns": ("publish", {"TopicArn": "x", "Message": "x"}, "Throttling"),
    "sqs": ("send_message", {"QueueUrl": "http://x/q", "MessageBody": "x"}, "RequestThrottled"),
    "s3": ("put_object", {"Bucket": "bucket", "Key": "x", "Body": b"x"}, "SlowDown"),
}


@pytest.mark.parametrize("service", THROTTLED)
def test_each_service_is_too_busy_in_its_own_words(tapped: Callable[..., Tapped], service: str) -> None:
    operation, arguments, code = THROTTLED[service]
    it = tapped(answers(ANSWER))
    it.tap.begin(_always(Action.THROTTLE))
    with pytest.raises(ClientError) as refused:
        getattr(it.client(service), operation)(**arguments)
    assert refused.value.response["Error"]["Code"] == code
    assert it.tap.calls[0].name.startswith(f"{service}.")
    assert it.peer.requests == []


def test_kopo_kopo_is_too_busy_with_429(tapped: Callable[..., Tapped]) -> None:
    assert tapped(answers(ANSWER)).call(Action.THROTTLE).startswith(b"HTTP/1.1 429 ")


def test_a_try_again_is_the_same_call(tapped: Callable[..., Tapped]) -> None:
    it = tapped(answers(response("200 OK", body=b'{"TableNames":[]}')))
    it.tap.begin(lambda call: Action.LOSE_REPLY if call.attempt == 1 else None)
    client = it.client("dynamodb", tries=2)
    client.list_tables()
    client.list_tables()
    assert [(call.number, call.attempt) for call in it.tap.calls] == [(1, 1), (1, 2), (2, 1), (2, 2)]


def document(target: str, **body: Any) -> Request:
    return Request("POST", "/", {"x-amz-target": target}, json.dumps(body).encode(), b"")


@pytest.mark.parametrize(
    ("request_", "name"),
    [
        (document("DynamoDB_20120810.PutItem", Item={}), "dynamodb.PutItem"),
        (document("DynamoDB_20120810.Query", IndexName="due"), "dynamodb.Query due"),
        (
            document("DynamoDB_20120810.UpdateItem", Key={"transaction_reference": {"S": "#token-lease"}}),
            "dynamodb.UpdateItem #token-lease",
        ),
        (
            document("secretsmanager.GetSecretValue", SecretId="arn:x:y-TokenSecret-a", VersionStage="AWSCURRENT"),
            "secretsmanager.GetSecretValue TokenSecret",
        ),
        (
            document("secretsmanager.GetSecretValue", SecretId="arn:x:y-SignatureSecret-a", VersionStage="AWSPREVIOUS"),
            "secretsmanager.GetSecretValue SignatureSecret AWSPREVIOUS",
        ),
        (document("AmazonSQS.SendMessage"), "sqs.SendMessage"),
        (Request("POST", "/", {}, b"Action=PublishBatch&Version=1", b""), "sns.PublishBatch"),
        (Request("PUT", "/bucket/key", {"x-amz-date": "x"}, b"{}", b""), "s3.PutObject"),
        (Request("POST", "/api/v2/reversals", {}, b"{}", b""), "POST /api/v2/reversals"),
    ],
)
def test_a_call_is_named(request_: Request, name: str) -> None:
    assert name_of(request_) == name


def test_a_letter_lies_in_the_postbox_or_is_delivered_at_once() -> None:
    box = Postbox()
    try:
        for courier, status in ((None, b"200"), (lambda _: 503, b"503")):
            box.courier = courier
            with socket.create_connection(("127.0.0.1", int(box.url.rpartition(":")[2])), 10) as line:
                line.sendall(b"POST /here HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
                assert line.recv(65536).split(b" ")[1] == status
        assert [(letter.request.path, letter.request.body) for letter in box.letters] == [("/here", b"hi")] * 2
    finally:
        box.stop()


# ------------------------------------------------------------------------------------------------------ the world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("world") / "it") as world:
        yield world


@pytest.fixture(scope="module")
def undisturbed(world: World) -> Outcome:
    return run(world, Job(ORDINARY))


def test_the_points_are_what_is_on_the_wire(undisturbed: Outcome) -> None:
    assert undisturbed.found == []
    initiate = [str(point) for point in undisturbed.points if point.function == INITIATE]
    assert initiate == [
        "InitiateFunction POST /api/v2/reversals #1",
        "InitiateFunction dynamodb.PutItem #1",
        "InitiateFunction dynamodb.UpdateItem #1",
    ]


@pytest.mark.parametrize("mode", ["kill-before", "kill-after", "request-lost", "reply-lost", "throttled-for-good"])
def test_the_main_scenario_holds_whatever_goes_wrong_at_a_call(world: World, undisturbed: Outcome, mode: str) -> None:
    jobs = [job for job in jobs_of([(ORDINARY, undisturbed)]) if job.mode == mode]
    assert jobs
    for job in jobs:
        outcome = run(world, job)
        assert (outcome.found, outcome.has_happened) == ([], True), job


def test_time_passes_when_it_is_told_to(world: World) -> None:
    [stale] = [scenario for scenario in SCENARIOS if scenario.name == "stale"]
    outcome = run(world, Job(stale))
    assert outcome.found == []
    assert Point("ReconcileFunction", "dynamodb.UpdateItem", 1) in outcome.points


def test_a_secret_in_a_log_is_found(world: World) -> None:
    world.cloud.functions["LookupFunction"].log("This is +254700000000.")
    assert list(world.leaks()) == ["E: LookupFunction.log holds 254700000000..."]
    (world.cloud.logs / "LookupFunction.log").write_text("")


POSTS_AGAIN = """
from reversals import kopokopo
once = kopokopo.KopoKopo.reverse
def reverse(*arguments):
    evidence = once(*arguments)
    return once(*arguments) if evidence.fact == "ambiguous" else evidence
kopokopo.KopoKopo.reverse = reverse
"""


def test_a_second_post_after_a_lost_reply_is_found_out(tmp_path: Path) -> None:
    with World(tmp_path / "it", {INITIATE: POSTS_AGAIN}) as world:
        assert run(world, Job(ORDINARY)).found == []
        found = run(world, Job(ORDINARY, 1, Point(INITIATE, POST, 1), "reply-lost")).found
    assert any(it.startswith("A: ") and "sent again" in it for it in found)
