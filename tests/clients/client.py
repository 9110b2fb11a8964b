"""openai for Python and httpx-sse, as anybody would use them."""

import json
import os
import signal
import time
import urllib.request

import httpx
import openai
from httpx_sse import connect_sse

REAL, SLOW, ENDS = (os.environ[name] for name in ("REAL", "SLOW", "ENDS"))


def client(base, **more):
    return openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0, **more)


def ask(text, **more):
    return {"model": "any", "messages": [{"role": "user", "content": text}], **more}


def idle(admin):
    with urllib.request.urlopen(f"{admin}/admin/slots") as response:
        return all(slot["state"] == "idle" for slot in json.load(response)["slots"])


def until(holds, what):
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def whole_answers():
    real = client(REAL)
    assert real.models.list().data[0].id
    answer = real.chat.completions.create(**ask("What is diabetes?", seed=1, max_tokens=40))
    text, usage = answer.choices[0].message.content, answer.usage
    assert text and answer.choices[0].finish_reason in ("stop", "length")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    again = real.chat.completions.create(**ask("What is diabetes?", seed=1, max_tokens=40))
    assert again.choices[0].message.content == text, "the same seed says the same"
    word = text.split()[3]
    stopped = real.chat.completions.create(**ask("What is diabetes?", seed=1, max_tokens=40, stop=word))
    said = stopped.choices[0].message.content
    assert word not in said and text.startswith(said), (said, text)
    assert stopped.choices[0].finish_reason == "stop"
    short = real.chat.completions.create(**ask("What is diabetes?", seed=1, max_tokens=2))
    assert short.choices[0].finish_reason == "length" and short.usage.completion_tokens == 2
    # A session's second question finds the first one computed.
    in_session = {"extra_body": {"session_id": "py"}, "max_tokens": 8}
    real.chat.completions.create(**ask("What is asthma?", **in_session))
    second = real.chat.completions.create(**ask("And what helps?", **in_session))
    assert second.usage.prompt_tokens_details.cached_tokens > 0, second.usage


def streams():
    real = client(REAL)
    options = {"seed": 1, "max_tokens": 40}
    whole = real.chat.completions.create(**ask("What is diabetes?", **options))
    chunks = list(real.chat.completions.create(
        **ask("What is diabetes?", stream=True, stream_options={"include_usage": True}, **options)))
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert said == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def refusals():
    real, slow = client(REAL), client(SLOW)
    try:
        real.chat.completions.create(**ask("x", temperature=9))
        raise AssertionError("a temperature of 9 was taken")
    except openai.BadRequestError as error:
        assert error.param == "temperature" and error.code == "invalid_value", error.body
    stream = slow.chat.completions.create(**ask("x", stream=True))
    next(stream)
    try:
        slow.chat.completions.create(**ask("y"))
        raise AssertionError("two ran in one slot")
    except openai.RateLimitError as error:
        assert error.code == "overloaded" and int(error.response.headers["retry-after"]) > 0
    # Leaving frees the place for the next one.
    stream.close()
    until(lambda: idle(os.environ["SLOW_ADMIN"]), "the slot is free again")
    # The client's own retries come through once there is a place.
    stream = slow.chat.completions.create(**ask("x", stream=True, max_tokens=12))
    next(stream)
    patient = slow.with_options(max_retries=5)
    assert patient.chat.completions.create(**ask("y", max_tokens=12)).choices[0].message.content
    stream.close()


def raw_frames():
    with httpx.Client() as plain:
        body = {"message": "What is diabetes?", "session_id": "raw", "max_tokens": 12, "resume": True}
        with connect_sse(plain, "POST", f"{REAL}/chat/stream", json=body) as source:
            assert source.response.headers["cache-control"] == "no-cache, no-transform"
            assert source.response.headers["x-accel-buffering"] == "no"
            events = list(source.iter_sse())
    assert [int(event.id) for event in events] == list(range(1, len(events) + 1))
    assert all(event.event == "message" for event in events), "no event: lines"
    assert events[-1].data == "[DONE]"
    kinds = [json.loads(event.data)["type"] for event in events[:-1]]
    assert kinds[0] == "start" and kinds[-1] == "finish", kinds
    assert kinds.index("text-start") < kinds.index("text-delta") < kinds.index("text-end")


def an_error_after_the_head():
    """Last: the gateway goes away."""
    stream = client(ENDS).chat.completions.create(**ask("x", stream=True))
    next(stream)
    os.kill(int(os.environ["ENDS_PID"]), signal.SIGTERM)
    try:
        for _ in stream:
            pass
        raise AssertionError("the stream ended as if it were whole")
    except openai.APIError as error:
        assert "shutting down" in str(error), error


for test in (whole_answers, streams, refusals, raw_frames, an_error_after_the_head):
    test()
