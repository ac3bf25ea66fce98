.PHONY: test lint soak bench-speed example

test:
	python -m pytest

lint:
	ruff check .
	ruff format --check .
	mypy

soak:
	python tests/soak/kill.py --kills 200

# Timings depend on the machine and on what else it does: by hand, now and then, on an idle machine.
bench-speed:
	python tests/speed/ratios.py loss augmentation steps jobs
	python tests/speed/growth.py
	python tests/speed/large.py

# The committed example: the README's main job as the code stands, its report and records.
example:
	rm -rf results/example out-example
	python run_bench.py --methods finetune,cassle,sycon --scenario class_il --seeds 0-2 --jobs 2 --out out-example
	mkdir -p results/example
	cp -r out-example/records out-example/report results/example/
