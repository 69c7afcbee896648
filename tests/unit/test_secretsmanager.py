"""Secrets that are JSON objects."""

import json
from typing import Any

import pytest
from reversals.errors import ConfigurationError, StorageError
from reversals.secretsmanager import SecretsManager

from tests.conftest import Cloud, Meddled, lost, refused, unreachable


@pytest.fixture
def client(cloud: Cloud) -> Meddled:
    return Meddled(cloud.secretsmanager)


@pytest.fixture
def secrets(client: Meddled) -> SecretsManager:
    return SecretsManager(client)  # type: ignore[arg-type]


def test_what_is_written_is_read(secrets: SecretsManager, cloud: Cloud) -> None:
    secret = cloud.ref("TokenSecret")
    assert secrets.read(secret) is None
    secrets.write(secret, {"access_token": "one"})
    assert secrets.read(secret) == {"access_token": "one"}
    assert secrets.read(secret, "AWSPREVIOUS") is None
    secrets.write(secret, {"access_token": "two"})
    assert secrets.read(secret) == {"access_token": "two"}
    assert secrets.read(secret, "AWSPREVIOUS") == {"access_token": "one"}


def test_a_secret_that_does_not_exist_has_no_value(secrets: SecretsManager) -> None:
    assert secrets.read("another") is None


@pytest.mark.parametrize("text", ["", "words", "[]", '"text"', "null", "{"])
def test_a_secret_that_is_no_object_is_an_error_that_does_not_show_it(
    secrets: SecretsManager, cloud: Cloud, text: str
) -> None:
    secret = cloud.ref("CredentialsSecret")
    cloud.secretsmanager.put_secret_value(SecretId=secret, SecretString=text or " ")
    with pytest.raises(ConfigurationError, match="CredentialsSecret") as raised:
        secrets.read(secret)
    assert not text.strip('{}[]" ') or text not in str(raised.value).replace("must hold a JSON object", "")


def test_fields_are_read_at_once(secrets: SecretsManager, cloud: Cloud, client: Meddled) -> None:
    """Or one could come from before a rotation, and the other from after."""
    fields = secrets.read_fields(cloud.ref("CredentialsSecret"), "client_id", "client_secret")
    assert fields == ["local-client-id", "local-client-secret"]
    assert client.calls == ["get_secret_value"]


@pytest.mark.parametrize("document", [{}, {"api_key": ""}, {"api_key": None}, {"api_key": 1}, {"API_KEY": "x"}])
def test_a_field_without_a_value_is_an_error_that_names_it(
    secrets: SecretsManager, cloud: Cloud, document: dict[str, Any]
) -> None:
    cloud.put_secret("SignatureSecret", document)
    with pytest.raises(ConfigurationError, match="api_key"):
        secrets.read_fields(cloud.ref("SignatureSecret"), "api_key")


@pytest.mark.parametrize(
    "trouble", [unreachable, lost, refused("InternalServiceError"), refused("AccessDeniedException")]
)
def test_trouble_is_an_error_without_the_value_in_it(
    secrets: SecretsManager, client: Meddled, cloud: Cloud, trouble: Any
) -> None:
    client.meddle("get_secret_value", trouble)
    client.meddle("put_secret_value", trouble)
    with pytest.raises(StorageError) as raised:
        secrets.read(cloud.ref("SignatureSecret"))
    assert "local-api-key" not in str(raised.value)
    with pytest.raises(StorageError) as raised:
        secrets.write(cloud.ref("TokenSecret"), {"access_token": "very-secret"})
    assert "very-secret" not in json.dumps(str(raised.value))
