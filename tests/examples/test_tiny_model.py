"""The demonstration model has learned what `examples/tiny_model/text` teaches, and that teaches each thing once."""

import itertools
import json
from collections import Counter

import pytest

from examples.tiny_model.conversations import OTHER_SUBJECTS, Turn, Writer
from relaymesh.adapters.embedded_runner import BUNDLED_MODEL_NAME, EmbeddedRunner
from relaymesh.ports.runners import RunRequest
from tests.conformance.runners.rules import run_whole

pytestmark = pytest.mark.anyio


def test_the_same_seed_writes_the_same_conversations() -> None:
    first, second = (list(itertools.islice(Writer(7).conversations(), 200)) for _ in range(2))
    assert first == second
    assert first != list(itertools.islice(Writer(8).conversations(), 200))


def test_every_conversation_ends_with_an_answer_that_is_a_sentence() -> None:
    for turns in itertools.islice(Writer(7).conversations(), 500):
        assert all(turn.content for turn in turns)
        assert turns[-1].role == "assistant"
        assert turns[-1].content.endswith((".", "!", "?"))
        roles = [turn.role for turn in turns if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert Turn("assistant", OTHER_SUBJECTS) in [
        turn for turns in itertools.islice(Writer(7).conversations(), 500) for turn in turns
    ]


def test_no_question_has_two_answers() -> None:
    asked = Counter(question.lower() for entry in Writer(0).entries for question in {*entry.questions})
    assert [question for question, times in asked.items() if times > 1] == []


async def test_the_model_answers_nine_of_ten_of_its_questions_with_what_it_was_taught() -> None:
    entries = Writer(0).entries
    sentences = {text for entry in entries for text in (entry.long, entry.short)}
    right = readable = asked = 0
    async with EmbeddedRunner.start() as runner:
        for entry in entries:
            body = {"messages": [{"role": "user", "content": entry.questions[-1]}], "temperature": 0}
            data, _ = await run_whole(runner, RunRequest(BUNDLED_MODEL_NAME, "chat", json.dumps(body), 128))
            answer = "".join(data)
            asked += 1
            right += answer in (entry.long, entry.short)
            readable += answer in sentences
    assert right >= 0.9 * asked
    assert readable >= 0.98 * asked
