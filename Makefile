# Everything a developer or CI runs. `make demo` and `make test` set up what is missing, by themselves.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The functions run on 3.13; any Python from 3.11 on will do here. Override with `make PYTHON=... VENV=... test`.
PYTHON ?= $(shell for p in python3.13 python3.14 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.ready ## set up what is missing, then play the main job and its hard cases on this machine
	@$(RUN) -m local.demo

.PHONY: test
test: $(VENV)/.ready ## set up what is missing, then run every test
	@$(RUN) -m pytest $(ARGS)

.PHONY: start
start: $(VENV)/.ready ## start the whole system on this machine and stay until Ctrl-C
	@exec $(RUN) -m local

.PHONY: bench
bench: $(VENV)/.ready ## figures as JSON lines, beside floors measured in the same run
	@$(RUN) -m local.bench

# Each ends in one line of figures, and fails on any violation. docs/reliability.md says what they found.
PROVE = @PYTHONPATH=layers/reversals $(RUN) -m tests.proof.

.PHONY: simulate
simulate: $(VENV)/.ready ## 100,000 schedules of everything at once; ARGS="--seed 7" plays one again
	$(PROVE)simulate $(ARGS)

.PHONY: crash
crash: $(VENV)/.ready ## kill the functions, and lose replies, at every call that they make
	$(PROVE)crash $(ARGS)

.PHONY: fuzz
fuzz: $(VENV)/.ready ## hostile input to every open route, and all that docs/openapi.yaml allows or forbids
	$(PROVE)fuzz $(ARGS)

.PHONY: load
load: $(VENV)/.ready ## thousands of reversals with duplicates, losses and kills, accounted for one by one
	$(PROVE)load $(ARGS)

.PHONY: mutants
mutants: $(VENV)/.ready ## do the tests notice when the rules or the signature are changed?
	$(PROVE)mutants $(ARGS)

.PHONY: coverage
coverage: $(VENV)/.ready ## the branches of the package that the quick tests take; all of those of the rules, or it fails
	@$(RUN) -m coverage run -m pytest -q tests/unit tests/integration tests/contract
	@$(RUN) -m coverage report
	@$(RUN) -m coverage report --include='*/rules.py,*/signature.py' --fail-under=100

.PHONY: lint
lint: $(VENV)/.ready ## ruff, mypy, cfn-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy layers/reversals/reversals local tests
	$(VENV)/bin/cfn-lint template.yaml dashboard.yaml

.PHONY: format
format: $(VENV)/.ready ## put the code into the house style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

.PHONY: validate
validate: $(VENV)-sam/.ready ## sam validate --lint
	PATH="$(CURDIR)/$(VENV)-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam validate --lint --region eu-west-1

.PHONY: audit
audit: $(VENV)-checkov/.ready ## checkov: what a review of the template's security asks for
	$(VENV)-checkov/bin/checkov --config-file .checkov.yaml --file template.yaml --framework cloudformation --skip-download --compact --quiet

# sam deploy zips a function's folder as it is, and would take bytecode along.
.PHONY: build
build: $(VENV)/.ready $(VENV)-sam/.ready ## sam build: arm64 artefacts for python3.13, from any machine, and tests of them
	find functions -name __pycache__ -prune -exec rm -rf {} +
	PATH="$(CURDIR)/$(VENV)-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam build
	$(RUN) -m pytest -q tests/build

.PHONY: deploy
deploy: build ## sam deploy; ARGS="--config-env production" for production
	PATH="$(CURDIR)/$(VENV)-sam/bin:$$PATH" SAM_CLI_TELEMETRY=0 sam deploy $(ARGS)

STACK ?= kopokopo-reversals-sandbox

.PHONY: dashboard
dashboard: ## a CloudWatch dashboard for the stack STACK=kopokopo-reversals-sandbox
	aws cloudformation deploy --template-file dashboard.yaml --stack-name "$(STACK)-dashboard" --no-fail-on-empty-changeset \
		--parameter-overrides "StackName=$(STACK)" "ApiId=$$(aws cloudformation describe-stack-resource \
		--stack-name "$(STACK)" --logical-resource-id ReversalsApi --output text \
		--query StackResourceDetail.PhysicalResourceId)"

.PHONY: lock
lock: ## resolve the dependencies again and write the lock files
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	$(LOCK) --universal --python-version 3.11 pyproject.toml --group runtime --group local --group test --group lint -o requirements.lock
	$(LOCK) --universal --python-version 3.11 --group sam -o requirements-sam.lock
	$(LOCK) --universal --python-version 3.11 --group checkov -o requirements-checkov.lock
	$(LOCK) --python-version 3.13 --python-platform aarch64-manylinux_2_28 -c requirements.lock pyproject.toml -o layers/reversals/requirements.txt
LOCK = $(VENV)-lock/bin/uv pip compile --quiet --upgrade --generate-hashes --no-header

.PHONY: clean
clean: ## remove what was built or installed here
	rm -rf $(VENV) $(VENV)-* .aws-sam .local .mypy_cache .pytest_cache .ruff_cache

# A venv is ready when its lock was installed whole; an interrupted install is begun again.
$(VENV)/.ready: requirements.lock
$(VENV)-sam/.ready: requirements-sam.lock
$(VENV)-checkov/.ready: requirements-checkov.lock
$(VENV)/.ready $(VENV)-sam/.ready $(VENV)-checkov/.ready:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found: install it, or run make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(@D) from $< (once; about a minute) ..."
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $< || \
		{ echo "The install failed. Look at the lines above, then run the same command again." >&2; exit 1; }
	@touch $@
