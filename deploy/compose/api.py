#!/usr/bin/env python3
"""A payments API to try oncegate with: it charges at every POST, whoever asks and however often."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count

charges = count(1)


class Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        payload = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        charge = {"charge": f"ch_{next(charges)}", "for": payload.decode(errors="replace")}
        self.answer(201, charge)

    def do_GET(self):
        self.answer(200, {"path": self.path})

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


if __name__ == "__main__":
    host, _, port = os.environ.get("LISTEN", "0.0.0.0:9000").rpartition(":")
    ThreadingHTTPServer((host, int(port)), Api).serve_forever()
