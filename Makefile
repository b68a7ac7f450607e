# make lab · progress · run [CHAPTER=03] [MODEL=gpt2-small] · setup · doctor · kit OUT=folder · check · test · test-browser · test-matrix
#      mutants · bench · sync [CHAPTER=03] [EXECUTE=1] · address REPOSITORY=owner/name [BRANCH=main] · constraints · site
# ARGS=... is passed on: make doctor ARGS=--json
# Windows, or no make: py -m utils.course.run lab (python3 elsewhere); it uses .venv\Scripts\python.exe or .venv/bin/python.
PYTHON ?= python3
COURSE = @$(PYTHON) -m utils.course.run

.PHONY: lab progress run setup doctor check test test-browser test-matrix mutants sync address constraints bench kit site

lab progress setup doctor check test test-browser test-matrix mutants constraints bench site:
	$(COURSE) $@ $(ARGS)

run:
	$(COURSE) run $(CHAPTER)

address:
	$(COURSE) address $(REPOSITORY) $(if $(BRANCH),--branch $(BRANCH))

sync:
	$(COURSE) sync $(if $(EXECUTE),--execute) $(CHAPTER)

kit:
	$(COURSE) kit $(OUT) $(CHAPTER) $(ARGS)
