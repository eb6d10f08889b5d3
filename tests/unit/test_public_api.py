"""The public surface. A change here is a change for every application."""

import subprocess
import sys

import goverse

PUBLIC = [
    "ApplicationError",
    "Conflict",
    "Context",
    "DeadlineExceeded",
    "Executed",
    "FailedPrecondition",
    "GoverseError",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "NotImplementedYet",
    "Object",
    "ObjectFailed",
    "Overloaded",
    "PermissionDenied",
    "RateLimited",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "broadcast",
    "cancel",
    "context",
    "create",
    "delete",
    "get",
    "issue",
    "message",
    "method",
    "options",
    "push",
]


def test_the_public_names_are_these():
    assert sorted(goverse.__all__) == PUBLIC
    for name in PUBLIC:
        assert hasattr(goverse, name)


def test_cluster_errors_are_not_public():
    for name in ("NotOwner", "Fenced", "LinkBroken", "ClusterError"):
        assert not hasattr(goverse, name)


def test_importing_goverse_loads_no_server_library():
    libraries = ("grpc", "aetcd", "uvicorn", "starlette", "click", "prometheus_client", "yaml")
    code = f"import sys, goverse; print([m for m in {libraries} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_client_is_a_package_of_its_own():
    import goverse.client

    assert goverse.client.__name__ == "goverse.client"
