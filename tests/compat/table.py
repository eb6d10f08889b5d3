"""What existing clients and tools speak, written down by hand, independent of ``proto/``.

A message is a list of (number, name, type), a method (request, response, streams its response).
"""

from __future__ import annotations

from tests.support.messages import Field

Messages = dict[str, tuple[Field, ...]]
Methods = dict[str, tuple[str, str, bool]]

EMPTY = "google.protobuf.Empty"
ANY = "google.protobuf.Any"

GATE_PACKAGE = "gate"
GATE_SERVICE = "GateService"

GATE_MESSAGES: Messages = {
    "RegisterResponse": ((1, "client_id", "string"),),
    "CallObjectRequest": (
        (1, "client_id", "string"),
        (2, "type", "string"),
        (3, "id", "string"),
        (4, "method", "string"),
        (5, "request", ANY),
    ),
    "CallObjectResponse": ((1, "response", ANY),),
    "CreateObjectRequest": ((1, "type", "string"), (2, "id", "string")),
    "CreateObjectResponse": ((1, "id", "string"),),
    "DeleteObjectRequest": ((1, "id", "string"), (2, "type", "string")),
    "DeleteObjectResponse": (),
    "ReliableCallObjectRequest": (
        (1, "call_id", "string"),
        (2, "type", "string"),
        (3, "id", "string"),
        (4, "method", "string"),
        (5, "request", ANY),
    ),
    "ReliableCallObjectResponse": (
        (1, "response", ANY),
        (2, "error", "string"),
        (3, "status", "string"),
    ),
}

GATE_METHODS: Methods = {
    "Register": (EMPTY, ANY, True),
    "CallObject": ("gate.CallObjectRequest", "gate.CallObjectResponse", False),
    "CreateObject": ("gate.CreateObjectRequest", "gate.CreateObjectResponse", False),
    "DeleteObject": ("gate.DeleteObjectRequest", "gate.DeleteObjectResponse", False),
    "ReliableCallObject": (
        "gate.ReliableCallObjectRequest",
        "gate.ReliableCallObjectResponse",
        False,
    ),
}

NODE_PACKAGE = "goverse"
NODE_SERVICE = "Goverse"

NODE_MESSAGES: Messages = {
    "StatusResponse": (
        (1, "advertise_addr", "string"),
        (2, "num_objects", "int64"),
        (3, "uptime_seconds", "int64"),
    ),
    "ListObjectsResponse": ((1, "objects", "repeated goverse.ObjectInfo"),),
    "ObjectInfo": ((1, "type", "string"), (2, "id", "string"), (3, "creation_time", "int64")),
}

NODE_METHODS: Methods = {
    "Status": (EMPTY, "goverse.StatusResponse", False),
    "ListObjects": (EMPTY, "goverse.ListObjectsResponse", False),
}
