"""The environment of a function, read once, when a collaborator is first needed."""

import os
from collections.abc import Mapping

from .errors import ConfigurationError


class Settings:
    """The variables that template.yaml sets.

    Args:
        environment: os.environ, or a test's own.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._environment = environment

    def text(self, name: str) -> str:
        """A variable that must have a value.

        Raises:
            ConfigurationError: it has none.
        """
        value = self._environment.get(name)
        if not value:
            raise ConfigurationError(f"The environment variable {name} has no value.")
        return value

    def optional(self, name: str) -> str:
        return self._environment.get(name, "")

    def seconds(self, name: str) -> float:
        """A positive number of seconds.

        Raises:
            ConfigurationError: it is none.
        """
        try:
            value = float(self.text(name))
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise ConfigurationError(f"The environment variable {name} must be a positive number of seconds.")
        return value
