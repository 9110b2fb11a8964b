"""Keeps the last messages that fit."""

from itertools import islice
from typing import Any

from wit_world import exports
from wit_world.exports.session_trimmer import (
    Budget,
    Decision,
    Decision_KeepAll,
    Decision_KeepFrom,
)
from wit_world.imports.request import Message, Request, Transcript

SUMMARY = "Keeps the last messages that fit"


class Config:
    def __init__(self, settings: dict[str, Any]):
        self.messages = settings["messages"]

    def self_test(self) -> None:
        pass  # no value of messages can make it wrong


config: Config


class SessionTrimmer(exports.SessionTrimmer):
    def trim(self, req: Request, budget: Budget, all: Transcript) -> Decision:
        return trim(config.messages, budget, all.messages())


def trim(most: int, budget: Budget, messages: list[Message]) -> Decision:
    """Walks back from the newest message. That one and pinned ones stay, so they are paid for
    first.
    """
    if not messages:
        return Decision_KeepAll()
    *earlier, newest = messages
    price = lambda message: message.tokens + budget.per_message
    cost = price(newest) + sum(price(m) for m in earlier if m.pinned)
    first = newest.id
    loose = (m for m in reversed(earlier) if not m.pinned)
    for message in islice(loose, most - 1):
        cost += price(message)
        if cost > budget.max_tokens:
            break
        first = message.id
    return Decision_KeepFrom(first)
