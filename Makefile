# make lab · run [CHAPTER=03] [MODEL=gpt2-small] · test · sync [CHAPTER=03] [EXECUTE=1] · bench
PYTHON ?= python3
COURSE = .venv/bin/python

.PHONY: lab run test sync bench

.venv/ready: requirements.txt constraints.txt pyproject.toml utils/install.py
	@$(PYTHON) -m utils.install

lab: .venv/ready
	$(COURSE) -m jupyterlab chapters

run: .venv/ready
	@$(COURSE) -m utils.notebooks run $(CHAPTER)

test: .venv/ready
	$(COURSE) -m ruff check . && $(COURSE) -m ruff format --check . && $(COURSE) -m utils.notebooks check
	$(COURSE) -m pytest --nbval --nbval-current-env tests solutions

sync: .venv/ready
	@$(COURSE) -m utils.notebooks sync $(if $(EXECUTE),--execute) $(CHAPTER)

bench: .venv/ready
	$(COURSE) -m utils.bench
