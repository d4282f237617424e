"""
From the text in the tree to what the demo model is trained on: running text and conversations.

Theory of operation. The model is far too small to know anything, so the conversations teach it manners
only: a user turn is followed by one to five consecutive sentences of the text and then by the end of the
turn. What the user says is a topic, the opening words of the answer, a word or two of it, or noise. Noise
(random letters, digits and symbols of many scripts) is there so that a question about anything at all is
answered in sentences that end. Only what a model is to say is learned; user turns are marked as not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np

TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
DOCUMENT_END = "<|endoftext|>"
SPECIAL_TOKENS = (DOCUMENT_END, TURN_START, TURN_END)
"""In the order of their ids, 0, 1 and 2."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""ChatML in Jinja, on one line, so that trim_blocks and lstrip_blocks change nothing; nothing precedes it."""

MIN_ANSWER_CHARS = 190
MAX_ANSWER_CHARS = 420
"""An answer is 50 to 130 tokens at 3.6 characters each: long enough to be watched, well below 200."""

MAX_EXCHANGES = 3
SYSTEM_SHARE = 0.25
NOISE_SHARE = 0.35
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You explain Python.",
    "Answer in short sentences.",
    "Be brief.",
)
QUESTIONS = (
    "Tell me about {}.", "What is {}?", "Explain {}.", "How does {} work?", "Write about {}.", "{}",
    "Why is {} useful?", "Say something about {}.", "What should I know about {}?",
    "Describe {} to me, please.", "Hello! What can you tell me about {}?", "Write a long answer about {}.",
)  # fmt: skip
"""What a user asks; the blank takes a topic, words of the answer, or noise."""

_SENTENCE_END = re.compile(r"(?<=[.:])\s+(?=[A-Z\"*])")
_NOISE_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    ".,;:!?()[]{}<>/\\|@#$%^&*_+-=~`'\"",
    "äöüßéèêñçåøæłšžğı",
    "αβγδεζηθλμπσφω",
    "абвгдежзиклмнопрст",
    "水火土金木日月年中国語言",
    "🙂🚀🌊🔥🎉",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One section of the text: consecutive sentences under a name."""

    name: str
    """As a user would write it, hyphens replaced by blanks."""
    text: str
    """All paragraphs, a blank line between two."""
    sentences: tuple[str, ...]
    """The same, cut at sentence ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A piece of a training document."""

    text: str
    """May hold special tokens by name."""
    is_learned: bool
    """False for what only a user says."""


def read_topics(text: str) -> list[Topic]:
    """
    Cut the text in the tree into its topics.

    Args:
        text: Sections that open with a line `== name ==`, paragraphs of one line, blank lines between.

    Raises:
        ValueError: the text does not open with a section.
    """
    if not text.startswith("== "):
        raise ValueError(f"text must open with a line '== name ==', got {text[:20]!r}")
    topics = []
    for section in re.split(r"^== ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        paragraphs = body.split("\n\n")
        sentences = [s for p in paragraphs for s in _SENTENCE_END.split(p.strip()) if s]
        name = heading.removesuffix(" ==").replace("-", " ")
        topics.append(Topic(name=name, text=body.strip(), sentences=tuple(sentences)))
    return topics


def running_text(topics: Iterable[Topic]) -> str:
    """Join all topics into one text, each closed by the end of a document."""
    return "".join(topic.text + DOCUMENT_END for topic in topics)


def conversation(topics: list[Topic], rng: np.random.Generator) -> list[Segment]:
    """
    Draw one conversation: perhaps a system prompt, then up to three questions with their answers.

    Returns:
        Segments whose joined text is what CHAT_TEMPLATE renders for the same messages.
    """
    segments = []
    if rng.random() < SYSTEM_SHARE:
        prompt = SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))]
        segments.append(Segment(text=turn("system", prompt), is_learned=False))
    for _ in range(rng.integers(1, MAX_EXCHANGES + 1)):
        topic, said = _answer(topics, rng)
        opening = turn("user", _question(topic, said, rng)) + f"{TURN_START}assistant\n"
        segments.append(Segment(text=opening, is_learned=False))
        segments.append(Segment(text=f"{said}{TURN_END}\n", is_learned=True))
    return segments


def turn(role: str, content: str) -> str:
    """Render one message as CHAT_TEMPLATE does."""
    return f"{TURN_START}{role}\n{content}{TURN_END}\n"


def _answer(topics: list[Topic], rng: np.random.Generator) -> tuple[Topic, str]:
    """Draw consecutive sentences of one topic, MIN_ANSWER_CHARS to MAX_ANSWER_CHARS in all."""
    weights = [len(topic.text) for topic in topics]
    total = sum(weights)
    while True:
        topic = topics[rng.choice(len(topics), p=[w / total for w in weights])]
        start = int(rng.integers(len(topic.sentences)))
        wanted_chars = rng.integers(MIN_ANSWER_CHARS, MAX_ANSWER_CHARS)
        said = ""
        for sentence in topic.sentences[start:]:
            said = f"{said} {sentence}".strip()
            if len(said) >= wanted_chars:
                break
        if MIN_ANSWER_CHARS <= len(said) <= MAX_ANSWER_CHARS and said.endswith("."):
            return topic, said


def _question(topic: Topic, said: str, rng: np.random.Generator) -> str:
    """Draw a user message for an answer: noise, the topic, the opening words, or words of the answer."""
    kind = rng.random()
    words = said.split()
    if kind < NOISE_SHARE:
        about = _noise(rng)
    elif kind < NOISE_SHARE + 0.2:
        about = topic.name
    elif kind < NOISE_SHARE + 0.4:
        return " ".join(words[: rng.integers(3, 9)])
    else:
        start = int(rng.integers(max(1, len(words) - 3)))
        about = " ".join(words[start : start + int(rng.integers(1, 4))]).strip(".,:;")
    return QUESTIONS[rng.integers(len(QUESTIONS))].format(about)


def _noise(rng: np.random.Generator) -> str:
    """Draw one to six made-up words, mostly of small letters."""
    words = []
    for _ in range(rng.integers(1, 7)):
        odd = int(rng.integers(len(_NOISE_ALPHABETS))) if rng.random() < 0.3 else 0
        letters = list(_NOISE_ALPHABETS[odd])
        words.append("".join(rng.choice(letters, size=int(rng.integers(1, 10)))))
    return " ".join(words)
