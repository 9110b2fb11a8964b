"""Refuses messages that are too long."""

from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.guard import Verdict, Verdict_Allow, Verdict_Refuse
from wit_world.imports.request import Request, Transcript

SUMMARY = "Refuses messages that are too long"


class Config:
    def __init__(self, settings: dict[str, Any]):
        self.max_chars = settings["max_chars"]

    def self_test(self) -> None:
        pass  # no value of max_chars can make it wrong


config: Config


class Guard(exports.Guard):
    def check(self, req: Request, all: Transcript) -> Verdict:
        messages = all.messages()
        if not messages:
            raise Err("the transcript is empty")
        found, most = len(all.text(messages[-1].id)), config.max_chars
        if found <= most:
            return Verdict_Allow()
        return Verdict_Refuse(
            f"Your message has {found} characters, at most {most} are read. Please shorten it."
        )
