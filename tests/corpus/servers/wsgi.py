"""Says what a WSGI server has understood. The count stands still for a body that did not come to its end."""

import itertools
import json
import threading

numbers = itertools.count(1)
lock = threading.Lock()


def app(environ, start_response):
    body = environ["wsgi.input"].read()
    length = environ.get("CONTENT_LENGTH")
    if length and len(body) < int(length):
        start_response("400 Bad Request", [("Content-Length", "0")])
        return []
    with lock:
        number = next(numbers)
    answer = {
        "method": environ["REQUEST_METHOD"],
        "target": environ.get("RAW_URI") or environ.get("REQUEST_URI"),
        "host": environ.get("HTTP_HOST"),
        "body": body.decode("latin-1"),
        "key": environ.get("HTTP_IDEMPOTENCY_KEY"),
        "n": number,
    }
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
