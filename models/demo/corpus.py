"""Reads the corpus: topics, ways to ask, small talk, and things the demo does not know."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
NOT_TOPICS = {"phrasings.toml", "smalltalk.toml", "unknown.toml"}
TOPIC_KEYS = {"id", "names", "plural"}


class CorpusError(ValueError):
    """A corpus file says something that training cannot use."""


@dataclass(frozen=True)
class Topic:
    id: str
    names: tuple[str, ...]
    plural: bool
    answers: dict[str, str]


@dataclass(frozen=True)
class Aspect:
    subject: str
    ask: tuple[str, ...]
    ask_held_out: tuple[str, ...]
    follow_up: tuple[str, ...]
    follow_up_held_out: tuple[str, ...]
    instead: tuple[str, ...] = ()


@dataclass(frozen=True)
class Talk:
    id: str
    say: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str


@dataclass(frozen=True)
class Corpus:
    topics: tuple[Topic, ...]
    aspects: dict[str, Aspect]
    talks: tuple[Talk, ...]
    unknown: str
    unclear: str
    missing: str
    unknown_names: tuple[str, ...]
    unknown_names_held_out: tuple[str, ...]
    unknown_questions: tuple[str, ...]
    unknown_questions_held_out: tuple[str, ...]

    def answer(self, topic: Topic, aspect: str) -> str:
        """What the demo should say; where the topic lacks the aspect, that it has no notes."""
        for key in (aspect, *self.aspects[aspect].instead):
            if key in topic.answers:
                return topic.answers[key]
        return fill(self.missing.replace("{subject}", self.aspects[aspect].subject), topic)

    def lacking(self, topic: Topic) -> list[str]:
        return [a for a in self.aspects if a not in topic.answers]


def fill(template: str, topic: Topic, name: str | None = None) -> str:
    """Puts a topic into a template; the words around it follow the topic's number."""
    name = name or topic.names[0]
    one = not topic.plural
    words = {
        "name": name,
        "its": "its" if one else "their",
        "it": "it" if one else "they",
        "them": "it" if one else "them",
        "is": "is" if one else "are",
        "does": "does" if one else "do",
    }
    words |= {k.capitalize(): v[0].upper() + v[1:] for k, v in words.items()}
    return template.format(**words)


def load(folder: Path = FOLDER) -> Corpus:
    phrasings = _read(folder / "phrasings.toml")["aspect"]
    aspects = {
        key: Aspect(**{k: v if isinstance(v, str) else tuple(v) for k, v in table.items()})
        for key, table in phrasings.items()
    }
    topics = []
    for path in sorted(folder.glob("*.toml")):
        if path.name not in NOT_TOPICS:
            topics += [_topic(path, entry, aspects) for entry in _read(path).get("topic", [])]
    _refuse_doubles(topics)
    small = _read(folder / "smalltalk.toml")
    unknown = _read(folder / "unknown.toml")
    known = {_plain(name) for topic in topics for name in topic.names}
    strange = lambda names: tuple(n for n in names if _plain(n) not in known)
    return Corpus(
        topics=tuple(topics),
        aspects=aspects,
        talks=tuple(
            Talk(t["id"], tuple(t["say"]), tuple(t["held_out"]), t["answer"])
            for t in small["talk"]
        ),
        unknown=small["unknown"],
        unclear=small["unclear"],
        missing=small["missing"],
        unknown_names=strange(unknown["names"]),
        unknown_names_held_out=strange(unknown["names_held_out"]),
        unknown_questions=tuple(unknown["questions"]),
        unknown_questions_held_out=tuple(unknown["questions_held_out"]),
    )


def _read(path: Path) -> dict:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise CorpusError(f"{path.name} is not valid TOML: {error}") from error


def _topic(path: Path, entry: dict, aspects: dict[str, Aspect]) -> Topic:
    for key in TOPIC_KEYS - entry.keys():
        raise CorpusError(f"{path.name}: topic {entry.get('id', '?')!r} lacks the key {key!r}")
    answers = {k: " ".join(v.split()) for k, v in entry.items() if k not in TOPIC_KEYS}
    for key, text in answers.items():
        where = f"{path.name}: topic {entry['id']!r}, {key}"
        if key not in aspects:
            raise CorpusError(f"{where}: no such aspect in phrasings.toml; known: {', '.join(aspects)}")
        if text[-1] not in ".!?":
            raise CorpusError(f"{where}: does not end with a whole sentence, but with {text[-20:]!r}")
    if "what" not in answers:
        raise CorpusError(f"{path.name}: topic {entry['id']!r} lacks 'what', the one aspect all have")
    return Topic(entry["id"], tuple(entry["names"]), entry["plural"], answers)


def _refuse_doubles(topics: list[Topic]) -> None:
    ids: dict[str, str] = {}
    for topic in topics:
        for name in topic.names:
            other = ids.setdefault(_plain(name), topic.id)
            if other != topic.id:
                raise CorpusError(f"the name {name!r} belongs to two topics: {other!r} and {topic.id!r}")


def _plain(name: str) -> str:
    return re.sub(r"^(a|an|the) ", "", name.lower())
