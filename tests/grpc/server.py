"""A service in gRPC's own library for Python: payments that do what their request says, and an echo that streams.

Messages are bytes: no generated code is needed. It says on which port it listens, and counts what it executes."""

import itertools
import json
import threading
from concurrent import futures

import grpc

MAX_MESSAGE = 100_000

gate = threading.Event()
numbers = itertools.count(1)


def say(message, **more):
    print(json.dumps({"message": message, **more}), flush=True)


def create(request, context):
    number = next(numbers)
    wish = request.decode()
    say("executed", number=number, wish=wish, metadata=[[k, v] for k, v in context.invocation_metadata() if isinstance(v, str)])
    context.send_initial_metadata([("x-region", "north")])
    context.set_trailing_metadata([("x-cost", str(number)), ("x-receipt-bin", b"\x00\xff")])
    if wish == "slow":
        gate.wait(30)
    if wish.startswith("fails "):
        context.abort(getattr(grpc.StatusCode, wish.removeprefix("fails ")), f"no. {number}: 100% sure")
    if wish == "much":
        return bytes(MAX_MESSAGE + 1)
    return f"paid {number}".encode()


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def chat(requests, context):
    for request in requests:
        yield b"heard " + request
    context.set_trailing_metadata([("x-heard", "all")])


def open_gate(request, context):
    gate.set()
    return b""


def service(name, **methods):
    return grpc.method_handlers_generic_handler(name, methods)


server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_send_message_length", MAX_MESSAGE)])
server.add_generic_rpc_handlers([
    service(
        "payments.v1.Payments",
        Create=grpc.unary_unary_rpc_method_handler(create),
        Count=grpc.unary_stream_rpc_method_handler(count),
    ),
    service(
        "echo.v1.Echo",
        Count=grpc.unary_stream_rpc_method_handler(count),
        Chat=grpc.stream_stream_rpc_method_handler(chat),
        Open=grpc.unary_unary_rpc_method_handler(open_gate),
    ),
])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
say("listening", port=port)
server.wait_for_termination()
