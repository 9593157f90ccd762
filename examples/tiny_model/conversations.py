"""Turns the texts in `text/` into training conversations: many ways to ask, one way to answer.

A text file is a list of entries separated by blank lines. `name:` gives noun phrases for the general questions,
`ask:` a question of its own, `long:` the answer, `short:` the answer to whoever wants it brief. `weight:` makes an
entry come up so many times as often.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TEXTS: Final = Path(__file__).parent / "text"
BATCH_SENTENCES: Final = Path(__file__).parents[2] / "relaymesh" / "assets" / "embedding-sentences.txt"

GENERAL_QUESTIONS: Final = (
    "What is {}?",
    "What's {}?",
    "What are {}?",
    "Explain {}.",
    "Explain {} to me.",
    "Tell me about {}.",
    "Tell me more about {}.",
    "Can you explain {}?",
    "Describe {}.",
    "Define {}.",
    "What does {} mean?",
    "What do you know about {}?",
    "I want to understand {}.",
    "What about {}?",
    "How does {} work?",
    "{}?",
    "{}",
    "Please describe {}.",
    "What is meant by {}?",
    "What can you say about {}?",
    "Why does RelayMesh have {}?",
    "What is {} in RelayMesh?",
    "How does RelayMesh use {}?",
)
BRIEFLY: Final = (
    "{} In one sentence.",
    "{} Briefly.",
    "{} Keep it short.",
    "In short: {}",
    "Briefly: {}",
    "In one sentence: {}",
    "{} Answer in one sentence.",
    "{} Short answer, please.",
    "In a few words, {}",
)
POLITE: Final = (
    "Hi, {}",
    "Hello! {}",
    "Please tell me: {}",
    "{} Thanks!",
    "{} Please.",
    "I have a question. {}",
    "Sorry, but {}",
    "So, {}",
    "Okay, {}",
    "Can you tell me: {}",
    "I am new here. {}",
    "Question: {}",
    "{} Explain it simply.",
    "Quick question: {}",
    "I wonder: {}",
    "And {}",
)
REWORDINGS: Final = (
    (r"^What is\b", ("What's", "what exactly is", "What really is", "Say what is", "Do you know what is")),
    (r"^How do I\b", ("How can I", "How could I", "How does one", "What must I do to", "How do you")),
    (r"^How does\b", ("How exactly does", "In which way does", "Explain how does")),
    (r"^Can I\b", ("May I", "Could I", "Is it possible that I", "Am I able to")),
    (r"^What happens\b", ("What will happen", "So what happens", "What would happen")),
    (r"^Why\b", ("For what reason", "Why exactly", "Tell me why")),
    (r"^Who\b", ("Tell me who", "Who exactly")),
    (r"^What does\b", ("What exactly does", "Tell me what does")),
    (r"^Tell me about\b", ("Talk about", "Say something about", "Give me information about", "Inform me about")),
    (r"^Explain\b", ("Please explain", "Could you explain", "Clarify")),
)
MORE: Final = ("Tell me more.", "More details, please.", "Can you say more?", "Go on.", "Explain it in more detail.")
SHORTER: Final = ("In short?", "Say it shorter.", "And in one sentence?", "Shorter, please.", "Sum it up.")
SYSTEM_PROMPTS: Final = (
    "You are a helpful assistant.",
    "You are RelayMesh Tiny.",
    "You answer questions about RelayMesh.",
    "Answer briefly and truthfully.",
    "You are an assistant. Be polite.",
    "Be concise.",
    "You are a helpful, honest assistant that answers the questions of a user.",
)
PLACES: Final = (
    "France Japan Brazil Berlin Rome Canada Egypt India Norway Kenya London Peru Spain China Madrid Oslo Texas Mars"
).split()
THINGS: Final = (
    "car house cat dog bicycle guitar piano tree river mountain book chair engine ship train camera robot horse castle "
    "violin window bridge garden telephone clock spider dragon pencil rocket"
).split()
FOODS: Final = "pizza bread soup cheese rice apples chocolate coffee pasta salad cake tea eggs fish beans honey".split()
PEOPLE: Final = (
    "Napoleon|Mozart|Shakespeare|Albert Einstein|Cleopatra|Marie Curie|Leonardo da Vinci|Beethoven|Isaac Newton|"
    "Queen Victoria|Aristotle|Goethe|Frida Kahlo|Julius Caesar"
).split("|")
OTHER_SUBJECTS: Final = (
    "I am only a tiny demonstration model and know nothing about that. Ask me about RelayMesh, or connect a bigger "
    "model for other questions."
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to know: how it is called, how it is asked for, what is answered (`short` may be empty), how often."""

    names: tuple[str, ...]
    questions: tuple[str, ...]
    long: str
    short: str
    weight: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


