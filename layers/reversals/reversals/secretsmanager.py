"""The one module that talks to Secrets Manager."""

import json
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from .errors import ConfigurationError, StorageError

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

Stage = Literal["AWSCURRENT", "AWSPREVIOUS"]


class SecretsManager:
    """Secrets that are JSON objects."""

    def __init__(self, client: "SecretsManagerClient") -> None:
        self._client = client

    def read(self, secret_id: str, stage: Stage = "AWSCURRENT") -> dict[str, Any] | None:
        """Read a secret.

        Returns:
            None if it has no value at this stage, yet or any more.

        Raises:
            ConfigurationError: it is no JSON object.
            StorageError: Secrets Manager did not give it.
        """
        try:
            text = self._client.get_secret_value(SecretId=secret_id, VersionStage=stage).get("SecretString", "")
        except ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return None
            raise StorageError(f"Secrets Manager did not give a secret ({error.response['Error']['Code']}).") from None
        except BotoCoreError as error:
            raise StorageError(f"Secrets Manager did not answer ({type(error).__name__}).") from None
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ConfigurationError(f"The secret {secret_id} must hold a JSON object.")
        return document

    def read_fields(self, secret_id: str, *names: str) -> list[str]:
        """Read fields of a secret that the operator has to fill in.

        Raises:
            ConfigurationError: the secret, or a field of it, has no value.
            StorageError: Secrets Manager did not give it.
        """
        document = self.read(secret_id) or {}
        values = [value for name in names if isinstance(value := document.get(name), str) and value]
        if len(values) < len(names):
            raise ConfigurationError(f"The secret {secret_id} needs {' and '.join(names)}: use put-secret-value.")
        return values

    def write(self, secret_id: str, document: dict[str, Any]) -> None:
        """Make a document the secret's current value.

        Raises:
            StorageError: Secrets Manager did not take it.
        """
        try:
            self._client.put_secret_value(SecretId=secret_id, SecretString=json.dumps(document))
        except (ClientError, BotoCoreError) as error:
            raise StorageError(f"Secrets Manager did not take a secret ({type(error).__name__}).") from None
