# `make bench`: the model, the server, the measurement (docs/benchmarks.md).
#   LAYERS=32            BioMistral-7B's full depth; 8 by default, a quarter of its cost
#   PEER=http://…        a second server with the same model, measured in turns
#   BENCH="--quick …"    further options of `stent bench`
#   SET="engine.slots=4" further settings of the server

LAYERS ?= 8
BENCH ?=
SET ?=
BENCH_DIR := target/bench
BENCH_MODEL = $(BENCH_DIR)/shape-$(LAYERS).gguf
BENCH_VOCAB := $(BENCH_DIR)/tokenizer.model.v1

.PHONY: bench bench-model

bench: bench-model
	SET="$(SET)" deploy/bench/bench.sh target/release/stent $(BENCH_MODEL) \
	    --json $(BENCH_DIR)/bench.json $(if $(PEER),--peer $(PEER)) $(BENCH)

# Kept when it is complete: `make-model` looks for itself.
bench-model: $(BENCH_VOCAB)
	cargo build --release --bin stent
	target/release/stent bench make-model $(BENCH_MODEL) --layers $(LAYERS) --vocab $(BENCH_VOCAB)

$(BENCH_VOCAB):
	deploy/setup/vocabulary.sh $@
