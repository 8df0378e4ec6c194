# Every target sets itself up: the environments are made when they are missing and again when pyproject.toml changes.
# Needed: python3 3.11 or later (with venv), git and make. PYTHON=/path/to/python3 chooses another Python.

PYTHON =
PY = .venv/bin/python
DEMO_PY = .venv-demo/bin/python
FUZZ_PY = .venv-fuzz/bin/python
DOCS_PY = .venv-docs/bin/python
PACK_PY = .venv-pack/bin/python
# The demo shows what users get, and quickly: the base install, no tools of the developers'.
DEV_STAMP = .venv/.stamp
DEMO_STAMP = .venv-demo/.stamp
LAB_STAMP = .venv-demo/.stamp-gitlab
FORGE_STAMP = build/forge/.stamp
FUZZ_STAMP = .venv-fuzz/.stamp
DOCS_STAMP = .venv-docs/.stamp
PACK_STAMP = .venv-pack/.stamp

# In CI a test that was skipped is a failure, unless its reason begins with "allowed:".
PYTEST = $(PY) -m pytest $(if $(RUNNER_CI),-p tests.no_skips -rsfE)
WITH_SLOW = not (faults or simulate or peers or nightly)
# Five on two cores: many tests wait, for processes and for time.
JOBS = 5
# Of fuzzing, all targets together. `make test` replays the corpus, which is all that a change is judged by; luck is looked for at night.
SECONDS = 60

# Tests make thousands of small files, which are gone after them: they are kept in memory where it has room for 8 GB of them and
# what lies there may be run.
export PYTEST_DEBUG_TEMPROOT ?= $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8000000' | grep -q . && \
	made=$$(mktemp /dev/shm/runner.XXXXXX) && chmod +x $$made && $$made && echo /dev/shm; rm -f $$made)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-attack demo-forge picture picture-request test slow nightly long faults simulate contention soak forge containers check fix bench bench-agent peers golden deep fuzz fuzz-keep schemas histories cassettes build dist docs clean ci

help:
	@echo 'For each change:'
	@echo '  make check           formatting, lint, types, import rules'
	@echo '  make fix             format, and fix what the linter can fix'
	@echo '  make test            the test suite, without the slow tests; SLOW=1 with them'
	@echo '  make golden          rewrite the golden files; review the diff'
	@echo '  make schemas         write schemas/ anew from the models'
	@echo '  make histories       store the histories that are listed and not stored yet (tests/histories)'
	@echo '  make ci              the jobs of CI, or TARGETS="check test"; as root on Debian it installs what is missing'
	@echo
	@echo 'To see it at work:'
	@echo '  make demo            a model plans and fixes a bug, people steer and sign; in a temporary folder, offline, no model needed'
	@echo '  make demo-attack     six attacks on an approval, and how each ended; needs ssh-keygen'
	@echo '  make demo-forge      two people, a pipeline and a merge request, from an empty project to merged; needs ssh-keygen'
	@echo
	@echo 'More tests:'
	@echo '  make slow            the slow tests (some fetch from the package index)'
	@echo '  make long            a soak, three runners at one server, test suites of real projects, and docs/exercises'
	@echo '  make nightly         everything, in full: for hours'
	@echo '  make faults          kill and starve the runner at points that move with the commit; KILLS=320 POINTS=100 at hundreds, AT=git:rename:17'
	@echo '                       at that one; Linux on x86-64, as root for a full file system'
	@echo '  make simulate        many runners, one remote, some hundred seeds; SEEDS=0..999 a thousand, SEEDS=17..17 one, decision by decision'
	@echo '  make contention      eight runners, twenty steps each, at one git server, over HTTP and ssh; needs sshd (SIZE=8x20)'
	@echo '  make soak            watch 1,000 protocols through 10,000 transitions; PROTOCOLS=100 fewer of them'
	@echo '  make forge           forge and CI tests against programs of others; fetches 120 MB by npm (0.7 GB unpacked), needs rsync and jq'
	@echo '  make containers      the suite of sandboxes, attacks too, with podman; where no container starts it is left out'
	@echo '  make peers           tools of other people: agents on the tasks of benchmarks/agent, and what a kill or an approval does to others; fetches 2.3 GB'
	@echo '  make deep            the property tests with many more examples'
	@echo '  make fuzz            fuzz every reader of untrusted bytes; SECONDS=600 in all, TARGETS="log plan" some of them, SEED=7 the same each time'
	@echo '  make fuzz-keep       add the inputs that fuzzing found to tests/fuzz/corpus/'
	@echo
	@echo 'Measurements:'
	@echo '  make bench           measure, as ratios in one run'
	@echo '  make bench-agent     the runner and other agents on bugs and features of 15 whole packages; fetches them too'
	@echo
	@echo 'Built and recorded files:'
	@echo '  make build           wheel and sdist into dist/'
	@echo '  make dist            the runner and all that it needs in one file, dist/runner-PLATFORM.pex, for each Python that is here'
	@echo '  make docs            the documentation as a site in build/site; a link or an anchor that leads nowhere fails'
	@echo '  make cassettes       make the recorded answers anew, byte for byte; needs bubblewrap'
	@echo '  make picture         docs/demo.svg and docs/audit.png anew, from the output of the demo; needs Chromium'
	@echo '  make picture-request docs/request.png anew, from the page that the runner writes in demo-forge; needs Chromium'
	@echo '  make clean           remove environments, caches and dist/'

