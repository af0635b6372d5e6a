"""The official OpenAI SDK for Python; the same cases as openai.mjs.

    python openai_sdk.py '{"base": "http://…/v1", "case": "talk", …}'

Prints one line of JSON: what the SDK gave its caller.
"""

import json
import sys
import threading

import openai

ask = json.loads(sys.argv[1])
retries = {} if ask.get("retries") is None else {"max_retries": ask["retries"]}
client = openai.OpenAI(base_url=ask["base"], api_key=ask.get("key", "none"), **retries)


def told(error):
    response = getattr(error, "response", None)
    return {
        "error": type(error).__name__,
        "status": getattr(error, "status_code", None),
        "code": getattr(error, "code", None),
        "type": getattr(error, "type", None),
        "param": getattr(error, "param", None),
        "message": getattr(error, "message", str(error)),
        "retryAfter": response.headers.get("retry-after") if response is not None else None,
    }


def read(stream, stop):
    """Reads a stream to its end, or to where it fails, or to so many pieces of text."""
    got = {"text": "", "pieces": 0, "finish": None, "usage": None}
    ids, models = set(), set()
    try:
        for chunk in stream:
            ids.add((chunk.id, chunk.created))
            models.add(chunk.model)
            got["usage"] = chunk.usage.model_dump() if chunk.usage else got["usage"]
            choice = chunk.choices[0] if chunk.choices else None
            if choice and choice.finish_reason:
                got["finish"] = choice.finish_reason
            if choice and choice.delta.content:
                got["text"] += choice.delta.content
                got["pieces"] += 1
            if stop and got["pieces"] >= stop:
                # This is how the SDK is told to hang up.
                stream.close()
                break
    except Exception as error:  # whatever the SDK raises is the result
        got |= told(error)
    return got | {"ids": len(ids), "models": sorted(models)}


def talk():
    messages, answers = [], []
    for prompt in ask["prompts"]:
        messages.append({"role": "user", "content": prompt})
        request = {"model": "gpt-4o", "messages": messages, "stream": ask.get("stream", False), **ask.get("more", {})}
        answer = client.chat.completions.create(**request)
        if request["stream"]:
            answer = read(answer, ask.get("stop"))
        else:
            choice = answer.choices[0]
            answer = {
                "text": choice.message.content,
                "role": choice.message.role,
                "finish": choice.finish_reason,
                "usage": answer.usage.model_dump(),
                "models": [answer.model],
                "object": answer.object,
            }
        messages.append({"role": "assistant", "content": answer["text"]})
        answers.append(answer)
    return {"answers": answers}


def respond():
    answers, previous = [], openai.omit
    for prompt in ask["prompts"]:
        request = {"model": "gpt-4o", "input": prompt, "previous_response_id": previous}
        if ask.get("stream"):
            text = ""
            for event in client.responses.create(**request, stream=True):
                if event.type == "response.output_text.delta":
                    text += event.delta
                elif event.type == "response.completed":
                    whole = event.response
        else:
            whole = client.responses.create(**request)
            text = whole.output_text
        previous = whole.id
        last = whole.output[-1].content[0].text
        answers.append({"text": text, "last": last, "status": whole.status, "usage": whole.usage.model_dump()})
    return {"answers": answers}


def models():
    ids = [model.id for model in client.models.list()]
    try:
        none = client.models.retrieve("no-such-model").model_dump()
    except openai.APIError as error:
        none = told(error)
    return {"ids": ids, "one": client.models.retrieve(ids[0]).id, "none": none}


try:
    result = {"talk": talk, "respond": respond, "models": models}[ask["case"]]()
except openai.OpenAIError as error:
    result = told(error)
print(json.dumps(result), flush=True)
if ask.get("hold"):
    # Whoever wants to see what a client leaves behind that lives on ends it.
    threading.Event().wait()
