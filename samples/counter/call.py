import asyncio

from counter import Counter

import goverse.client


async def main() -> None:
    async with goverse.client.connect("localhost:49000") as client:
        print(await client.get(Counter, "my-counter").add(5))


asyncio.run(main())
