from counter_pb2 import AddRequest, Count

import goverse


class CounterPb(goverse.Object):
    """A counter per id that speaks protobuf."""

    count: Count = Count()

    @goverse.method
    async def add(self, request: AddRequest) -> Count:
        self.count.value += request.amount
        self.count.last_note = request.note
        return self.count

    @goverse.method(read_only=True)
    async def read(self) -> Count:
        return self.count
