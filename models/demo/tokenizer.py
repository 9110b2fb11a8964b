"""Trains the SentencePiece BPE vocabulary on the corpus and on the questions asked about it."""

from __future__ import annotations

import io
from pathlib import Path

import sentencepiece

import layout
from corpus import Corpus, fill

VOCABULARY = 3072


def train(corpus: Corpus, model_file: Path = layout.MODEL_FILE, vocabulary: int = VOCABULARY) -> None:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_sentences(corpus)),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        hard_vocab_limit=True,
        # The same settings as Llama's and Mistral's first vocabulary: text comes back byte for byte.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        unk_id=layout.UNK,
        bos_id=layout.BOS,
        eos_id=layout.EOS,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    model_file.write_bytes(model.getvalue())


def _sentences(corpus: Corpus) -> list[str]:
    sentences = [layout.SYSTEM, corpus.unknown, corpus.unclear, corpus.missing] * 20
    sentences += ["[INST]", "[/INST]"] * 50
    for topic in corpus.topics:
        # Answers are read and written far more often than any single name.
        sentences += list(topic.answers.values()) * 4
        for name in topic.names:
            sentences += [name, name.lower(), name[0].upper() + name[1:]] * 3
    for aspect in corpus.aspects.values():
        for template in aspect.ask + aspect.follow_up:
            for topic in corpus.topics[:40:10]:
                question = fill(template, topic)
                sentences += [question, question.lower()]
    for talk in corpus.talks:
        sentences += [talk.answer] * 4 + list(talk.say) + [say.lower() for say in talk.say]
    return sentences + list(corpus.unknown_questions) + list(corpus.unknown_names)
