# The commands of the house. `make help` lists them.
#
#   ODMR_INTEROP   required: a missing program (those that interop-packages installs) fails the tests;
#                  otherwise what is missing is skipped by name
#   CRASH_SEEDS    for the crash test of the store (default 300; 3000 in `make crash`)
#   SEEDS, FROM    how many seeds `make sim` runs, and the first of them
#   FUZZTIME       for each fuzz target of `make fuzz` (default 30s)

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
FUZZTIME ?= 30s
CRASH_SEEDS ?= 300
SEEDS ?= 2000
FROM ?= 1000

# The longest package takes minutes on a small machine; a hang must still end.
TEST := $(GO) test -timeout 30m
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo unversioned)
LDFLAGS  := -X main.version=$(VERSION)

# Packages whose tests run under the race detector: all in which goroutines share something.
RACE := engine internal/account internal/admin internal/metrics queue

# Tests against other programs are called TestInterop...; everything else must pass without them.

## help: show this list
.PHONY: help
help:
	@sed -n 's/^## /  make /p' $(MAKEFILE_LIST)

## run: start a server with an example account, hand mail in, collect it, keep serving
.PHONY: run
run: build
	@$(GO) build -o bin/ ./internal/demo
	@bin/demo --bin bin

## build: bin/odmrd, bin/odmrctl, bin/odmrget, bin/odmrbench
.PHONY: build
build:
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

## test: everything: unit, scenario, conformance, fuzz seeds, crash seeds, race, binaries, interop
.PHONY: test
test: interop-packages
	@race="$$($(GO) list $(patsubst %,./%/...,$(RACE)))"; \
	plain="$$($(GO) list ./... | grep -vxF "$$race" || true)"; \
	echo "# tests"; \
	$(TEST) -skip '^TestInterop' $$plain; \
	echo "# crashes of the store, $(CRASH_SEEDS) seeds"; \
	ODMR_CRASH_SEEDS=$(CRASH_SEEDS) $(TEST) -run '^TestCrash' ./queue/...; \
	if [ "$$($(GO) env CGO_ENABLED)" = 1 ] && command -v gcc >/dev/null; then \
		echo "# tests under the race detector"; \
		ODMR_CRASH_SEEDS=10 $(TEST) -race -skip '^TestInterop' $$race; \
	elif [ "$${ODMR_INTEROP:-}" = required ]; then \
		echo "the race detector needs gcc"; exit 1; \
	else \
		echo "# tests (no gcc: without the race detector)"; \
		$(TEST) -skip '^TestInterop' $$race; \
	fi
	@$(MAKE) --no-print-directory interop

## interop: only the tests against fetchmail, Postfix, Exim, Sendmail, OpenSMTPD, databases and other programs
.PHONY: interop
interop: interop-packages
	@echo "# tests against other programs"; \
	log="$$(mktemp)"; trap 'rm -f "$$log"' EXIT; \
	$(TEST) -count=1 -v -run '^TestInterop' $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./...) \
		| tee "$$log" | grep -Ev '^=== |no tests to run|^(PASS|ok .*\[no tests to run\])$$'; \
	if grep -q -- '--- SKIP: ' "$$log"; then \
		echo; echo "skipped here:"; \
		awk '/--- SKIP: / {sub(/^ *[^ ]*: /, "", before); print "  " $$3 ": " before} {before = $$0}' "$$log"; \
	else \
		echo "nothing was skipped"; \
	fi

# Debian's mail servers exclude one another as packages: Postfix is installed, these are unpacked in bin/peers, for
# the tests and for bench.
PEERS      := exim4-daemon-light opensmtpd sendmail-bin sendmail-cf
PEER_USERS := Debian-exim opensmtpd opensmtpq smmta smmsp

