"""Says what an ASGI server has understood. The count stands still for a body that did not come to its end."""

import itertools
import json

numbers = itertools.count(1)


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return
        body += event.get("body", b"")
        if not event.get("more_body"):
            break

    def header(name):
        values = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name]
        return ", ".join(values) if values else None

    query = scope["query_string"].decode("latin-1")
    answer = {
        "method": scope["method"],
        "target": scope["raw_path"].decode("latin-1") + ("?" + query if query else ""),
        "host": header(b"host"),
        "body": body.decode("latin-1"),
        "key": header(b"idempotency-key"),
        "n": next(numbers),
    }
    body = json.dumps(answer).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