demo: $(DEMO_STAMP)
	@$(DEMO_PY) demo/demo.py

demo-attack: $(DEMO_STAMP)
	@$(DEMO_PY) demo/attack.py

demo-forge: $(LAB_STAMP)
	@$(DEMO_PY) demo/forge.py

picture: $(DEMO_STAMP)
	$(DEMO_PY) demo/demo.py > .venv-demo/shown.txt
	$(DEMO_PY) demo/picture.py .venv-demo/shown.txt docs/demo.svg
	$(DEMO_PY) demo/page.py chromium docs/audit.png

picture-request: $(LAB_STAMP)
	rm -rf .venv-demo/pages
	$(DEMO_PY) demo/forge.py --pages .venv-demo/pages
	$(DEMO_PY) demo/request_picture.py .venv-demo/pages 3-call docs/request.png

# SLOW=1: the slow ones too, in one collection and one pool of workers, as CI does.
test: $(DEV_STAMP)
	$(PYTEST) $(if $(RUNNER_CI),--cache-clear) -n $(JOBS) --dist worksteal $(if $(SLOW),--timeout 900 -m '$(WITH_SLOW)') $(if $(UPDATE_LONG),--update-long) \
		$(if $(RUNNER_CI),|| $(PY) -m tests.again -p tests.no_skips -rs --timeout 900 -m '$(WITH_SLOW)')

slow: $(DEV_STAMP)
	$(PYTEST) -n $(JOBS) --dist worksteal -m 'slow and not nightly' --timeout 900

# All of everything, with a seed of the day, one after the other whatever fails. What fails becomes a point of the gate: CONTRIBUTING.md
# says where. A seed of the day: the days since 1970.
nightly: DAY := $(shell expr $$(date +%s) / 86400)
nightly: export RUNNER_WHOLE = 1
nightly: export RUNNER_TURN = $(DAY)
nightly: $(DEV_STAMP)
	@failed=; \
	for target in \
		'test SLOW=1' 'faults KILLS=320 POINTS=100' 'simulate SEEDS=0..999' 'simulate SEEDS=$(DAY)000..$(DAY)999' simulate \
		long contention 'fuzz SECONDS=600 SEED=$(DAY)' forge containers peers; \
	do \
		echo "== make $$target"; started=$$(date +%s); \
		$(MAKE) $$target || failed="$$failed; $$target"; \
		echo "== make $$target: $$(($$(date +%s) - started)) s"; \
	done; \
	test -z "$$failed" || { echo "error: failed$$failed (RUNNER_TURN=$(DAY))" >&2; exit 1; }

