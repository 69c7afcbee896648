"""The access token: from memory, then from the secret, then from Kopo Kopo; one request for the whole fleet."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError
from reversals.errors import NotSentError, TokenError
from reversals.kopokopo import AccessToken
from reversals.model import format_time
from reversals.secretsmanager import SecretsManager
from reversals.store import TokenLease
from reversals.tokens import AccessTokens

from tests.conftest import START, Cloud, FakeClock, Meddled, after, lost, refused, twice, unreachable
from tests.kopokopo import anything

LIFETIME = 3600.0


class FakeOAuth:
    """Issues numbered tokens.

    Attributes:
        requests: How many were asked for.
        lifetime: Of the next ones, in seconds.
        meanwhile: What happens while it is being asked, once.
    """

    def __init__(self) -> None:
        self.requests = 0
        self.lifetime = LIFETIME
        self.meanwhile: Callable[[], Any] | None = None
        self.credentials: tuple[str, str] | None = None

    def request_token(self, client_id: str, client_secret: str, now: datetime, timeout: float) -> AccessToken:
        self.requests += 1
        self.credentials = (client_id, client_secret)
        value = f"token-{self.requests}"
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return AccessToken(value, now, now + timedelta(seconds=self.lifetime))


class Fleet:
    """Containers that share one table, one secret and one OAuth server."""

    def __init__(self, cloud: Cloud, clock: FakeClock) -> None:
        self.cloud, self.clock = cloud, clock
        self.oauth = FakeOAuth()
        self.table = Meddled(cloud.dynamodb)
        self.secrets = Meddled(cloud.secretsmanager)

    def container(self) -> AccessTokens:
        return AccessTokens(
            secrets=SecretsManager(self.secrets),  # type: ignore[arg-type]
            credentials_secret=self.cloud.ref("CredentialsSecret"),
            token_secret=self.cloud.ref("TokenSecret"),
            kopokopo=self.oauth,  # type: ignore[arg-type]
            lease=TokenLease(self.table, self.cloud.table),  # type: ignore[arg-type]
            clock=self.clock,
        )

    @property
    def shared(self) -> Any:
        return self.cloud.secret("TokenSecret")["access_token"]


@pytest.fixture
def fleet(cloud: Cloud, clock: FakeClock) -> Fleet:
    return Fleet(cloud, clock)


# ------------------------------------------------------------------------------------------------ where it is from


def test_the_first_asks_and_shares(fleet: Fleet, cloud: Cloud) -> None:
    assert fleet.container().get() == "token-1"
    assert fleet.oauth.credentials == ("local-client-id", "local-client-secret")
    assert cloud.secret("TokenSecret") == {
        "access_token": "token-1",
        "expires_at": format_time(START + timedelta(seconds=LIFETIME)),
        "issued_at": format_time(START),
    }


def test_a_container_remembers(fleet: Fleet) -> None:
    container = fleet.container()
    container.get()
    fleet.secrets.calls.clear()
    fleet.table.calls.clear()
    assert [container.get() for _ in range(3)] == ["token-1"] * 3
    assert fleet.secrets.calls == fleet.table.calls == []


def test_another_container_reads_the_secret(fleet: Fleet) -> None:
    fleet.container().get()
    fleet.secrets.calls.clear()
    fleet.table.calls.clear()
    assert fleet.container().get() == "token-1"
    assert (fleet.secrets.calls, fleet.table.calls, fleet.oauth.requests) == (["get_secret_value"], [], 1)


def test_who_was_held_up_until_the_lease_ended_leaves_it_to_who_has_it_now(fleet: Fleet, clock: FakeClock) -> None:
    held_up, other = fleet.container(), fleet.container()

    def long_after() -> None:
        clock.advance(9)
        other.get()

    # Alone, under the lease, and then the credentials.
    fleet.secrets.meddle("get_secret_value", *[lambda do: do()] * 3, after(long_after))
    assert held_up.get() == "token-1"
    assert fleet.oauth.requests == 1


@pytest.mark.parametrize("lifetime", [60, 3600, 7200, 30 * 24 * 3600])
def test_a_token_is_used_until_shortly_before_its_end(fleet: Fleet, clock: FakeClock, lifetime: float) -> None:
    fleet.oauth.lifetime = lifetime
    container = fleet.container()
    container.get()
    early, late = min(0.1 * lifetime, 300), min(0.02 * lifetime, 30)
    clock.advance(lifetime - early - 0.001)
    assert (container.get(), fleet.container().get()) == ("token-1", "token-1")
    clock.advance(early - late + 0.001)
    assert (container.get(), fleet.container().get()) == ("token-2", "token-2")
    assert fleet.oauth.requests == 2


def test_each_token_has_the_life_that_it_was_given(fleet: Fleet, clock: FakeClock) -> None:
    container = fleet.container()
    for number, lifetime in enumerate([100, 10_000, 100], start=1):
        fleet.oauth.lifetime = lifetime
        assert container.get() == f"token-{number}"
        clock.advance(lifetime)


EXPIRED, LASTING = format_time(START), format_time(START + timedelta(hours=1))


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        "token",
        {"access_token": "x"},
        {"expires_at": LASTING},
        {"access_token": "x", "expires_at": EXPIRED},
        *[{"access_token": "x", "expires_at": value} for value in anything(None, "soon", "", [], {}, 0, -1, 1e300)],
        {"access_token": "x", "expires_at": "2026-05-01T08:00:00"},
        {"access_token": "x", "expires_at": float("inf")},
        {"access_token": "x", "expires_at": LASTING, "issued_at": "2026-05-01T07:00:00"},
        {"access_token": "x", "expires_at": LASTING, "issued_at": None},
        *[{"access_token": value, "expires_at": LASTING} for value in anything(None, 1, "", [])],
    ],
)
def test_a_secret_without_a_usable_token_is_filled_anew(fleet: Fleet, cloud: Cloud, document: Any) -> None:
    cloud.put_secret("TokenSecret", document)
    assert fleet.container().get() == "token-1"
    assert fleet.shared == "token-1"


@pytest.mark.parametrize("expires_at", [LASTING, "2026-05-01T11:00:00+03:00", START.timestamp() + 3600])
def test_a_token_that_another_put_there_is_used(fleet: Fleet, cloud: Cloud, expires_at: Any) -> None:
    cloud.put_secret("TokenSecret", {"access_token": "from-elsewhere", "expires_at": expires_at})
    assert fleet.container().get() == "from-elsewhere"
    assert fleet.oauth.requests == 0


# ------------------------------------------------------------------------------------------------ the early refresh


def test_one_refreshes_early_while_the_others_go_on_with_the_old(fleet: Fleet, clock: FakeClock) -> None:
    refresher, other = fleet.container(), fleet.container()
    refresher.get()
    other.get()
    clock.advance(LIFETIME - 299)
    used: list[str] = []
    fleet.oauth.meanwhile = lambda: used.append(other.get())
    assert refresher.get() == "token-2"
    assert used == ["token-1"]
    assert (fleet.oauth.requests, clock.slept) == (2, [])
    # A while later the other looks again, and takes what is there.
    clock.advance(30)
    assert other.get() == "token-2"
    assert fleet.oauth.requests == 2


def test_an_early_refresh_that_fails_costs_nobody_the_token(fleet: Fleet, clock: FakeClock) -> None:
    container = fleet.container()
    container.get()
    clock.advance(LIFETIME - 299)

    def down() -> None:
        raise TokenError("Kopo Kopo is down")

    fleet.oauth.meanwhile = down
    assert [container.get() for _ in range(10)] == ["token-1"] * 10
    assert fleet.oauth.requests == 2
    clock.advance(30)
    assert container.get() == "token-3"


@pytest.mark.parametrize("trouble", [unreachable, refused("InternalServerError")])
def test_an_early_refresh_without_the_lease_is_for_later(fleet: Fleet, clock: FakeClock, trouble: Any) -> None:
    container = fleet.container()
    container.get()
    clock.advance(LIFETIME - 299)
    fleet.table.meddle("update_item", trouble)
    assert container.get() == "token-1"


# ------------------------------------------------------------------------------------------------ one for the fleet


class PatientClock(FakeClock):
    """Time stands still, and whoever sleeps is woken when the token was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()
        self.sleeping = threading.Semaphore(0)

    def sleep(self, seconds: float) -> None:
        self.sleeping.release()
        assert self.written.wait(10)


