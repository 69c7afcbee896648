"""How long a signature's check takes tells nothing of the key, nor which of the keys matched."""

import ast
import hmac
from contextlib import suppress
from pathlib import Path

import pytest
from reversals import signature
from reversals.errors import SignatureError

from tests import kopokopo

BODY = b'{"topic":"buygoods_transaction_reversed"}'
KEY = kopokopo.API_KEY
PACKAGE = Path(signature.__file__).parent


@pytest.mark.parametrize("keys", [[KEY, "a", "b"], ["a", KEY, "b"], ["a", "b", KEY], ["a", "b", "c"], [KEY, KEY, KEY]])
@pytest.mark.parametrize("given", [kopokopo.sign(BODY), "0" * 64])
def test_every_key_is_compared_whichever_matches(keys: list[str], given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[str, str]] = []
    compare = hmac.compare_digest

    def noted(one: str, other: str) -> bool:
        compared.append((one, other))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", noted)
    with suppress(SignatureError):
        signature.verify(BODY, given, keys)
    assert compared == [(kopokopo.sign(BODY, key), given) for key in keys]


def test_nothing_but_compare_digest_tells_two_digests_apart() -> None:
    """`==` would stop at the first digit that differs. No other module makes a digest of a body, or looks at one."""
    operators = {type(it) for node in nodes("signature") if isinstance(node, ast.Compare) for it in node.ops}
    assert operators <= {ast.Is, ast.IsNot}
    for module in PACKAGE.glob("*.py"):
        named = {node.attr for node in nodes(module.stem) if isinstance(node, ast.Attribute)}
        assert module.stem == "signature" or not named & {"compare_digest", "sign", "hexdigest"}


def nodes(module: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))))
