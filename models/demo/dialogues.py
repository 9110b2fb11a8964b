"""Makes training dialogues: 1-4 exchanges that switch topics, lean on the last one, and wander off."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np

from corpus import Corpus, Topic, fill
from layout import EOS, SYSTEM, Layout

OTHER_SYSTEMS = (
    "You are a helpful assistant.",
    "Answer the question in one or two sentences.",
    "You are a medical assistant for a small clinic. Be polite and short.",
)
PREFIXES = (
    "Please ", "Can you tell me ", "Hi, ", "Hello. ", "So, ", "Okay, ", "Doctor, ", "Now ", "And ",
    "Tell me, ", "I want to know: ", "Could you tell me ", "Please tell me ", "One question: ",
    "Thanks. ", "I have a question. ", "Quick question: ",
)
SUFFIXES = (" please", ", please", " Thanks.", " Thank you.", " I am worried.", " I want to know.")
SYLLABLES = (
    "ba be bo ca ce cor da den di do fa fi fro ga gel go ha hel ib ka kor la lem lo ma mi mor na ne "
    "no or pa pel po ra ri ro sa sen so ta ti tor ul va vi vo xan ya ze zo"
).split()
ENDINGS = ("osis", "itis", "emia", "oma", "ia", "ine", "ol", "um", "ism", "ers", "ing", "on", "", " syndrome", " disease")

# The example of the README and of every first try; it has two near twins to be told from.
FEATURED = {"diabetes": 5}


@dataclass
class Exchange:
    user: str
    assistant: str
    learn: bool = True


@dataclass
class State:
    """What a follow-up leans on: nothing yet, a topic, or something the demo does not know."""

    topic: Topic | None = None
    lost: bool = False


@dataclass
class Dialogues:
    corpus: Corpus
    rng: random.Random
    deck: list[tuple[Topic, str]] = field(default_factory=list)

    def dialogue(self) -> list[Exchange]:
        length = self.rng.choices((1, 2, 3, 4), (3, 2, 2, 3))[0]
        state, exchanges = State(), []
        if length > 1 and self.rng.random() < 0.2:
            exchanges.append(self._window_start(state))
        while len(exchanges) < length:
            exchanges.append(self._next(state))
        return exchanges

    def _next(self, state: State) -> Exchange:
        dice = self.rng.random()
        if dice < 0.05:
            return self._talk()
        if dice < 0.12:
            return self._unknown(state)
        if dice < 0.14:
            return self._lacking(state)
        leaning = state.topic or state.lost
        if dice < (0.60 if leaning else 0.18):
            return self._follow_up(state)
        return self._ask(state)

    def _ask(self, state: State) -> Exchange:
        if not self.deck:
            self.deck = [
                (t, a) for t in self.corpus.topics for a in t.answers for _ in range(FEATURED.get(t.id, 1))
            ]
            self.rng.shuffle(self.deck)
        topic, aspect = self.deck.pop()
        state.topic, state.lost = topic, False
        template = self.rng.choice(self.corpus.aspects[aspect].ask)
        return Exchange(self.noisy(fill(template, topic, self._name(topic))), topic.answers[aspect])

    def _follow_up(self, state: State) -> Exchange:
        if state.topic is None:
            topic = self.rng.choice(self.corpus.topics)
            aspect = self.rng.choice(list(topic.answers))
            answer = self.corpus.unknown if state.lost else self.corpus.unclear
        else:
            topic = state.topic
            aspect = self.rng.choice(list(topic.answers))
            answer = topic.answers[aspect]
        template = self.rng.choice(self.corpus.aspects[aspect].follow_up)
        return Exchange(self.noisy(fill(template, topic)), answer)

    def _lacking(self, state: State) -> Exchange:
        if state.topic is None or self.rng.random() < 0.6:
            topic, lean = self.rng.choice(self.corpus.topics), False
        else:
            topic, lean = state.topic, True
        aspect = self.rng.choice(self.corpus.lacking(topic))
        templates = self.corpus.aspects[aspect]
        template = self.rng.choice(templates.follow_up if lean else templates.ask)
        state.topic, state.lost = topic, False
        question = fill(template, topic, None if lean else self._name(topic))
        return Exchange(self.noisy(question), self.corpus.answer(topic, aspect))

    def _talk(self) -> Exchange:
        talk = self.rng.choice(self.corpus.talks)
        return Exchange(self.noisy(self.rng.choice(talk.say)), talk.answer)

    def _unknown(self, state: State) -> Exchange:
        state.topic, state.lost = None, True
        if self.rng.random() < 0.25:
            return Exchange(self.noisy(self.rng.choice(self.corpus.unknown_questions)), self.corpus.unknown)
        # Invented words keep the model from learning the list of unknown names by heart.
        name = self._invented() if self.rng.random() < 0.5 else self.rng.choice(self.corpus.unknown_names)
        thing = Topic("unknown", (name,), name.endswith("s") and self.rng.random() < 0.5, {})
        aspect = self.corpus.aspects[self.rng.choice(list(self.corpus.aspects))]
        return Exchange(self.noisy(fill(self.rng.choice(aspect.ask), thing)), self.corpus.unknown)

    def _window_start(self, state: State) -> Exchange:
        """History is trimmed, so a window may open with an answer whose topic was named before it."""
        state.topic = self.rng.choice(self.corpus.topics)
        exchange = self._follow_up(state)
        exchange.learn = False
        return exchange

    def _name(self, topic: Topic) -> str:
        return topic.names[0] if self.rng.random() < 0.6 else self.rng.choice(topic.names)

    def _invented(self) -> str:
        word = "".join(self.rng.choices(SYLLABLES, k=self.rng.randint(2, 4))) + self.rng.choice(ENDINGS)
        return ("a " if self.rng.random() < 0.1 else "") + word

    def noisy(self, question: str) -> str:
        """The same question as people type it."""
        chance = self.rng.random
        if chance() < 0.15:
            first = question[0].lower() if not question[:2].isupper() and question[:2] != "I " else question[0]
            question = self.rng.choice(PREFIXES) + first + question[1:]
        if chance() < 0.05:
            question = question.rstrip("?.!") + self.rng.choice(SUFFIXES)
        elif chance() < 0.2:
            question = question.rstrip("?.!")
        if chance() < 0.08:
            question = self._typo(question)
        if chance() < 0.25:
            question = question.lower()
        return question

    def _typo(self, question: str) -> str:
        words = question.split(" ")
        long = [i for i, word in enumerate(words) if len(word) > 4]
        if long:
            i = self.rng.choice(long)
            word, at = words[i], self.rng.randint(1, len(words[i]) - 3)
            words[i] = self.rng.choice((
                word[:at] + word[at + 1] + word[at] + word[at + 2:],
                word[:at] + word[at + 1:],
                word[:at] + word[at] + word[at:],
                word[:at] + self.rng.choice("aeiouy") + word[at + 1:],
            ))
        return " ".join(words)


@dataclass
class Batch:
    """Packed rows: `segment` keeps dialogues apart, `where` points at the tokens that are learned."""

    tokens: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    where: np.ndarray
    target: np.ndarray
    weight: np.ndarray


class Packer:
    def __init__(self, corpus: Corpus, layout: Layout, rows: int, length: int, seed: int):
        self.corpus, self.layout, self.rows, self.length, self.seed = corpus, layout, rows, length, seed
        self.learned = int(rows * length * 0.56)

    def batch(self, step: int) -> Batch:
        """The batch of one step depends on the seed and the step alone, so a run can be resumed."""
        rng = random.Random(self.seed * 1_000_003 + step)
        dialogues = Dialogues(self.corpus, rng)
        tokens = np.zeros((self.rows, self.length), np.int32)
        position, segment = np.zeros_like(tokens), np.zeros_like(tokens)
        spots: list[tuple[int, int]] = []
        used = [0] * self.rows
        misses = 0
        while misses < 12:
            ids, learn = self.encode(dialogues.dialogue(), rng)
            row = next((r for r in range(self.rows) if used[r] + len(ids) <= self.length), None)
            if row is None:
                misses += 1
                continue
            start, end = used[row], used[row] + len(ids)
            tokens[row, start:end] = ids
            position[row, start:end] = np.arange(len(ids))
            segment[row, start:end] = segment[row, start - 1] + 1 if start else 1
            spots += [(row * self.length + start + i - 1, ids[i]) for i, yes in enumerate(learn) if yes]
            used[row] = end
        rng.shuffle(spots)
        spots = spots[: self.learned]
        where, target = np.zeros(self.learned, np.int32), np.zeros(self.learned, np.int32)
        weight = np.zeros(self.learned, np.float32)
        where[: len(spots)] = [w for w, _ in spots]
        target[: len(spots)] = [t for _, t in spots]
        weight[: len(spots)] = 1.0
        return Batch(tokens, position, segment, where, target, weight)

    def encode(self, exchanges: list[Exchange], rng: random.Random) -> tuple[list[int], list[bool]]:
        ids = self.layout.head(self._system(rng))
        learn = [False] * len(ids)
        for i, exchange in enumerate(exchanges):
            asked = (self.layout.open if i else []) + self.layout.text(exchange.user) + self.layout.close
            said = [*self.layout.answer(exchange.assistant), EOS]
            ids = ids + asked + said
            learn += [False] * len(asked) + [exchange.learn] * len(said)
        return ids, learn

    @staticmethod
    def _system(rng: random.Random) -> list[str]:
        dice = rng.random()
        if dice < 0.45:
            return [SYSTEM + "\n\n"]
        if dice < 0.50:
            return [SYSTEM, "\n\n"]
        if dice < 0.55:
            return [rng.choice(OTHER_SYSTEMS) + "\n\n"]
        return []