def all_at_once(cloud: Cloud, count: int, ask: Callable[[AccessTokens], str]) -> tuple[list[str], int]:
    """What so many containers get, and how many requests it took. Kopo Kopo answers once all the others wait."""
    clock = PatientClock()
    fleet = Fleet(cloud, clock)

    def write(do: Callable[[], Any]) -> Any:
        written = do()
        clock.written.set()
        return written

    fleet.secrets.meddle("put_secret_value", write)
    fleet.oauth.meanwhile = lambda: [clock.sleeping.acquire(timeout=10) for _ in range(count - 1)]
    containers = [fleet.container() for _ in range(count)]
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(ask, containers)), fleet.oauth.requests


def test_a_hundred_containers_ask_once(cloud: Cloud) -> None:
    assert all_at_once(cloud, 100, lambda container: container.get()) == (["token-1"] * 100, 1)


def test_a_hundred_containers_whose_token_is_refused_ask_once(cloud: Cloud) -> None:
    cloud.put_secret("TokenSecret", {"access_token": "refused", "expires_at": LASTING})
    tokens = all_at_once(cloud, 100, lambda container: container.replace(refused=container.get()))
    assert tokens == (["token-1"] * 100, 1)


def test_a_refused_token_is_replaced_by_one_that_is_there_already(fleet: Fleet) -> None:
    first, second = fleet.container(), fleet.container()
    first.get()
    second.get()
    assert first.replace(refused="token-1") == "token-2"
    assert second.replace(refused="token-1") == "token-2"
    assert (first.get(), second.get(), fleet.oauth.requests) == ("token-2", "token-2", 2)


