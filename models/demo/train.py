"""Trains the demo model from the corpus, on a CPU, from nothing to a GGUF.

    python train.py                  # a full run; the result is stent-demo.gguf
    python train.py --resume         # goes on from work/checkpoint.pkl
    python train.py --only-refine    # only the second part, from work/weights.pkl

The learning rate warms up, stays, and falls to zero over the last part of `--steps`. A checkpoint is
taken before the fall, so a longer run can go on from there. A second, shorter climb and fall of
`--refine` steps then mends the answers that the first one left unsure.
"""

from __future__ import annotations

import argparse
import functools
import json
import pickle
import queue
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import corpus as corpus_files
import export
import model
import tokenizer
from dialogues import Packer
from layout import MODEL_FILE, Layout

WORK = Path(__file__).parent / "work"
MOMENTUM, BETAS, EPSILON = 0.95, (0.9, 0.98), 1e-10
# Newton-Schulz coefficients of Muon (Jordan et al., 2024): five steps bring the singular values
# of a gradient close to one.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MATRICES = ("q", "k", "v", "o", "gate", "up", "down")


def orthogonal(gradient: jax.Array) -> jax.Array:
    """The nearest orthogonal matrices to a stack of matrices, roughly."""
    tall = gradient.shape[1] > gradient.shape[2]
    x = gradient.swapaxes(1, 2) if tall else gradient
    x = x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.swapaxes(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.swapaxes(1, 2) if tall else x


def muon(gradients: list, momenta: list, rate: jax.Array) -> tuple[list, list]:
    """Muon for the matrices of all blocks, one kind of matrix at a time."""
    updates, kept = [{} for _ in gradients], [{} for _ in gradients]
    for name in MATRICES:
        g = jnp.stack([block[name] for block in gradients])
        m = MOMENTUM * jnp.stack([block[name] for block in momenta]) + (1 - MOMENTUM) * g
        turned = orthogonal((1 - MOMENTUM) * g + MOMENTUM * m)
        scale = rate * max(1.0, g.shape[2] / g.shape[1]) ** 0.5
        for i in range(len(gradients)):
            updates[i][name], kept[i][name] = -scale * turned[i], m[i]
    return updates, kept


def adam(gradient, first, second, step, rate):
    first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, first, gradient)
    second = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, second, gradient)
    fix1, fix2 = 1 - BETAS[0] ** (step + 1), 1 - BETAS[1] ** (step + 1)
    update = jax.tree.map(
        lambda m, v, r: -r * (m / fix1) / (jnp.sqrt(v / fix2) + EPSILON), first, second, rate
    )
    return update, first, second


def split(params: model.Params) -> tuple[list, dict]:
    """The blocks' matrices, which Muon moves, and everything else, which Adam moves."""
    matrices = [{k: block[k] for k in MATRICES} for block in params["blocks"]]
    norms = [{k: v for k, v in block.items() if k not in MATRICES} for block in params["blocks"]]
    return matrices, {**params, "blocks": norms}


def join(matrices: list, rest: dict) -> model.Params:
    return {**rest, "blocks": [{**m, **n} for m, n in zip(matrices, rest["blocks"])]}


def fresh_state(params: model.Params) -> dict:
    matrices, rest = split(params)
    zeros = functools.partial(jax.tree.map, jnp.zeros_like)
    return {"muon": zeros(matrices), "first": zeros(rest), "second": zeros(rest)}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(1, 2))
def train_step(shape: model.Shape, params, state, batch, step, height, rates):
    value, gradient = jax.value_and_grad(lambda p: model.loss(shape, p, batch))(params)
    matrices, rest = split(gradient)
    by_muon, momenta = muon(matrices, state["muon"], height * rates["muon"])
    rate = jax.tree.map(lambda _: height * rates["norm"], rest)
    rate["embed"], rate["output"] = height * rates["embed"], height * rates["output"]
    by_adam, first, second = adam(rest, state["first"], state["second"], step, rate)
    params = jax.tree.map(jnp.add, params, join(by_muon, by_adam))
    return params, {"muon": momenta, "first": first, "second": second}, value


