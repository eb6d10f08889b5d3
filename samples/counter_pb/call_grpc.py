import grpc
from counter_pb2 import AddRequest, Count
from google.protobuf.any_pb2 import Any

from goverse.transport.pb.gate.gate_pb2 import CallObjectRequest
from goverse.transport.pb.gate.gate_pb2_grpc import GateServiceStub

with grpc.insecure_channel("localhost:49000") as channel:
    request = CallObjectRequest(type="CounterPb", id="my-counter", method="add")
    request.request.Pack(AddRequest(amount=5, note="over gRPC"))
    answer: Any = GateServiceStub(channel).CallObject(request, timeout=10).response
    count = Count()
    answer.Unpack(count)
    print(count.value)
