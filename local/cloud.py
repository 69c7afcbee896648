"""The whole stack of a template on this machine, without Docker and without AWS."""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from threading import Thread, Timer
from typing import Any, BinaryIO, Self

from local.aws import Aws, start_moto
from local.custom_resources import create_custom_resource
from local.events import Sources
from local.gateway import Gateway, Route, routes_of
from local.lambdas import Function
from local.processes import Child, base_environment, listen, port_of
from local.resources import MEANINGLESS, Resources
from local.settings import REGION, ROOT, LaptopCloudError
from local.template import Document, Stack, TemplateError, load, parameter_values, translate

DEFAULT_CREDENTIALS = {
    "KOPOKOPO_CLIENT_ID": "local-client-id",
    "KOPOKOPO_CLIENT_SECRET": "local-client-secret",
    "KOPOKOPO_API_KEY": "local-api-key",
}
CUSTOM_RESOURCE = "AWS::CloudFormation::CustomResource"
SIMULATOR_START = 20.0  # seconds


class LaptopCloud:
    """Runs what a SAM template describes, as a context manager.

        with LaptopCloud(Path("template.yaml")) as cloud:
            requests.post(cloud.outputs["ApiUrl"] + "/reversals", json=..., timeout=30)
            cloud.functions["ReconcileFunction"].invoke({})

    Everything binds to 127.0.0.1; a port of 0 is a free one. If it cannot run, entering raises a LaptopCloudError,
    whose message says what to change.

    Args:
        simulator: True starts Kopo Kopo's simulator, unless `environ` has a KOPOKOPO_API_URL; a URL stands in for both;
            None leaves the template's own origins alone.
        parameters: Template parameters, over the template's defaults and the laptop's own values.
        state_dir: Takes the logs, in `logs/<API port>/`.
        environ: Where KOPOKOPO_* and AWS_ENDPOINT_URL* are looked up.
        adjust: What a function runs with instead, from its logical id and the properties that the template gives it:
            for a test that puts something between the functions and the rest.

    Attributes:
        outputs: The template's outputs, and ApiUrl, SimulatorUrl (empty: none was started), AwsEndpointUrl, Region.
        functions: By logical id.
        logs: The folder of the logs.
    """

    outputs: dict[str, str]
    functions: dict[str, Function]
    logs: Path

    def __init__(
        self,
        template: Path = ROOT / "template.yaml",
        *,
        api_port: int = 0,
        aws_port: int = 0,
        simulator_port: int = 0,
        simulator: str | bool | None = True,
        parameters: Mapping[str, str] | None = None,
        state_dir: Path = ROOT / ".local",
        environ: Mapping[str, str] = os.environ,
        adjust: Callable[[str, Document], Document] = lambda _, properties: properties,
    ) -> None:
        self._template = template
        self._api_port, self._aws_port, self._simulator_port = api_port, aws_port, simulator_port
        self._simulator = simulator
        self._parameters = parameters or {}
        self._state_dir = state_dir
        self._environ = environ
        self._adjust = adjust
        self._credentials = {name: environ.get(name) or value for name, value in DEFAULT_CREDENTIALS.items()}
        self._running = ExitStack()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything at once; harmless if it has ended."""
        self._running.close()

    def client(self, service: str) -> Any:
        """A boto3 client of this cloud's AWS."""
        return self._aws.client(service)

    def _start(self) -> None:
        api = self._running.enter_context(listen(self._api_port, "API_PORT"))
        api_url = f"http://127.0.0.1:{port_of(api)}"
        self.logs = self._state_dir.resolve() / "logs" / str(port_of(api))
        shutil.rmtree(self.logs, ignore_errors=True)
        self.logs.mkdir(parents=True)
        aws_url = self._environ.get("AWS_ENDPOINT_URL") or self._start_moto()
        self._aws = Aws(aws_url, self._environ)
        simulator_url, origins = self._find_kopokopo()

        document = load(self._template)
        parameters = parameter_values(document, self._parameters, {**origins, "CallbackBaseUrl": api_url})
        translated = translate(document, self._template, parameters)
        stack = Stack(translated, parameters, Resources(self._aws, self._secrets()).create, MEANINGLESS)
        stack.create()

        # They end in the opposite order: nothing new begins, the functions are killed, who waited for them is done.
        sources = Sources()
        self._running.callback(sources.join)
        self.functions = self._functions(stack)
        self._running.callback(sources.stop)
        gateway = Gateway(api, self._routes(stack))
        self._running.callback(gateway.stop)
        for name, properties in stack.of_type(CUSTOM_RESOURCE):
            create_custom_resource(name, CUSTOM_RESOURCE, properties, self._function(properties["ServiceToken"]))
        sources.start(stack, self._aws, self._function)
        self.outputs = {
            **stack.outputs(),
            "ApiUrl": api_url,
            "SimulatorUrl": simulator_url,
            "AwsEndpointUrl": aws_url,
            "Region": REGION,
        }

    def _start_moto(self) -> str:
        with listen(self._aws_port, "AWS_PORT") as listener, self._log("moto") as log:
            moto = start_moto(listener, self._environ, log)
            self._running.callback(moto.close)
            return f"http://127.0.0.1:{port_of(listener)}"

    def _find_kopokopo(self) -> tuple[str, dict[str, str]]:
        """The simulator's URL, if one is started, and the template's parameters that say where Kopo Kopo is."""
        given = self._simulator if isinstance(self._simulator, str) else self._environ.get("KOPOKOPO_API_URL")
        started = self._start_simulator() if self._simulator and not given else ""
        if not (api := given or started):
            return "", {}
        auth = self._environ.get("KOPOKOPO_AUTH_URL") or api
        origins = {"KopoKopoApiUrl": api, "KopoKopoAuthUrl": auth}
        # Only our own simulator is asked for webhooks: the sandbox could not reach this machine.
        return started, {**origins, "WebhookScope": "company"} if started else origins

    def _start_simulator(self) -> str:
        with listen(self._simulator_port, "SIMULATOR_PORT") as probe:
            port = str(port_of(probe))
        environment = base_environment(self._environ) | self._credentials
        with self._log("simulator") as log:
            simulator = Child(
                "local.simulator", "--port", port, environment=environment, log=log, stdout=subprocess.PIPE
            )
        self._running.callback(simulator.close)
        output: Any = simulator.process.stdout
        watchdog = Timer(SIMULATOR_START, simulator.kill)
        watchdog.daemon = True
        watchdog.start()
        ready: bytes | None = next((line for line in output if line.startswith(b"ready ")), None)
        watchdog.cancel()
        Thread(target=self._keep_output, args=(output,), daemon=True).start()
        if ready is None:
            raise LaptopCloudError(f"The simulator did not start: see {self.logs / 'simulator.log'}.")
        return ready.decode().split()[1]

    def _keep_output(self, output: Any) -> None:
        with output, self._log("simulator") as log:
            shutil.copyfileobj(output, log)

    def _log(self, name: str) -> BinaryIO:
        return (self.logs / f"{name}.log").open("ab")

    def _secrets(self) -> dict[str, Document]:
        client_id, client_secret, api_key = self._credentials.values()
        return {
            "CredentialsSecret": {"client_id": client_id, "client_secret": client_secret},
            "SignatureSecret": {"api_key": api_key},
        }

    def _functions(self, stack: Stack) -> dict[str, Function]:
        environment = base_environment(self._environ) | self._aws.environment()
        functions = {}
        for name, properties in stack.of_type("AWS::Lambda::Function"):
            known_as = stack.attributes(name)
            log = self.logs / f"{name}.log"
            adjusted = self._adjust(name, properties)
            function = Function(name, known_as["Ref"], known_as["Arn"], adjusted, environment, log)
            self._running.callback(function.stop)
            functions[name] = function
        return functions

    def _function(self, reference: str) -> Function:
        """The function that a name or an ARN means, whatever its alias or version."""
        name = reference.rpartition(":function:")[2].partition(":")[0]
        for function in self.functions.values():
            if function.name == name:
                return function
        raise TemplateError(f"{reference} is no function of this template.")

    def _routes(self, stack: Stack) -> list[Route]:
        apis = list(stack.of_type("AWS::ApiGatewayV2::Api"))
        if len(apis) > 1:
            raise TemplateError("A laptop serves one API; the template has several.")
        return routes_of(apis[0][1]["Body"], self._function) if apis else []
