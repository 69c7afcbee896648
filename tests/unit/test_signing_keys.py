"""The key that Kopo Kopo signs with: kept, rotated, and not read again for every forgery."""

from typing import Any

import pytest
from reversals.errors import ConfigurationError, SignatureError, StorageError
from reversals.secretsmanager import SecretsManager
from reversals.signing_keys import SigningKeys

from tests import kopokopo
from tests.conftest import Cloud, FakeClock, Meddled, refused, unreachable

BODY = b'{"topic":"buygoods_transaction_reversed"}'
FORGED = kopokopo.sign(BODY, "another-key")


@pytest.fixture
def client(cloud: Cloud) -> Meddled:
    return Meddled(cloud.secretsmanager)


@pytest.fixture
def keys(cloud: Cloud, client: Meddled, clock: FakeClock) -> SigningKeys:
    return SigningKeys(SecretsManager(client), cloud.ref("SignatureSecret"), clock)  # type: ignore[arg-type]


def forge(keys: SigningKeys, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(SignatureError):
            keys.verify(BODY, FORGED)


def test_the_key_is_read_once(keys: SigningKeys, client: Meddled) -> None:
    keys.verify(BODY, kopokopo.sign(BODY))
    reads = len(client.calls)
    for _ in range(10):
        keys.verify(BODY, kopokopo.sign(BODY))
    assert len(client.calls) == reads <= 2


def test_while_the_key_is_being_rotated_both_count(keys: SigningKeys, cloud: Cloud) -> None:
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    keys.verify(BODY, kopokopo.sign(BODY, "new-key"))
    keys.verify(BODY, kopokopo.sign(BODY, "local-api-key"))


def test_a_key_before_the_one_before_does_not_count(keys: SigningKeys, cloud: Cloud) -> None:
    for key in ("new-key", "newer-key"):
        cloud.put_secret("SignatureSecret", {"api_key": key})
    with pytest.raises(SignatureError):
        keys.verify(BODY, kopokopo.sign(BODY, "local-api-key"))


def test_a_new_key_is_found_while_the_container_is_warm(keys: SigningKeys, cloud: Cloud, clock: FakeClock) -> None:
    keys.verify(BODY, kopokopo.sign(BODY))
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    clock.advance(10)
    keys.verify(BODY, kopokopo.sign(BODY, "new-key"))
    keys.verify(BODY, kopokopo.sign(BODY))


@pytest.mark.parametrize("previous", [{}, {"api_key": ""}, {"api_key": 1}, "no object"])
def test_a_previous_value_without_a_key_does_not_matter(keys: SigningKeys, cloud: Cloud, previous: Any) -> None:
    cloud.put_secret("SignatureSecret", previous)
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    keys.verify(BODY, kopokopo.sign(BODY, "new-key"))


def test_forgeries_do_not_cost_a_read_each(keys: SigningKeys, client: Meddled, clock: FakeClock) -> None:
    keys.verify(BODY, kopokopo.sign(BODY))
    reads = len(client.calls)
    clock.advance(9.9)
    forge(keys, 100)
    assert len(client.calls) == reads
    clock.advance(0.1)
    forge(keys, 100)
    assert len(client.calls) == 2 * reads


@pytest.mark.parametrize("given", [None, "", "sha256=" + FORGED, FORGED.upper()])
def test_what_could_be_no_signature_costs_no_read(keys: SigningKeys, client: Meddled, given: str | None) -> None:
    with pytest.raises(SignatureError):
        keys.verify(BODY, given)
    assert client.calls == []


@pytest.mark.parametrize("trouble", [unreachable, refused("InternalServiceError")])
def test_without_a_key_nothing_is_refused_for_good(keys: SigningKeys, client: Meddled, trouble: Any) -> None:
    """What may be true has to be sent again."""
    client.meddle("get_secret_value", trouble)
    with pytest.raises(StorageError):
        keys.verify(BODY, kopokopo.sign(BODY))
    keys.verify(BODY, kopokopo.sign(BODY))


def test_forgeries_do_not_cost_a_read_each_while_secrets_manager_is_down(
    keys: SigningKeys, client: Meddled, clock: FakeClock
) -> None:
    keys.verify(BODY, kopokopo.sign(BODY))
    clock.advance(10)
    client.calls.clear()
    client.meddle("get_secret_value", *[unreachable] * 100)
    for _ in range(50):
        with pytest.raises((SignatureError, StorageError)):
            keys.verify(BODY, FORGED)
    assert len(client.calls) <= 2
    keys.verify(BODY, kopokopo.sign(BODY))


def test_a_trouble_with_the_previous_key_does_not_touch_the_current_one(keys: SigningKeys, client: Meddled) -> None:
    client.meddle("get_secret_value", lambda do: do(), unreachable)
    keys.verify(BODY, kopokopo.sign(BODY))


def test_what_may_be_of_a_previous_key_that_was_not_given_is_not_refused_for_good(
    keys: SigningKeys, cloud: Cloud, client: Meddled, clock: FakeClock
) -> None:
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    client.meddle("get_secret_value", lambda do: do(), unreachable)
    for _ in range(2):
        with pytest.raises(StorageError):
            keys.verify(BODY, kopokopo.sign(BODY))
    clock.advance(10)
    keys.verify(BODY, kopokopo.sign(BODY))
    forge(keys)


def test_what_may_be_of_a_new_key_that_was_not_given_is_not_refused_for_good(
    keys: SigningKeys, cloud: Cloud, client: Meddled, clock: FakeClock
) -> None:
    keys.verify(BODY, kopokopo.sign(BODY))
    cloud.put_secret("SignatureSecret", {"api_key": "new-key"})
    clock.advance(10)
    client.meddle("get_secret_value", unreachable)
    for _ in range(2):
        with pytest.raises(StorageError):
            keys.verify(BODY, kopokopo.sign(BODY, "new-key"))
    clock.advance(10)
    keys.verify(BODY, kopokopo.sign(BODY, "new-key"))


def test_a_deployment_without_a_key_says_so(keys: SigningKeys, cloud: Cloud) -> None:
    cloud.put_secret("SignatureSecret", {})
    with pytest.raises(ConfigurationError):
        keys.verify(BODY, kopokopo.sign(BODY))
