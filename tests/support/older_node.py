"""A node of this version that speaks to others as the version before did.

For clones whose history does not reach back that far: it says neither that it takes state nor that
it reports its load, so that nobody asks, and sends none; and it registers a weight only.
"""

from __future__ import annotations

from typing import Any

from goverse.transport.hello import FEATURES, MOVE_STATE, REPORT_LOAD, Hello

OLDER = tuple(name for name in FEATURES if name not in (MOVE_STATE, REPORT_LOAD))


def main() -> None:
    import goverse_node.__main__ as node
    import goverse_node.app as app

    ours, identity = app.our_hello, app.Identity

    def hello(*arguments: Any, **given: Any) -> Hello:
        said = ours(*arguments, **given)
        return Hello(
            said.protocol, OLDER, said.role, said.member, said.types_digest, said.client_id
        )

    def weighed(*arguments: Any, **given: Any) -> Any:
        return identity(*arguments, **{**given, "capacity": None})

    app.our_hello, app.Identity = hello, weighed  # type: ignore[misc,assignment]
    node.main()


if __name__ == "__main__":
    main()
