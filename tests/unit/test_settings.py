"""The environment, as the functions read it."""

import pytest
from reversals.errors import ConfigurationError
from reversals.settings import Settings


def test_a_text() -> None:
    assert Settings({"TABLE_NAME": "reversals"}).text("TABLE_NAME") == "reversals"


@pytest.mark.parametrize("environment", [{}, {"TABLE_NAME": ""}])
def test_a_text_without_a_value_is_an_error_that_names_it(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="TABLE_NAME"):
        Settings(environment).text("TABLE_NAME")


@pytest.mark.parametrize(("environment", "value"), [({}, ""), ({"URL": ""}, ""), ({"URL": "https://x"}, "https://x")])
def test_an_optional_text_may_be_empty(environment: dict[str, str], value: str) -> None:
    assert Settings(environment).optional("URL") == value


@pytest.mark.parametrize(("text", "seconds"), [("28", 28.0), ("0.1", 0.1), ("1e3", 1000.0)])
def test_seconds(text: str, seconds: float) -> None:
    assert Settings({"TIMEOUT": text}).seconds("TIMEOUT") == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "nan", "inf", "1 minute"])
def test_seconds_are_positive_and_finite(text: str) -> None:
    with pytest.raises(ConfigurationError, match="TIMEOUT"):
        Settings({"TIMEOUT": text}).seconds("TIMEOUT")