def schedule(step: int, args: argparse.Namespace) -> float:
    if step >= args.steps:
        climbed, left = (step - args.steps + 1) / args.warmup, (args.steps + args.refine - step) / args.refine
        return args.refine_height * min(climbed, left)
    fall = int(args.steps * args.fall)
    return min(1.0, (step + 1) / args.warmup, (args.steps - step) / max(1, fall))


def batches(packer: Packer, first: int, last: int):
    """Makes the next batches on a second thread while a step runs."""
    ready: queue.Queue = queue.Queue(maxsize=3)

    def make() -> None:
        for step in range(first, last):
            ready.put(vars(packer.batch(step)))

    threading.Thread(target=make, daemon=True).start()
    for _ in range(first, last):
        yield ready.get()


def save(path: Path, **what) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(pickle.dumps(jax.tree.map(np.asarray, what)))
    partial.rename(path)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--warmup", type=int, default=40)
    parser.add_argument("--fall", type=float, default=0.4, help="share of the run over which the rate falls")
    parser.add_argument("--rate-muon", type=float, default=0.02)
    parser.add_argument("--rate-embed", type=float, default=0.02)
    parser.add_argument("--rate-output", type=float, default=0.004)
    parser.add_argument("--rate-norm", type=float, default=0.004)
    parser.add_argument("--refine", type=int, default=340, help="steps of the second part")
    parser.add_argument("--refine-height", type=float, default=0.5, help="its highest rate, against the first part")
    parser.add_argument("--only-refine", action="store_true", help="start the second part from the weights of the first")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint")
    parser.add_argument("--new-tokenizer", action="store_true", help="train the vocabulary again first")
    parser.add_argument("--out", type=Path, default=export.FILE)
    parser.add_argument("--log", type=Path, default=Path(__file__).parent / "training.log")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    corpus = corpus_files.load()
    if args.new_tokenizer or not MODEL_FILE.exists():
        tokenizer.train(corpus)
    layout = Layout()
    shape = model.Shape(vocabulary=len(layout))
    packer = Packer(corpus, layout, args.rows, args.length, args.seed)
    rates = {k: getattr(args, f"rate_{k}") for k in ("muon", "embed", "output", "norm")}
    params, state, first, before = model.init(shape, args.seed), None, 0, 0.0
    checkpoint = WORK / "checkpoint.pkl"
    if args.only_refine:
        saved = pickle.loads((WORK / "weights.pkl").read_bytes())
        params, first = jax.tree.map(jnp.asarray, saved["params"]), args.steps
    elif args.resume:
        saved = pickle.loads(checkpoint.read_bytes())
        params, state = jax.tree.map(jnp.asarray, (saved["params"], saved["state"]))
        first, before = int(saved["step"]), float(saved["seconds"])
    state = state or fresh_state(params)
    last = args.steps + args.refine

    with args.log.open("a" if first else "w") as log:
        def note(**values) -> None:
            line = json.dumps(values)
            print(line, flush=True)
            print(line, file=log, flush=True)

        note(
            parameters=shape.parameters(), vocabulary=shape.vocabulary, topics=len(corpus.topics),
            answers=sum(len(t.answers) for t in corpus.topics), first_step=first,
            **{k: v for k, v in vars(args).items() if isinstance(v, (int, float))},
        )
        begin, losses, saved_at = time.time(), [], time.time()
        learned = 0
        for step, batch in zip(range(first, last), batches(packer, first, last)):
            height = schedule(step, args)
            if step == args.steps > first:
                save(WORK / "weights.pkl", params=params)
                state = fresh_state(params)
            falling = args.steps - step <= int(args.steps * args.fall)
            if not falling and (time.time() - saved_at > 120):
                save(checkpoint, params=params, state=state, step=step, seconds=before + time.time() - begin)
                saved_at = time.time()
            params, state, value = train_step(shape, params, state, batch, step, height, rates)
            losses.append(float(value))
            learned += int(batch["weight"].sum())
            if (step + 1) % 25 == 0 or step + 1 == last:
                note(
                    step=step + 1, loss=round(float(np.mean(losses)), 4), rate=round(height, 3),
                    learned_tokens=learned, seconds=round(before + time.time() - begin, 1),
                )
                losses.clear()
    save(WORK / "refined.pkl", params=params)
    export.write(shape, jax.tree.map(np.asarray, params), layout, args.out)
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")


if __name__ == "__main__":
    main()
