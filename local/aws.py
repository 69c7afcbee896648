"""AWS on a laptop: moto in a child process, and clients that can reach nothing else."""

import os
import socket
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

import botocore.session
from botocore.config import Config

from local.processes import Child, base_environment, port_of
from local.settings import REGION

# What botocore calls a service in AWS_ENDPOINT_URL_<SERVICE>, where it is not its name in capitals.
SERVICE_IDS = {"dynamodbstreams": "DYNAMODB_STREAMS", "secretsmanager": "SECRETS_MANAGER"}
NO_FILES = {"profile": None, "config_file": os.devnull, "credentials_file": os.devnull}


class Aws:
    """Where each AWS service is found, for the laptop cloud and for its functions alike.

    Args:
        url: The endpoint of every service that `environ` names none of its own for (AWS_ENDPOINT_URL_DYNAMODB, ...).
    """

    def __init__(self, url: str, environ: Mapping[str, str]) -> None:
        self.url = url
        self._endpoints = {
            name: value for name, value in environ.items() if name.startswith("AWS_ENDPOINT_URL_") and value
        }
        if (table_endpoint := self._endpoints.get("AWS_ENDPOINT_URL_DYNAMODB")) is not None:
            # Whoever serves the table serves its stream.
            self._endpoints.setdefault("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", table_endpoint)
        variables = {name: (None, None, value, None) for name, value in NO_FILES.items()}
        self._session = botocore.session.Session(session_vars=variables)
        self._lock = threading.Lock()  # botocore's sessions are not for several threads at once, its clients are

    def environment(self) -> dict[str, str]:
        """The variables that point AWS's SDKs at this place, and keep them from every other."""
        return {
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            # Else botocore puts the account id before the host, where moto does not look for streams.
            "AWS_ACCOUNT_ID_ENDPOINT_MODE": "disabled",
            "AWS_ENDPOINT_URL": self.url,
            **self._endpoints,
        }

    def client(self, service: str) -> Any:
        """A boto3 client of this AWS."""
        name = f"AWS_ENDPOINT_URL_{SERVICE_IDS.get(service, service.upper())}"
        with self._lock:
            return self._session.create_client(
                service,
                region_name=REGION,
                endpoint_url=self._endpoints.get(name, self.url),
                aws_access_key_id="local",
                aws_secret_access_key="local",
                config=Config(account_id_endpoint_mode="disabled", proxies={}, s3={"addressing_style": "path"}),
            )


def start_moto(listener: socket.socket, environ: Mapping[str, str], log: BinaryIO) -> Child:
    """Serve AWS on a socket that listens already: whoever calls before moto is up just waits."""
    environment = base_environment(environ) | Aws(f"http://127.0.0.1:{port_of(listener)}", {}).environment()
    return Child(
        "local.moto_server", str(listener.fileno()), environment=environment, log=log, pass_fds=(listener.fileno(),)
    )