def test_who_waits_looks_again_soon_and_not_in_step(fleet: Fleet, clock: FakeClock, cloud: Cloud) -> None:
    TokenLease(cloud.dynamodb, cloud.table).acquire(START, timedelta(seconds=8))
    fleet.container().get()
    assert all(0.05 <= pause <= 0.25 for pause in clock.slept)
    assert len(set(clock.slept)) > 10


# ------------------------------------------------------------------------------------------------ what goes wrong


def test_a_dead_holder_keeps_nobody_waiting_for_ever(fleet: Fleet, clock: FakeClock, cloud: Cloud) -> None:
    TokenLease(cloud.dynamodb, cloud.table).acquire(START, timedelta(seconds=8))
    assert fleet.container().get() == "token-1"
    assert START + timedelta(seconds=8) <= clock.now() < START + timedelta(seconds=8.5)


def test_a_holder_that_is_alive_keeps_nobody_waiting_for_ever(fleet: Fleet, clock: FakeClock, cloud: Cloud) -> None:
    TokenLease(cloud.dynamodb, cloud.table).acquire(START, timedelta(hours=1))
    with pytest.raises(TokenError):
        fleet.container().get()
    assert clock.now() < START + timedelta(seconds=10.5)
    assert fleet.oauth.requests == 0


def test_botocore_took_the_lease_twice(fleet: Fleet) -> None:
    fleet.table.meddle("update_item", twice)
    assert fleet.container().get() == "token-1"
    assert fleet.clock.slept == []


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("InternalServerError")])
def test_without_the_lease_nobody_asks(fleet: Fleet, trouble: Any) -> None:
    fleet.table.meddle("update_item", trouble)
    with pytest.raises(TokenError):
        fleet.container().get()
    assert fleet.oauth.requests == 0


@pytest.mark.parametrize("error", [TokenError("No"), NotSentError("Refused")])
def test_a_request_that_fails_is_an_error_and_the_next_may_ask(fleet: Fleet, error: Exception) -> None:
    def fail() -> None:
        raise error

    fleet.oauth.meanwhile = fail
    with pytest.raises(TokenError):
        fleet.container().get()
    assert fleet.container().get() == "token-2"
    assert fleet.clock.slept == []


def test_a_late_holder_does_not_overwrite_a_newer_token(fleet: Fleet, clock: FakeClock) -> None:
    """The first asks for so long that its lease ends; the second asks and writes before the first is answered."""
    second = fleet.container()

    def overtake() -> None:
        clock.advance(8)
        assert second.get() == "token-2"

    fleet.oauth.meanwhile = overtake
    assert fleet.container().get() == "token-1"
    assert fleet.shared == "token-2"
    assert second.get() == fleet.container().get() == "token-2"
    assert fleet.oauth.requests == 2


