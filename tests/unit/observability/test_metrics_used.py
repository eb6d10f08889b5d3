"""Every metric is moved by production code: one that never is tells a dashboard a lie."""

import re
from pathlib import Path

import pytest

from goverse.observability.families import Counter, Gauge
from goverse.observability.metrics import Metrics

ROOT = Path(__file__).resolve().parents[3]
PRODUCTION = ("goverse", "goverse_node", "goverse_gate", "goverse_cli")
DEFINITIONS = ROOT / "goverse" / "observability" / "metrics.py"


def production_code() -> str:
    return "\n".join(
        path.read_text(encoding="utf-8")
        for package in PRODUCTION
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != DEFINITIONS and ROOT / "goverse" / "testing" not in path.parents
    )


def how_it_moves(name: str) -> str:
    family = getattr(Metrics(), name)
    if name in ("operation_seconds", "operation_timeouts"):
        return r"\.operation(_ended)?\("
    if isinstance(family, Gauge):
        return rf"\.{name}\.watch\("
    moves = r"(inc|follow)" if isinstance(family, Counter) else "observe"
    # Directly, or by a component that keeps the metric under a name of its own.
    return rf"\.{name}\.{moves}\(|= (self\._)?metrics\.{name}\n"


@pytest.mark.parametrize("name", Metrics().names())
def test_L35_every_metric_is_moved_by_production_code(name: str) -> None:
    pattern = how_it_moves(name)
    moved = re.search(pattern, production_code()) is not None
    assert moved, f"nothing in production code matches {pattern}: use the metric or remove it"


PAGES = sorted((ROOT / "docs" / "how-to").glob("watch-*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_metrics_that_pages_name_exist(page: Path) -> None:
    metrics = Metrics()
    families = [getattr(metrics, name) for name in metrics.names()]
    told = {family.name: family.labels for family in families}
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\bgoverse_[a-z_]+", text))
    assert len(named) > 10
    for name in named:
        plain = re.sub(r"_(total|bucket|count)$", "", name)
        assert name in told or plain in told, f"{page.name} names {name}"
    for name, labels in re.findall(r"^\| `(goverse_\w+)` \| ([\w, ]*) ?\|", text, re.MULTILINE):
        declared = told[name.removesuffix("_total")]
        assert tuple(filter(None, labels.strip().split(", "))) == declared, name


def test_every_metric_of_shards_is_explained() -> None:
    text = (ROOT / "docs" / "how-to" / "watch-shards.md").read_text(encoding="utf-8")
    source = DEFINITIONS.read_text(encoding="utf-8")
    section = source[source.index("# Ownership.") : source.index("# The process itself.")]
    names = set(re.findall(r'"(goverse_\w+)"', section)) - {
        *("goverse_members", "goverse_lease_remaining_seconds", "goverse_leases_lost")
    }
    missing = {name for name in names if f"`{name}" not in text}
    assert not missing
