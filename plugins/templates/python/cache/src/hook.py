"""Answers a question that stands alone from memory, whatever its case, spacing and closing
marks. In a conversation the whole prompt is the key.
"""

import re
from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.cache import (
    Admission,
    Admission_Skip,
    Admission_Store,
    Basis_ExactPrompt,
    Basis_Parts,
    Key,
    Lookup,
    Lookup_By,
    Outcome,
)
from wit_world.imports.request import Answer, Request, Transcript
from wit_world.imports.types import Finish, Role, Scope

SUMMARY = "Answers the same question again from memory"


class Config:
    def __init__(self, settings: dict[str, Any]):
        self.ttl_ms = 1000 * settings["ttl_seconds"]

    def self_test(self) -> None:
        if normalise(" What  is asthma ?") != normalise("what is asthma"):
            raise Err("self-test: two spellings of one question differ")


config: Config


class Cache(exports.Cache):
    def decide(self, req: Request, all: Transcript) -> Lookup:
        question = ""
        match all.messages():
            case [only] if only.role == Role.USER:
                question = normalise(all.text(only.id))
        basis = Basis_Parts([question]) if question else Basis_ExactPrompt()
        return Lookup_By(Key(basis, Scope.SESSION, config.ttl_ms))

    def admit(
        self, req: Request, all: Transcript, answer: Answer, outcome: Outcome
    ) -> Admission:
        """An answer that was cut off, filtered or empty is not worth repeating."""
        whole = outcome.finish == Finish.STOP and answer.bytes() > 0
        return Admission_Store(config.ttl_ms) if whole else Admission_Skip()


def normalise(question: str) -> str:
    words = [word for word in re.split("[ \t\n\f\r]+", question) if word]
    lower = re.sub("[A-Z]", lambda letter: letter[0].lower(), " ".join(words))
    return lower.rstrip(" .,;:!?")