def read_entries(path: Path) -> list[Entry]:
    """The entries of one text file."""
    entries = []
    for block in path.read_text(encoding="utf-8").strip().split("\n\n"):
        fields: dict[str, list[str]] = {"weight": ["1"], "name": [], "ask": [], "long": [], "short": [""]}
        for line in block.splitlines():
            field, _, value = line.partition(": ")
            fields[field].append(value.strip())
        names = tuple(name.strip() for value in fields["name"] for name in value.split("|"))
        answers = fields["long"][0], fields["short"][-1]
        entries.append(Entry(names, tuple(fields["ask"]), *answers, weight=int(fields["weight"][-1])))
    return entries


class Writer:
    """Writes conversations and documents without end; the same seed writes the same."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        names = ("market", "sessions", "settlement", "practice", "small_talk")
        self.entries = [entry for name in names for entry in read_entries(TEXTS / f"{name}.txt")]
        self._weights = [entry.weight for entry in self.entries]
        self._elsewhere = (TEXTS / "elsewhere.txt").read_text(encoding="utf-8").split("\n")[:-1]
        documents = (TEXTS / "documents.txt").read_text(encoding="utf-8").strip().split("\n\n")
        sentences = BATCH_SENTENCES.read_text(encoding="utf-8").strip().splitlines()
        answers = [entry.long for entry in self.entries]
        self.documents = documents + sentences + answers

    def conversations(self) -> Iterator[list[Turn]]:
        """Conversations of one to three questions, sometimes after a system prompt."""
        while True:
            turns: list[Turn] = []
            if self._random.random() < 0.3:
                turns.append(Turn("system", self._random.choice(SYSTEM_PROMPTS)))
            for _ in range(self._random.choices((1, 2, 3), (6, 3, 1))[0]):
                turns += self._exchange()
            yield turns

    def document(self) -> str:
        """A plain text."""
        return self._random.choice(self.documents)

    def _exchange(self) -> list[Turn]:
        if self._random.random() < 0.12:
            return [Turn("user", self._disturb(self._other_question())), Turn("assistant", OTHER_SUBJECTS)]
        (entry,) = self._random.choices(self.entries, self._weights)
        question = self._question(entry)
        brief = bool(entry.short) and self._random.random() < 0.2
        if brief:
            question = self._random.choice(BRIEFLY).format(question)
        turns = [Turn("user", self._disturb(question)), Turn("assistant", entry.short if brief else entry.long)]
        if entry.short and self._random.random() < 0.12:
            follow_up, answer = (MORE, entry.long) if brief else (SHORTER, entry.short)
            turns += [Turn("user", self._disturb(self._random.choice(follow_up))), Turn("assistant", answer)]
        return turns

    def _question(self, entry: Entry) -> str:
        if entry.names and self._random.random() < 0.4:
            return self._random.choice(GENERAL_QUESTIONS).format(self._random.choice(entry.names))
        question = self._random.choice(entry.questions)
        if self._random.random() < 0.3:
            for pattern, others in REWORDINGS:
                question = re.sub(pattern, self._random.choice(others), question)
        return question

    def _other_question(self) -> str:
        choices = {"place": PLACES, "thing": THINGS, "food": FOODS, "person": PEOPLE}
        slots = {slot: self._random.choice(words) for slot, words in choices.items()}
        return self._random.choice(self._elsewhere).format(**slots, number=self._random.randrange(100))

    def _disturb(self, question: str) -> str:
        """The same question as somebody else would type it."""
        chance = self._random.random
        if chance() < 0.18:
            question = self._random.choice(POLITE).format(question)
        if chance() < 0.25:
            question = question.lower()
        if chance() < 0.25:
            question = question.rstrip(".?!")
        if chance() < 0.05:
            question = question.upper()
        if chance() < 0.12 and len(question) > 8:
            place = self._random.randrange(1, len(question) - 1)
            middle = self._random.choice(("", question[place] * 2, question[place + 1] + question[place]))
            question = question[:place] + middle + question[place + (2 if len(set(middle)) == 2 else 1) :]
        return question
