"""What all parts of the laptop cloud agree on."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REGION = "eu-west-1"
ACCOUNT_ID = "123456789012"
STACK_NAME = "kopokopo-reversals"


class LaptopCloudError(Exception):
    """The laptop cloud cannot do what was asked; the message says what to change."""
