"""A payment service that notes each request it executes, one line each, in `executed`, and says which protocol it heard.

A body that says `hang` is executed and never answered. `/ws` is a WebSocket that says back what it hears."""

import asyncio
import json


async def app(scope, receive, send):
    match scope["type"]:
        case "http":
            await charge(scope, receive, send)
        case "websocket":
            await echo(receive, send)
        case "lifespan":
            await live(receive, send)


async def charge(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = dict(scope["headers"])
    line = {
        "protocol": scope["http_version"],
        "path": scope["raw_path"].decode(),
        "host": headers.get(b"host", b"").decode(),
        "length": len(body),
    }
    with open("executed", "a") as executed:
        executed.write(json.dumps(line) + "\n")
    if body == b"hang":
        await asyncio.sleep(3600)
    answer = json.dumps(line).encode()
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 201, "headers": [length]})
    await send({"type": "http.response.body", "body": answer})


async def echo(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message["text"]})


async def live(receive, send):
    while (message := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": message["type"] + ".complete"})
