"""Greedy answers from the weights in a GGUF, many prompts at a time."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import export
import model
from layout import EOS, Layout


class Writer:
    def __init__(self, gguf_file: Path, limit: int, batch: int):
        self.shape, self.params = export.read(gguf_file)
        self.layout, self.limit, self.batch = Layout(), limit, batch

    def answers(self, asked: list) -> list[str]:
        prompts = [self.layout.prompt(list(zip(q.history, q.told)), q.message) for q in asked]
        # Prompts of like length share a batch, and few lengths mean few compilations.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        said = [""] * len(prompts)
        for start in range(0, len(order), self.batch):
            some = order[start : start + self.batch]
            for i, ids in zip(some, self._write([prompts[i] for i in some])):
                said[i] = self.layout.decode(ids)
            print(f"{start + len(some)} of {len(order)} answered", file=sys.stderr, flush=True)
        return said

    def _write(self, prompts: list[list[int]]) -> list[list[int]]:
        longest = -(-max(map(len, prompts)) // 32) * 32
        tokens = np.zeros((self.batch, longest), np.int32)
        lengths = np.ones(self.batch, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)], lengths[row] = prompt, len(prompt)
        written = np.asarray(_generate(self.shape, self.params, tokens, lengths, self.limit))
        return [[int(t) for t in row[: _end(row)]] for row in written[: len(prompts)]]


def _end(row: np.ndarray) -> int:
    ends = np.flatnonzero(row == EOS)
    return int(ends[0]) if len(ends) else len(row)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(shape: model.Shape, params, tokens, lengths, limit: int):
    rows = tokens.shape[0]
    x, cache = model.prefill(shape, params, tokens, tokens.shape[1] + limit)
    first = jnp.argmax(x[jnp.arange(rows), lengths - 1] @ params["output"], -1).astype(jnp.int32)
    written = jnp.full((rows, limit), EOS, jnp.int32).at[:, 0].set(first)

    def unfinished(carry):
        at, last, _, _, ended = carry
        return (at < limit) & ~jnp.all(ended)

    def write(carry):
        at, last, cache, written, ended = carry
        logits, cache = model.step(shape, params, cache, last, lengths + at - 1)
        following = jnp.where(ended, EOS, jnp.argmax(logits, -1)).astype(jnp.int32)
        return at + 1, following, cache, written.at[:, at].set(following), ended | (following == EOS)

    return jax.lax.while_loop(unfinished, write, (1, first, cache, written, first == EOS))[3]
