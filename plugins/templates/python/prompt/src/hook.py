"""Mistral's [INST] format with a system text:

    <s>[INST]system text, question[/INST]answer</s>[INST]next question[/INST]
"""

from typing import Any

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.prompt_builder import (
    Layout,
    Piece,
    Piece_Control,
    Piece_Message,
    Piece_Text,
    Plan,
)
from wit_world.imports.host import count_tokens
from wit_world.imports.request import Message, Request, Transcript
from wit_world.imports.types import Role

SUMMARY = "Mistral's [INST] format with a system text"

OPEN = "[INST]"
CLOSE = "[/INST]"
JOIN = "\n\n"


class Config:
    def __init__(self, settings: dict[str, Any]):
        """Counts tokens here, ahead of requests, and not in `declare`, which users wait for."""
        system = settings["system"]
        for mark in (OPEN, CLOSE):
            if mark in system:
                raise Err(f"config.system: found {mark}, expected text without it")
        # Ends with JOIN unless it is empty.
        self.system = system and system + JOIN
        # <s> and </s> are one token each.
        opening, closing = 1 + count_tokens(OPEN), count_tokens(CLOSE)
        self.fixed = opening + count_tokens(self.system) + closing
        self.per_message = max(opening, closing, count_tokens(JOIN))

    def self_test(self) -> None:
        if self.per_message < 2:
            raise Err("self-test: the host counts no tokens in the marks of the layout")


config: Config


class PromptBuilder(exports.PromptBuilder):
    def declare(self, req: Request) -> Layout:
        return Layout(config.fixed, config.per_message, [OPEN, CLOSE])

    def build(self, req: Request, kept: Transcript) -> Plan:
        pieces = build(config.system, kept.messages())
        # The next turn goes on behind the last [/INST], with this turn's answer.
        return Plan(pieces, stable_pieces=len(pieces), stop=[])


def build(system: str, messages: list[Message]) -> list[Piece]:
    """Neighbours of one side are joined; all but the assistant's messages are on the asking
    side.
    """
    pieces: list[Piece] = [Piece_Control("<s>[INST]")]
    if system:
        pieces.append(Piece_Text(system))
    before = None
    for message in messages:
        side = "answers" if message.role == Role.ASSISTANT else "asks"
        if side == before:
            pieces.append(Piece_Text(JOIN))
        elif side == "answers":
            pieces.append(Piece_Control(CLOSE))
        elif before:
            pieces.append(Piece_Control("</s>[INST]"))
        pieces.append(Piece_Message(message.id))
        before = side
    if before != "asks":
        raise Err("the last message is not a question")
    pieces.append(Piece_Control(CLOSE))
    return pieces
