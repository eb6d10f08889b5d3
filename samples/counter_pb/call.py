import asyncio

from counter_pb import AddRequest, CounterPb

import goverse.client


async def main() -> None:
    async with goverse.client.connect("localhost:49000") as client:
        count = await client.get(CounterPb, "my-counter").add(AddRequest(amount=5))
        print(count.value)


asyncio.run(main())
