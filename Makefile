# What CI runs is `make check`. Each target also works alone.

GO      ?= go
BIN     := $(CURDIR)/bin
LINT    := $(BIN)/golangci-lint
GOFUMPT := $(BIN)/gofumpt
FUZZTIME ?= 3s

.PHONY: all check format vet lint test race fuzz sdk e2e bench bench-push bench-once tools clean

all: test

check: format vet lint race fuzz sdk e2e bench-once

# The tools are pinned in a module of their own, so that their dependencies stay out of ours.
tools: $(LINT) $(GOFUMPT)
$(LINT): tools/go.mod
	cd tools && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
$(GOFUMPT): tools/go.mod
	cd tools && $(GO) build -o $@ mvdan.cc/gofumpt

format: $(GOFUMPT)
	@out=$$($(GOFUMPT) -l $$(git ls-files '*.go')); if [ -n "$$out" ]; then echo "gofumpt -w these:"; echo "$$out"; exit 1; fi

vet:
	$(GO) vet ./...
	$(GO) vet -tags millrace_crash ./cmd/...
	GOOS=windows $(GO) vet ./cmd/millrace
	GOOS=darwin $(GO) vet ./cmd/millrace

lint: $(LINT)
	$(LINT) run ./...

test:
	$(GO) test ./...

race:
	$(GO) test -race ./...

# Every fuzz target for a moment: the corpus, and whatever FUZZTIME finds. Where the time ends in the middle of an input, go
# test before Go 1.27 may fail with "context deadline exceeded" (go.dev/issue/75804); what it finds it writes down, and says so.
fuzz:
	@set -e; for package in $$($(GO) list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.Dir}}{{end}}' ./...); do \
		for target in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$package/*_test.go | cut -c6- | sort -u); do \
			echo "fuzz $${package#$(CURDIR)/} $$target"; \
			said=$$($(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package 2>&1) && failed= || failed=yes; \
			echo "$$said"; \
			case "$$failed,$$said" in \
				,*) ;; \
				*"Failing input written"*|*"seed corpus entry"*) exit 1 ;; \
				*"    context deadline exceeded"*) echo "nothing was found" ;; \
				*) exit 1 ;; \
			esac; \
		done; \
	done

# The types of sdk/js, where there is npm and what it needs can be fetched; its tests run with the others.
sdk:
	@command -v npm >/dev/null || { echo "there is no npm here: the types of sdk/js are not checked"; exit 0; }; \
	cd sdk/js; \
	[ -e node_modules/.bin/tsc ] || out=$$(npm ci --no-audit --no-fund 2>&1) || { \
		echo "$$out" | head -n 12; \
		case $$out in *EUSAGE*) exit 1;; esac; `# the lock file is not that of package.json` \
		echo "npm ci failed: the types of sdk/js are not checked"; exit 0; \
	}; \
	npx --no-install tsc

# The long form of the end-to-end tests: more kills, a browser where there is one.
e2e:
	MILLRACE_E2E=long $(GO) test -count 1 ./e2e/...

bench-once:
	$(GO) test -run '^$$' -bench . -benchtime 1x ./...

# The figures of bench/README.md.
bench:
	$(GO) test -run '^$$' -bench . -count 5 -timeout 60m ./bench/ | tee bench/results/latest.txt
	cd bench/baseline && $(GO) test -run '^$$' -bench . -count 5 . | tee -a ../results/latest.txt

# The gateway against other push servers, Linux only; bench/README.md says more. It takes over an hour.
bench-push:
	$(GO) run ./bench/push all -o bench/results/latest-push.txt

clean:
	rm -rf $(BIN)
