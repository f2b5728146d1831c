# Everything below installs what it needs first, and only what is missing (tools/setup.sh).
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-unit test-integration test-real mutation lint api bench status clean

in_sandbox := . .cache/env.sh; test/sandbox/enter.sh

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what is missing: Debian and npm packages, Pulumi's engine, the EC2 emulator
	@tools/setup.sh

demo: setup ## deploy to a throw-away mail host and an EC2 emulator, change a service, probe every port, destroy
	@$(in_sandbox) node .cache/sandbox/test/sandbox/demo.js

test: setup lint ## all tests: formatting, lint, types, unit, integration
	@tools/setup.sh consumer
	@$(in_sandbox) npx jest --selectProjects unit integration

test-all: setup lint ## all tests, each with all of its cases, and those on real hosts; prints a summary
	@tools/setup.sh real
	@tools/containers.sh
	@tools/setup.sh consumer
	@$(in_sandbox) env MAILFW_ALL=1 npx jest --reporters default --reporters ./test/summary.cjs

test-unit: setup ## the tests of pure logic, and of the components with mocks
	@npx jest --selectProjects unit

test-integration: setup ## the tests against the real engine, sshd, kernel and the EC2 emulator; NAME=… picks by file name
	@tools/setup.sh consumer
	@$(in_sandbox) npx jest --selectProjects integration $(if $(NAME),--testPathPattern '$(NAME)')

test-real: setup ## the tests on Debians that boot (systemd, ufw, fail2ban, Postfix, Dovecot), and with Docker and Podman; NAME=… picks by file name
	@tools/setup.sh real
	@tools/containers.sh
	@$(in_sandbox) npx jest --selectProjects real $(if $(NAME),--testPathPattern '$(NAME)')

mutation: setup ## change one expression of the policy or a renderer at a time, and count what the unit tests find
	@npx stryker run test/mutation/stryker.config.mjs

lint: setup ## formatting, lint, types, shellcheck, and whether docs/api.md is what the sources say
	@$(MAKE) --no-print-directory .cache/eslint.ok & eslint=$$!; \
	$(MAKE) --no-print-directory .cache/api/api.md; \
	diff docs/api.md .cache/api/api.md || { echo "docs/api.md is old; write it anew: make api" >&2; exit 1; }; \
	npx prettier --check --log-level warn --cache --cache-location .cache/prettier .; \
	npx tsc -p . --noEmit --incremental --tsBuildInfoFile .cache/tsc.program; \
	npx tsc -p test --incremental --tsBuildInfoFile .cache/tsc.test; \
	wait $$eslint
	@node -p 'require("./dist/components/host/script.js").scriptText' >.cache/mail-firewall.sh
	@shellcheck .cache/mail-firewall.sh test/sandbox/enter.sh tools/*.sh .ci/run

# What takes long and reads nothing but these runs again when one of them has changed.
linted := $(shell find . \( -name node_modules -o -name .cache -o -name dist -o -name '.dist.*.new' -o -name .git \) -prune -o \
	-type f \( -name '*.ts' -o -name '*.?js' -o -name '*.js' -o -name '*.json' \) -print)

.cache/eslint.ok: $(linted)
	@npx eslint .
	@touch $@

.cache/api/api.md: $(linted)
	@npx typedoc --logLevel Warn

api: setup .cache/api/api.md ## write docs/api.md anew, from the comments in the sources
	@cp .cache/api/api.md docs/api.md

bench: setup ## measure a preview's start-up against an empty TypeScript program
	@. .cache/env.sh; node .cache/sandbox/bench/startup.js

status: ## ask the hosts of STACK=… how they differ from what was deployed; changes nothing
	@tools/setup.sh program >&2
	@. .cache/program-env.sh; node dist/cli/main.js status $(if $(STACK),--stack $(STACK)) $(if $(JSON),--json)

clean: ## remove what was built in this checkout
	rm -rf dist .dist.*.new .cache coverage node_modules
