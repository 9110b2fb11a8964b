"""The llama architecture in JAX, small: RMSNorm, interleaved RoPE, grouped-query attention, SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

Params = dict


@dataclass(frozen=True)
class Shape:
    vocabulary: int
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head: int = 64
    hidden: int = 704
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    def parameters(self) -> int:
        block = self.width * self.head * (2 * self.heads + 2 * self.kv_heads)
        block += 3 * self.width * self.hidden + 2 * self.width
        return self.layers * block + 2 * self.vocabulary * self.width + self.width


def init(shape: Shape, seed: int) -> Params:
    rng = np.random.default_rng(seed)

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        return jnp.asarray(rng.normal(0, scale / np.sqrt(rows), (rows, columns)), jnp.float32)

    wide, q, kv = shape.width, shape.heads * shape.head, shape.kv_heads * shape.head
    block = lambda: {
        "attn_norm": jnp.ones(wide),
        "q": matrix(wide, q),
        "k": matrix(wide, kv),
        "v": matrix(wide, kv),
        # Branches start nearly silent, so the first steps see a shallow network.
        "o": matrix(q, wide, 0.1),
        "ffn_norm": jnp.ones(wide),
        "gate": matrix(wide, shape.hidden),
        "up": matrix(wide, shape.hidden),
        "down": matrix(shape.hidden, wide, 0.1),
    }
    return {
        "embed": jnp.asarray(rng.normal(0, 1.0, (shape.vocabulary, wide)), jnp.float32),
        "blocks": [block() for _ in range(shape.layers)],
        "norm": jnp.ones(wide),
        "output": matrix(wide, shape.vocabulary, 0.2),
    }


def rms_norm(x: jax.Array, weight: jax.Array, epsilon: float) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + epsilon) * weight


def rope_angles(shape: Shape, position: jax.Array) -> tuple[jax.Array, jax.Array]:
    rates = shape.rope_base ** (-jnp.arange(0, shape.head, 2) / shape.head)
    angles = position[..., None].astype(jnp.float32) * rates
    return jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]


def rotate(x: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates neighbours (0,1), (2,3), ...: llama.cpp's NORM order for the llama architecture."""
    cos, sin = angles
    even, odd = x[..., 0::2], x[..., 1::2]
    return jnp.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def qkv(shape: Shape, block: Params, x: jax.Array, angles) -> tuple[jax.Array, jax.Array, jax.Array]:
    y = rms_norm(x, block["attn_norm"], shape.epsilon)
    split = lambda z, heads: z.reshape(*z.shape[:-1], heads, shape.head)
    q = rotate(split(y @ block["q"], shape.heads), angles)
    k = rotate(split(y @ block["k"], shape.kv_heads), angles)
    return q, k, split(y @ block["v"], shape.kv_heads)


def attend(shape: Shape, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """q: [batch, query, heads, head]; k, v: [batch, key, kv_heads, head]; mask: [batch, query, key]."""
    rows, queries = q.shape[:2]
    group = shape.heads // shape.kv_heads
    q = q.reshape(rows, queries, shape.kv_heads, group, shape.head)
    scores = jnp.einsum("bqhgd,bkhd->bhgqk", q, k) / np.sqrt(shape.head)
    scores = jnp.where(mask[:, None, None], scores, -1e30)
    out = jnp.einsum("bhgqk,bkhd->bqhgd", jax.nn.softmax(scores, -1), v)
    return out.reshape(rows, queries, shape.heads * shape.head)


def feed_forward(shape: Shape, block: Params, x: jax.Array) -> jax.Array:
    y = rms_norm(x, block["ffn_norm"], shape.epsilon)
    return (jax.nn.silu(y @ block["gate"]) * (y @ block["up"])) @ block["down"]


def hidden(shape: Shape, params: Params, tokens: jax.Array, position: jax.Array, segment: jax.Array) -> jax.Array:
    """Packed rows: a token sees the tokens before it in its own segment."""
    length = tokens.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    mask = causal & (segment[:, :, None] == segment[:, None, :])
    angles = rope_angles(shape, position)
    x = params["embed"][tokens]
    for block in params["blocks"]:
        q, k, v = qkv(shape, block, x, angles)
        x = x + attend(shape, q, k, v, mask) @ block["o"]
        x = x + feed_forward(shape, block, x)
    return rms_norm(x, params["norm"], shape.epsilon)


def loss(shape: Shape, params: Params, batch) -> jax.Array:
    """Mean cross-entropy (nats) of the learned tokens; logits are only made where they are needed."""
    x = hidden(shape, params, batch["tokens"], batch["position"], batch["segment"])
    logits = x.reshape(-1, shape.width)[batch["where"]] @ params["output"]
    right = jnp.take_along_axis(logits, batch["target"][:, None], 1)[:, 0]
    nats = jax.nn.logsumexp(logits, -1) - right
    return jnp.sum(nats * batch["weight"]) / jnp.sum(batch["weight"])


def step(shape: Shape, params: Params, cache: list, tokens: jax.Array, position: jax.Array):
    """One token of every row with a key-value cache; returns the logits and the longer cache."""
    at = position[:, None]
    angles = rope_angles(shape, at)
    rows = jnp.arange(tokens.shape[0])
    x = params["embed"][tokens][:, None]
    longer = []
    for block, (keys, values) in zip(params["blocks"], cache):
        q, k, v = qkv(shape, block, x, angles)
        keys, values = keys.at[rows, position].set(k[:, 0]), values.at[rows, position].set(v[:, 0])
        mask = jnp.arange(keys.shape[1])[None, None] <= at[:, :, None]
        x = x + attend(shape, q, keys, values, mask) @ block["o"]
        x = x + feed_forward(shape, block, x)
        longer.append((keys, values))
    x = rms_norm(x, params["norm"], shape.epsilon)
    return x[:, 0] @ params["output"], longer


def prefill(shape: Shape, params: Params, tokens: jax.Array, capacity: int):
    """Right-padded prompts at once; padding is overwritten before any later token can see it."""
    rows, length = tokens.shape
    position = jnp.broadcast_to(jnp.arange(length), (rows, length))
    mask = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (rows, length, length))
    angles = rope_angles(shape, position)
    pad = lambda z: jnp.pad(z, ((0, 0), (0, capacity - length), (0, 0), (0, 0)))
    x, cache = params["embed"][tokens], []
    for block in params["blocks"]:
        q, k, v = qkv(shape, block, x, angles)
        cache.append((pad(k), pad(v)))
        x = x + attend(shape, q, k, v, mask) @ block["o"]
        x = x + feed_forward(shape, block, x)
    return rms_norm(x, params["norm"], shape.epsilon), cache
