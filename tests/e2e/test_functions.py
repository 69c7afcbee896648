"""A function whose child dies while it answers: half an answer is none."""

import os
from pathlib import Path

import pytest

from local.lambdas import Function, FunctionError
from local.processes import base_environment

# In the place of AWS's runtime client: takes one event, sends what it was told to of its answer, and is gone.
RUNTIME = """
import os, signal, socket, sys
host, port = os.environ["AWS_LAMBDA_RUNTIME_API"].split(":")
with socket.create_connection((host, int(port))) as connection:
    connection.sendall(b"GET /2018-06-01/runtime/invocation/next HTTP/1.1\\r\\n\\r\\n")
    connection.recv(65536)
    connection.sendall({answer!r})
os.kill(os.getpid(), signal.SIGKILL)
"""
ANSWER = b'POST /2018-06-01/runtime/invocation/1/response HTTP/1.1\r\nContent-Length: 12\r\n\r\n{"n": "all"}'


def function(folder: Path, answer: bytes) -> Function:
    (folder / "awslambdaric.py").write_text(RUNTIME.format(answer=answer))
    properties = {"Runtime": "python3.13", "Handler": "app.handler", "Code": {"S3Key": str(folder)}}
    return Function("Dying", "dying", "arn", properties, base_environment(os.environ), folder / "log")


def test_a_whole_answer_counts_though_the_child_is_gone(tmp_path: Path) -> None:
    dying = function(tmp_path, ANSWER)
    assert dying.invoke({}) == {"n": "all"}
    dying.stop()


@pytest.mark.parametrize("sent", [*range(0, len(ANSWER), 7), len(ANSWER) - 1])
def test_half_an_answer_is_the_end_of_the_child(tmp_path: Path, sent: int) -> None:
    dying = function(tmp_path, ANSWER[:sent])
    with pytest.raises(FunctionError, match=r"Runtime.ExitError: .* signal 9"):
        dying.invoke({})
    assert dying.pids == []
