"""Replaces a word while the answer is produced, wherever a chunk ends."""

from typing import Any, Self

from componentize_py_types import Err
from wit_world.exports import output_filter
from wit_world.exports.output_filter import Step, Step_Emit
from wit_world.imports.request import Request
from wit_world.imports.types import Finish

SUMMARY = "Replaces a word in answers"


class Config:
    def __init__(self, settings: dict[str, Any]):
        self.word = settings["word"]
        self.replacement = settings["replacement"]

    def self_test(self) -> None:
        """The word itself, a character at a time."""
        filter = Filter()
        emitted = "".join(filter.feed(letter) for letter in self.word)
        if emitted != self.replacement or filter.held:
            raise Err("self-test: the word is not replaced across chunk borders")


config: Config


class Filter(output_filter.Filter):
    """The filter of one answer."""

    def __init__(self) -> None:
        # An end that may become the word.
        self.held = ""

    @classmethod
    def open(cls, req: Request) -> Self:
        return cls()

    def push(self, chunk: str) -> Step:
        return Step_Emit(self.feed(chunk))

    def finish(self, why: Finish) -> str:
        return self.held

    def feed(self, chunk: str) -> str:
        *parts, rest = (self.held + chunk).split(config.word)
        begins = max(0, len(rest) - len(config.word) + 1)
        while not config.word.startswith(rest[begins:]):
            begins += 1
        self.held = rest[begins:]
        return config.replacement.join([*parts, rest[:begins]])
