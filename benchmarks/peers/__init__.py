"""What Goverse is compared with: each in a virtual environment of its own, made on demand.

A peer is a driver, the module ``NAME_calls`` here, run with the Python of that environment, whose
packages ``NAME.txt`` pins (and ``NAME.json`` those from npm). It prints one line once its actors
answer, then one `Load` for every line that asks for a run. Drivers, and what they import, import
nothing that peers lack.
"""

PEERS = ("xoscar", "ray", "restate")