# The soak with 100 protocols, three runners at one server, suites of real projects, and the patches of docs/exercises.
long: $(DEV_STAMP)
	$(PYTEST) -s -m nightly

# A window of the points of each sweep, which moves with the commit, and those that are always tried (tests/faults/points.py).
# KILLS: of SIGKILL; POINTS: of SIGTERM, and of a machine that is gone. AT='git:rename:17' tries that point alone.
faults: KILLS = 40
faults: POINTS = 16
faults: $(DEV_STAMP)
	RUNNER_KILLS=$(KILLS) RUNNER_POINTS=$(POINTS) RUNNER_AT='$(AT)' $(PYTEST) -n 2 --dist worksteal -s -m faults tests/faults

# Without SEEDS: a window that moves with the commit, the seeds that once found something, and the bugs planted to be found.
simulate: $(DEV_STAMP)
	PYTHONHASHSEED=0 $(PY) -m tests.simulation $(SEEDS)
	$(if $(SEEDS),,PYTHONHASHSEED=0 $(PYTEST) -n 2 -m simulate tests/simulation)

contention: SIZE = 8x20
contention: $(DEV_STAMP)
	RUNNER_CONTENTION=$(SIZE) $(PYTEST) -m nightly -s tests/contention

PROTOCOLS = 1000

soak: $(DEV_STAMP)
	$(PY) -m tests.slow.soak $(PROTOCOLS)

forge: $(DEV_STAMP) $(FORGE_STAMP)
	$(PYTEST) -n 3 --dist worksteal -m peers tests/forge tests/ci tests/docs tests/test_demo.py

containers: $(DEV_STAMP)
	$(PYTEST) -m peers tests/sandbox tests/cli/test_container.py

