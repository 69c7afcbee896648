"""CloudFormation's custom resources: a function of the stack itself does something when the stack is deployed."""

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Event, Thread
from uuid import uuid4

from local.lambdas import Function, FunctionError
from local.settings import LaptopCloudError
from local.template import PSEUDO_PARAMETERS, Document


def create_custom_resource(logical_id: str, kind: str, properties: Document, function: Function) -> None:
    """Ask the function to create the resource, and wait until it has answered.

    Raises:
        LaptopCloudError: it did not succeed; the message has the reason that it gave.
    """
    done = Event()
    failures: list[FunctionError] = []
    with _Answers(("127.0.0.1", 0), _AnswerHandler) as answers:
        request = {
            "RequestType": "Create",
            "ResponseURL": f"http://127.0.0.1:{answers.server_port}/",
            "StackId": PSEUDO_PARAMETERS["AWS::StackId"],
            "RequestId": str(uuid4()),
            "ResourceType": kind,
            "LogicalResourceId": logical_id,
            "ResourceProperties": properties,
        }

        def ask() -> None:
            try:
                function.invoke(request)
            except FunctionError as error:
                failures.append(error)
            done.set()

        Thread(target=ask, daemon=True).start()
        while answers.answer is None and not done.is_set():
            answers.handle_request()
    answer = answers.answer or {"Reason": f"{function.logical_id} did not answer: {[*map(str, failures)]}"}
    if answer.get("Status") != "SUCCESS":
        raise LaptopCloudError(f"{logical_id} could not be created: {answer.get('Reason')}")


class _Answers(HTTPServer):
    timeout = 0.05  # seconds that handle_request waits for one
    answer: Document | None = None


class _AnswerHandler(BaseHTTPRequestHandler):
    server: _Answers

    def do_PUT(self) -> None:
        self.server.answer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass
