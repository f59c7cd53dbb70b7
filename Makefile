# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up what it needs; a second call is quick.
VENV ?= .venv
WORKERS ?= 2
PY := $(VENV)/bin/python
export PYTHON

.PHONY: demo demo-chat demo-serve test check format slow robustness oracle lite bench docs venv kernels help

help:
	@echo "make demo     set up, fine-tune a small ChatGLM3 before your eyes, write an advertisement (PRODUCT='...')"
	@echo "make demo-chat    tune a small ChatGLM3 to call a tool, and talk to it"
	@echo "make demo-serve   what make demo has trained, behind OpenAI's interface and with a page (PORT=8000)"
	@echo "make test     set up and run the tests"
	@echo "make check    formatting, lint, who imports whom, types"
	@echo "make slow     the long proofs            make oracle   parity with torch and transformers"
	@echo "make robustness  some thousand wrong inputs: each refused in one clear line, or rightly accepted"
	@echo "make bench    how fast this machine trains and generates, in under five minutes (docs/speed.md)"
	@echo "make docs     the documents as a site, in build/site"
	@echo "make lite     set up MindSpore Lite (needs a Python 3.7) and run its tests, the long ones too"

venv:
	@scripts/set_up_venv.sh $(VENV)

# for every kind of CPU, as the tests want them; venv has those for this one
kernels: venv
	@$(PY) mindformers_glm/ops/kernels/build.py || true

demo: venv
	@$(PY) demo/run_demo.py $${PRODUCT:+--product "$$PRODUCT"}

demo-chat: venv
	@$(PY) demo/run_tool.py

demo-serve: venv
	@$(PY) demo/run_server.py $${PORT:+--port "$$PORT"}

# two workers; what starts processes of its own stays in one of them (tests/conftest.py). Bytecode is kept whatever the
# environment says: a hundred processes import the package. A graph is compiled from very many small objects: glibc keeps
# what is freed of them at hand, in large pages, which takes a sixth off the time
test: export PYTHONDONTWRITEBYTECODE =
test: export GLIBC_TUNABLES = glibc.malloc.tcache_count=60000:glibc.malloc.mxfast=0:glibc.malloc.top_pad=67108864:glibc.malloc.trim_threshold=4000000000:glibc.malloc.hugetlb=1
test: kernels
	@$(PY) -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder --durations 10

check: venv
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(VENV)/bin/lint-imports --no-cache > $(VENV)/lint-imports.log 2>&1 || { cat $(VENV)/lint-imports.log; exit 1; }
	@$(PY) -m mypy --no-error-summary
	@$(PY) -m mindformers_glm.ops.kernels.build --check

format: venv
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

slow: kernels
	@$(PY) -m pytest -m slow

lite: kernels
	@scripts/set_up_lite.sh > /dev/null
	@GLM_REQUIRE_ALL=1 $(PY) -m pytest tests/export tests/tools/test_run_infer_main.py tests/tools/test_export_tool.py -m "not ascend"

bench: venv
	@for what in start train "train --lora" prefill decode "decode --dtype int8" "decode --dtype int4" ops; do \
		$(PY) -m mindformers_glm.benchmark $$what || exit; \
	done

docs: venv
	@mkdir -p build
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict > build/docs.log 2>&1 || { cat build/docs.log; exit 1; }
	@echo "build/site/index.html"

robustness: kernels
	@$(PY) -m pytest -m slow -s tests/robustness

oracle:
	@scripts/set_up_venv.sh .venv-oracle oracle
	@.venv-oracle/bin/python -m pytest -m oracle
