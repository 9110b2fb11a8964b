"""The prompt layout: exactly the pieces, in exactly the order, of the gateway's prompt policy.

Every piece is tokenised on its own, as the gateway does, so the first word of each piece carries
SentencePiece's leading space. `[INST]` and `[/INST]` are ordinary text pieces, as in Mistral's
first vocabulary; only <unk>, <s> and </s> are control tokens.

    control("<s>[INST]") text(system + "\n\n") message(user) control("[/INST]") message(assistant)
    control("</s>[INST]")                      message(user) control("[/INST]") message(assistant)
    ...                                                                         </s>
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

UNK, BOS, EOS = 0, 1, 2
SYSTEM = "You are a careful medical assistant. Answer in short, plain sentences."
MODEL_FILE = Path(__file__).parent / "tokenizer.model"

Exchange = tuple[str, str]


class Layout:
    def __init__(self, model_file: Path = MODEL_FILE):
        self.pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
        self.open = self.text("[INST]")
        self.close = self.text("[/INST]")
        self._answers: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.pieces.get_piece_size()

    def text(self, text: str) -> list[int]:
        return self.pieces.encode(text)

    def answer(self, text: str) -> list[int]:
        """Answers repeat all through training, so their ids are kept."""
        if text not in self._answers:
            self._answers[text] = self.text(text)
        return self._answers[text]

    def decode(self, ids: Sequence[int]) -> str:
        return self.pieces.decode(list(ids)).strip()

    def head(self, system: Sequence[str]) -> list[int]:
        """What comes before the first user message; `system` holds its text pieces, if any."""
        return [BOS, *self.open] + [i for piece in system for i in self.text(piece)]

    def prompt(self, history: Sequence[Exchange], message: str, system: str | None = SYSTEM) -> list[int]:
        ids = self.head([system + "\n\n"] if system else [])
        for user, assistant in history:
            ids += self.text(user) + self.close + self.answer(assistant) + [EOS] + self.open
        return ids + self.text(message) + self.close