def not_there_yet(do: Callable[[], Any]) -> Any:
    raise ClientError({"Error": {"Code": "ResourceNotFoundException", "Message": "..."}}, "GetSecretValue")


def test_a_secret_that_does_not_show_the_token_yet_is_not_filled_twice(fleet: Fleet) -> None:
    fleet.container().get()
    fleet.secrets.meddle("get_secret_value", *[not_there_yet] * 6)
    assert fleet.container().get() == "token-1"
    assert fleet.oauth.requests == 1
    assert fleet.clock.slept


def test_a_secret_that_still_shows_the_refused_token_is_not_filled_twice(
    fleet: Fleet, cloud: Cloud, clock: FakeClock
) -> None:
    first, second = fleet.container(), fleet.container()
    first.get()
    second.get()
    old = cloud.secretsmanager.get_secret_value(SecretId=cloud.ref("TokenSecret"))
    clock.advance(60)
    assert first.replace(refused="token-1") == "token-2"
    fleet.secrets.meddle("get_secret_value", *[lambda do: old] * 6)
    assert second.replace(refused="token-1") == "token-2"
    assert fleet.oauth.requests == 2


def test_word_of_a_token_by_a_clock_that_was_ahead_keeps_nobody_waiting(
    fleet: Fleet, clock: FakeClock, cloud: Cloud
) -> None:
    clock.advance(600)
    fleet.container().get()
    clock.advance(-600)
    cloud.put_secret("TokenSecret", {})
    assert fleet.container().get() == "token-2"


def test_nobody_waits_for_a_token_that_did_not_get_into_the_secret(fleet: Fleet, clock: FakeClock) -> None:
    fleet.secrets.meddle("put_secret_value", unreachable)
    assert fleet.container().get() == "token-1"
    assert fleet.container().get() == "token-2"
    assert clock.slept == []


@pytest.mark.parametrize("trouble", [unreachable, refused("InternalServiceError")])
def test_while_secrets_manager_is_down_what_is_remembered_is_used(fleet: Fleet, clock: FakeClock, trouble: Any) -> None:
    container = fleet.container()
    container.get()
    clock.advance(LIFETIME - 299)
    fleet.secrets.meddle("get_secret_value", *[trouble] * 1000)
    assert container.get() == "token-1"
    with pytest.raises(TokenError):
        fleet.container().get()
    with pytest.raises(TokenError):
        container.replace(refused="token-1")
    assert fleet.oauth.requests == 1


@pytest.mark.parametrize("trouble", [unreachable, lost, refused("LimitExceededException")])
def test_a_token_that_cannot_be_shared_is_used_all_the_same(fleet: Fleet, trouble: Any) -> None:
    container = fleet.container()
    fleet.secrets.meddle("put_secret_value", trouble)
    assert (container.get(), container.get(), fleet.oauth.requests) == ("token-1", "token-1", 1)


@pytest.mark.parametrize(
    "document", [{}, {"client_id": "x"}, {"client_secret": "x"}, {"client_id": "", "client_secret": ""}]
)
def test_a_deployment_without_credentials_says_what_is_missing(fleet: Fleet, cloud: Cloud, document: Any) -> None:
    cloud.put_secret("CredentialsSecret", document)
    with pytest.raises(TokenError, match=r"client_id.*client_secret"):
        fleet.container().get()
    assert fleet.oauth.requests == 0


def test_credentials_are_read_at_once(fleet: Fleet) -> None:
    """Or an id could come from before a rotation, and its secret from after."""
    fleet.container().get()
    read = [it["SecretId"] for it in fleet.secrets.arguments if "VersionStage" in it]
    assert read.count(fleet.cloud.ref("CredentialsSecret")) == 1


def test_every_request_is_counted(fleet: Fleet) -> None:
    counted: list[int] = []
    container = fleet.container()
    container._on_request = lambda: counted.append(1)
    container.get()
    container.replace(refused="token-1")
    assert len(counted) == fleet.oauth.requests == 2