# As root on Debian the interop tests' programs are installed, without starting any service. What is there
# already is not touched.
.PHONY: interop-packages
interop-packages:
	@missing=""; peers=""; \
	path="$$PATH:/usr/sbin"; for d in /usr/lib/postgresql/*/bin; do path="$$path:$$d"; done; \
	for p in fetchmail:fetchmail postfix:postfix swaks:swaks openssl:openssl gsasl:gsasl systemd-analyze:systemd promtool:prometheus gcc:gcc \
		initdb:postgresql mariadbd:mariadb-server slapd:slapd ldapadd:ldap-utils m4:m4 adduser:adduser unshare:util-linux; do \
		PATH="$$path" command -v "$${p%%:*}" >/dev/null || missing="$$missing $${p##*:}"; \
	done; \
	perl -MNet::SSLeay -e 1 2>/dev/null || missing="$$missing libnet-ssleay-perl"; \
	[ "$$(cat bin/peers/.unpacked 2>/dev/null)" = "$(PEERS)" ] || peers="$(PEERS)"; \
	if [ -z "$$missing$$peers" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "not installed: $$missing $$peers (needs root on Debian); the tests that need them are skipped"; exit 0; \
	fi; \
	echo "installing$$missing, unpacking $$peers"; \
	policy=/usr/sbin/policy-rc.d; own=""; \
	if [ ! -e $$policy ]; then own=1; printf '#!/bin/sh\nexit 101\n' >$$policy; chmod 755 $$policy; fi; \
	trap '[ -z "$$own" ] || rm -f '$$policy EXIT; \
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	apt-get -qq -o DPkg::Lock::Timeout=600 update; \
	if [ -n "$$peers" ]; then \
		missing="$$missing $$(apt-cache depends exim4-base $$peers | sed -n 's/^ *|\{0,1\}\(Pre\)\{0,1\}Depends: \(lib[^ ]*\)$$/\2/p' | sort -u | tr '\n' ' ')"; \
	fi; \
	apt-get -qq -o DPkg::Lock::Timeout=600 install --no-install-recommends -y $$missing >/dev/null; \
	if [ -z "$$peers" ]; then exit 0; fi; \
	rm -rf bin/peers; mkdir -p bin/peers; cd bin/peers; \
	apt-get -qq -o APT::Sandbox::User=root download $$peers; \
	for d in *.deb; do dpkg -x "$$d" .; rm "$$d"; done; \
	for u in $(PEER_USERS); do \
		getent passwd $$u >/dev/null || adduser --system --group --quiet --no-create-home --home /nonexistent --force-badname $$u; \
	done; \
	chgrp opensmtpq usr/sbin/smtpctl; chmod 2755 usr/sbin/smtpctl; \
	mkdir -p /var/spool/smtpd /var/lib/opensmtpd/empty /usr/libexec/opensmtpd /var/lib/exim4; \
	echo "$(PEERS)" >.unpacked

## check: gofmt, go vet, staticcheck, go mod tidy -diff, the rules of the house
.PHONY: check
check:
	@echo "# gofmt"; bad="$$(gofmt -l $$($(GO) list -f '{{.Dir}}' ./...))"; [ -z "$$bad" ] || { echo "$$bad"; exit 1; }
	@echo "# go vet"; $(GO) vet ./...
	@echo "# staticcheck"; $(GO) tool staticcheck ./...
	@echo "# go mod tidy"; $(GO) mod tidy -diff
	@echo "# rules"; $(GO) test ./internal/tidy

## crash: kill -9, crashed disks and cut lines, many more rounds than in make test
.PHONY: crash
crash:
	ODMR_CRASH=long ODMR_CRASH_SEEDS=3000 ODMR_DROP_CUTS=300 $(GO) test -count=1 -timeout 120m -run 'Crash|DropAnywhere' -v ./queue/... ./internal/...

## sim: the whole server in virtual time, from SEEDS seeds (default 2000) beginning with FROM (default 1000)
.PHONY: sim
sim:
	ODMR_SIM_SEEDS=$(SEEDS) ODMR_SIM_FROM=$(FROM) $(GO) test -count=1 -timeout 120m -run 'TestSim$$' ./internal/sim

## fuzz: every fuzz target in turn, FUZZTIME each
.PHONY: fuzz
fuzz:
	@for p in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' "$$p" | grep '^Fuzz' || true); do \
			echo "# $$p $$f"; \
			$(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$$p"; \
		done; \
	done

## flags: write the table of flags into README.md again
.PHONY: flags
flags:
	$(GO) test ./internal/config -run TestReadme -update

## bench: the load harness against the server and the peers that are installed, about five minutes
.PHONY: bench
bench: build
	bin/odmrbench --save bin/bench.json --report bin/bench.html all

## bench-peers: install or unpack the mail servers that make bench measures beside ours (root on Debian)
.PHONY: bench-peers
bench-peers: interop-packages
	@if [ ! -e bin/peers/.unpacked ]; then echo "bench-peers needs root on Debian"; exit 1; fi; \
	echo "Debian's mail servers conflict with one another: Postfix is installed, the others are unpacked in bin/peers"

## clean: remove what the build made
.PHONY: clean
clean:
	rm -rf bin
