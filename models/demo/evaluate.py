"""Asks the phrasings that were never trained on and counts what came back.

    python evaluate.py                                  # the weights inside stent-demo.gguf, greedy
    python evaluate.py --url http://127.0.0.1:8000      # a running server, through POST /chat

An answer is right when, of all answers in the corpus, it is most like the one that was asked for
(topic AND aspect), and shares at least `--alike` of its words with it (F1).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import corpus as corpus_files
import layout
from corpus import Corpus, Topic, fill

Answer = Callable[[list["Question"]], list[str]]


@dataclass(frozen=True)
class Question:
    kind: str
    history: tuple[str, ...]
    message: str
    expected: str
    # A server keeps its own history; the weights are given the corpus' answers to `history`.
    told: tuple[str, ...] = ()


def questions(corpus: Corpus, seed: int) -> list[Question]:
    """Every aspect of every topic: each held-out phrasing, by itself and after another question."""
    rng = random.Random(seed)
    asked = []
    for topic in corpus.topics:
        for key, expected in topic.answers.items():
            aspect = corpus.aspects[key]
            for template in aspect.ask_held_out:
                name = rng.choice(topic.names)
                asked.append(Question("single", (), fill(template, topic, name), expected))
            for template in aspect.follow_up_held_out:
                asked.append(_follow_up(corpus, rng, topic, fill(template, topic), expected))
    for talk in corpus.talks:
        asked += [Question("small talk", (), say, talk.answer) for say in talk.held_out]
    for name in corpus.unknown_names_held_out:
        thing = Topic("unknown", (name,), False, {})
        for key in ("what", "treatment", "causes"):
            template = rng.choice(corpus.aspects[key].ask)
            asked.append(Question("unknown", (), fill(template, thing), corpus.unknown))
    asked += [Question("unknown", (), q, corpus.unknown) for q in corpus.unknown_questions_held_out]
    return asked


def _follow_up(corpus: Corpus, rng: random.Random, topic: Topic, message: str, expected: str) -> Question:
    """Half of the follow-ups come after a change of topic: the last one named counts."""
    before = [topic]
    if rng.random() < 0.5:
        before.insert(0, rng.choice([t for t in corpus.topics if t is not topic]))
    history, told = [], []
    for earlier in before:
        key = rng.choice(list(earlier.answers))
        history.append(fill(rng.choice(corpus.aspects[key].ask), earlier))
        told.append(earlier.answers[key])
    return Question("follow-up", tuple(history), message, expected, tuple(told))


class Judge:
    def __init__(self, corpus: Corpus, alike: float):
        texts = {a for t in corpus.topics for a in t.answers.values()}
        texts |= {talk.answer for talk in corpus.talks} | {corpus.unknown, corpus.unclear}
        self.bags = {text: Counter(words(text)) for text in sorted(texts)}
        self.alike = alike

    def right(self, text: str, expected: str) -> bool:
        if text == expected:
            return True
        bag = Counter(words(text))
        best = max(self.bags, key=lambda known: f1(bag, self.bags[known]))
        return best == expected and f1(bag, self.bags[best]) >= self.alike


def words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def f1(a: Counter, b: Counter) -> float:
    shared = sum((a & b).values())
    return 2 * shared / max(1, sum(a.values()) + sum(b.values()))


def whole(text: str) -> bool:
    return bool(text) and text[0].isupper() and text[-1] in ".!?"


def from_weights(gguf_file: Path, limit: int, batch: int) -> Answer:
    import greedy

    return greedy.Writer(gguf_file, limit, batch).answers


def from_server(url: str, limit: int) -> Answer:
    def post(message: str, session: str) -> str:
        body = {"message": message, "session_id": session, "temperature": 0, "max_tokens": limit}
        request = urllib.request.Request(
            url.rstrip("/") + "/chat", json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return json.load(reply)["text"]

    def ask(asked: list[Question]) -> list[str]:
        said = []
        for i, question in enumerate(asked):
            session = f"evaluate-{uuid.uuid4().hex}"
            for earlier in question.history:
                post(earlier, session)
            said.append(post(question.message, session).strip())
            if i % 100 == 99:
                print(f"{i + 1} of {len(asked)} asked", file=sys.stderr, flush=True)
        return said

    return ask


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, default=Path(__file__).parent / "stent-demo.gguf")
    parser.add_argument("--url", help="ask this server instead of the weights")
    parser.add_argument("--sample", type=int, help="ask only so many questions of each kind")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--alike", type=float, default=0.7)
    parser.add_argument("--limit", type=int, default=64, help="longest answer, in tokens")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--wrong", type=int, default=5, help="wrong answers to show of each kind")
    parser.add_argument("--floor", type=float, default=0.9, help="exit 1 below this share on the right topic and aspect")
    args = parser.parse_args()

    corpus = corpus_files.load()
    judge = Judge(corpus, args.alike)
    asked = questions(corpus, args.seed)
    if args.sample:
        rng = random.Random(args.seed)
        kinds = dict.fromkeys(q.kind for q in asked)
        groups = [[q for q in asked if q.kind == kind] for kind in kinds]
        asked = [q for group in groups for q in rng.sample(group, min(args.sample, len(group)))]
    answer = from_server(args.url, args.limit) if args.url else from_weights(args.gguf, args.limit, args.batch)
    try:
        said = answer(asked)
    except urllib.error.URLError as error:
        parser.error(f"{args.url} did not answer POST /chat: {error}")

    print(f"{'kind':<12}{'asked':>7}{'right':>9}{'word for word':>15}{'whole sentences':>17}")
    report = lambda name, rows: print(
        f"{name:<12}{len(rows):>7}"
        + "".join(f"{sum(r[i] for r in rows) / len(rows):>{w}.1%}" for i, w in ((0, 9), (1, 15), (2, 17)))
    )
    rows = [
        (judge.right(text, q.expected), text == q.expected, whole(text), q, text)
        for q, text in zip(asked, said)
    ]
    for kind in dict.fromkeys(q.kind for q in asked):
        report(kind, [r for r in rows if r[3].kind == kind])
    topics = [r for r in rows if r[3].kind in ("single", "follow-up")]
    report("topics", topics)
    report("all", rows)
    for kind in dict.fromkeys(q.kind for q in asked):
        for right, _, _, q, text in [r for r in rows if r[3].kind == kind and not r[0]][: args.wrong]:
            print(f"\n{kind}: {' / '.join((*q.history, q.message))}\n  got      {text}\n  expected {q.expected}")
    return 0 if sum(r[0] for r in topics) >= args.floor * len(topics) else 1


if __name__ == "__main__":
    sys.exit(main())
