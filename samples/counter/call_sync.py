from goverse.client import connect_sync

with connect_sync("localhost:49000") as client:
    counter = client.get("Counter", "my-counter")
    print(client.run(counter.add(amount=5)))
