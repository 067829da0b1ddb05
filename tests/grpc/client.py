"""A client in gRPC's own library for Python: each line that it reads is a call, each line that it writes says what the
library made of its answer."""

import json
import queue
import sys
import threading

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

options = [("grpc.enable_retries", 1)]
retries = {
    "methodConfig": [{
        "name": [{"service": "payments.v1.Payments"}],
        "retryPolicy": {
            "maxAttempts": 5,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.1s",
            "backoffMultiplier": 1,
            "retryableStatusCodes": ["UNAVAILABLE"],
        },
    }]
}
plain = grpc.insecure_channel(sys.argv[1], [("grpc.enable_retries", 0)])
insistent = grpc.insecure_channel(sys.argv[1], [("grpc.service_config", json.dumps(retries))])
lock = threading.Lock()


def say(line):
    with lock:
        print(json.dumps(line), flush=True)


def lines(metadata):
    return [[key, value if isinstance(value, str) else value.hex()] for key, value in metadata or []]


def details(error):
    status = rpc_status.from_call(error)
    said = {}
    for detail in status.details if status else []:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            said |= {"reason": info.reason, "domain": info.domain, "metadata": dict(info.metadata)}
        elif detail.Unpack(retry):
            said |= {"retry_delay_s": retry.retry_delay.seconds}
    return said


def call(order):
    channel = insistent if order.get("retries") else plain
    messages = [message.encode() for message in order["messages"]]
    metadata = [tuple(line) for line in order["metadata"]]
    kind, method, heard = order["kind"], order["method"], []
    said = {"message": order["id"], "heard": heard}
    try:
        if kind == "unary":
            body, answer = channel.unary_unary(method).with_call(messages[0], metadata=metadata, timeout=20)
            heard.append(body.decode())
        elif kind == "stream":
            answer = channel.unary_stream(method)(messages[0], metadata=metadata, timeout=20)
            heard.extend(message.decode() for message in answer)
        else:
            # The next message is sent once the one before it is answered.
            turn = queue.Queue()
            answer = channel.stream_stream(method)(iter(turn.get, None), metadata=metadata, timeout=20)
            for message in messages:
                turn.put(message)
                heard.append(next(answer).decode())
            turn.put(None)
            heard.extend(message.decode() for message in answer)
        error = answer
    except grpc.RpcError as caught:
        error = caught
        said["details"] = details(caught)
    say(said | {
        "code": error.code().name,
        "text": error.details(),
        "initial": lines(error.initial_metadata()),
        "trailing": lines(error.trailing_metadata()),
    })


for line in sys.stdin:
    threading.Thread(target=call, args=[json.loads(line)], daemon=True).start()