check: $(DEV_STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	.venv/bin/lint-imports

fix: $(DEV_STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(DEV_STAMP)
	$(PY) -m benchmarks

# Scripted answers. TASKS='more-itertools-bug' does this only; ARGS='--jobs 3' three tasks at a time; ARGS='--gemini MODEL' asks a model, with GEMINI_API_KEY.
bench-agent: $(DEV_STAMP)
	$(PY) -m benchmarks.peers --packages $(ARGS) $(TASKS)

# TASKS='encode-hex range-end' does these only.
peers: $(DEV_STAMP)
	$(PY) -m benchmarks.peers $(TASKS)
	$(PYTEST) -n 2 --dist worksteal -m peers tests/peers

golden: $(DEV_STAMP)
	$(PYTEST) -n $(JOBS) --update-golden

deep: $(DEV_STAMP)
	$(PYTEST) -n $(JOBS) --hypothesis-profile deep --timeout 3600

fuzz: $(FUZZ_STAMP)
	$(FUZZ_PY) -m tests.fuzz run --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(TARGETS)

fuzz-keep: $(FUZZ_STAMP)
	$(FUZZ_PY) -m tests.fuzz keep $(TARGETS)

cassettes: $(DEV_STAMP)
	$(PY) -m tests.engines.cassettes
	$(PY) demo/record.py
	$(PY) -m benchmarks.agent.record
	$(PY) -m tests.cli.discovering

schemas: $(DEV_STAMP)
	$(PY) -m scripts.schemas

histories: $(DEV_STAMP)
	$(PY) -m tests.histories $(NAMES)

build: $(DEV_STAMP)
	rm -rf dist
	$(PY) -m build --outdir dist .

# With the models' and forges' packages. pip makes the wheels, and pex packs those alone: it asks no index for a package of our name.
PYTHONS = $(shell for v in 3.11 3.12 3.13 3.14; do python$$v -c 0 2>/dev/null && command -v python$$v || true; done)
PACKED = protocol-runner[gemini,openai,anthropic,github,gitlab]
PEX = dist/runner-$(shell uname -s | tr A-Z a-z)-$(shell uname -m).pex
# What pex 2 itself needs for this version of pip, which knows each of these Pythons.
PEX_NEEDS = pip==24.1 setuptools==70.1.0 wheel==0.43.0

dist: $(PACK_STAMP)
	@test -n "$(PYTHONS)" || { echo "error: no python3.11 or later was found; name some: make dist PYTHONS=/path/to/python3" >&2; exit 1; }
	rm -rf build/wheels && mkdir -p build/wheels dist
	$(PACK_PY) -m pip download -q --no-deps -d build/wheels $(PEX_NEEDS)
	for python in $(PYTHONS); do \
		$(PACK_PY) -m pip --python "$$python" wheel -q -f build/wheels -w build/wheels '$(PACKED) @ file://$(CURDIR)' || exit 1; \
	done
	.venv-pack/bin/pex --no-index --find-links build/wheels --pip-version 24.1 $(PYTHONS:%=--python %) \
		--python-shebang '/usr/bin/env python3' --venv -c runner '$(PACKED)' -o $(PEX)
	@for python in $(PYTHONS); do PEX_ROOT=build/pex "$$python" $(PEX) --version && echo "  by $$python" || exit 1; done; rm -rf build/pex

docs: $(DOCS_STAMP)
	$(DOCS_PY) -m scripts.site

ci:
	.ci/run $(TARGETS)

clean:
	rm -rf .venv .venv-demo .venv-docs .venv-fuzz .venv-pack dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Prints what is missing and stops, or leaves the path of a fit Python in $$python.
find_python = \
	command -v git >/dev/null 2>&1 || { echo 'error: git is not installed; install git 2.38 or later' >&2; exit 1; }; \
	python=; \
	for p in $(if $(PYTHON),"$(PYTHON)",python3 python3.14 python3.13 python3.12 python3.11); do \
		if "$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$p; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'error: no Python 3.11 or later was found; install one, or name it: make PYTHON=/path/to/python3' >&2; exit 1; \
	fi; \
	"$$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || { \
		echo "error: $$python cannot make environments; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

# $(1): the environment's folder, $(2): what to install. It ignores itself, so it is no change of the checkout.
define environment
	@$(find_python); \
	echo "setting up $(1) with $$python" >&2; \
	"$$python" -m venv $(1) && echo '*' > $(1)/.gitignore && $(1)/bin/python -m pip install -qq -e '$(2)' && touch $@
endef

$(DEV_STAMP): pyproject.toml
	$(call environment,.venv,.[dev])

$(DEMO_STAMP): pyproject.toml
	$(call environment,.venv-demo,.)

$(LAB_STAMP): $(DEMO_STAMP)
	@echo 'adding the extra for GitLab to .venv-demo' >&2; $(DEMO_PY) -m pip install -qq -e '.[gitlab]' && touch $@

$(FORGE_STAMP): tests/forge/package.json
	@for p in npm rsync jq; do \
		command -v $$p >/dev/null 2>&1 || { echo "error: $$p is not installed; the forge tests need npm (with node), rsync and jq" >&2; exit 1; }; \
	done
	rm -rf build/forge && mkdir -p build/forge && cp tests/forge/package.json build/forge/
	@npm view emulate@0.12.2 version --fetch-timeout=20000 --fetch-retries=1 --loglevel=error >/dev/null || \
		{ echo 'error: the registry of npm does not answer; see `npm ping`' >&2; exit 1; }
	@# By environment, for npm within npm too. Its own patience is five minutes an attempt, for one package after another.
	npm_config_fetch_timeout=120000 npm_config_fetch_retries=1 \
		npm install --prefix build/forge --no-audit --no-fund --no-package-lock --loglevel=error
	touch $@

$(FUZZ_STAMP): pyproject.toml
	$(call environment,.venv-fuzz,.[fuzz])

$(PACK_STAMP): Makefile
	@$(find_python); "$$python" -m venv .venv-pack && echo '*' > .venv-pack/.gitignore && $(PACK_PY) -m pip install -qq 'pex>=2.100,<3' && touch $@

$(DOCS_STAMP): pyproject.toml
	$(call environment,.venv-docs,.[docs])
