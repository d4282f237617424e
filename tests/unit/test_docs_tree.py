"""Pins decision record 2: which files of the design do not exist yet, and which exist beside it."""

from __future__ import annotations

from tests.conftest import ROOT
from tests.unit.test_docs import blocks, quoted, rows

RECORD = "docs/decisions/0002-first-forms.md"
DESIGN = {
    "governor": "pid limit admission tuning",
    "qos": "digest window objective policy remediation",
    "rollout": "bucketing spec stages guards promotion",
    "transport": "connection protocol server streams sse limits",
    "wicketgate": "runtime loops recorder flags ledger snapshot config metrics logs platform"
    " inference errors",
    "wicketgate/api": "score embeddings health keys ofrep",
    "wicketgate/pipeline": "queue prefix warm text",
    "wicketgate/pipeline/tools": "",
    "wicketgate/api/admin": "app",
    "wicketgate/api/anthropic": "routes",
    "wicketgate/api/openai": "routes",
    "wicketgate/api/responses": "routes",
    "wicketgate/engine": "client wire host scheduler plant simulated",
    "wicketgate/engine/kv": "store",
    "wicketgate/engine/mlx": "adapter prefill sampling scoring drafting masks",
    "wicketgate/cluster": "messages membership placement node router",
}
"""The files that the design names, by folder; where one has become a folder, the heart of that."""
PLANNED = {f"{folder}/{name}.py" for folder, names in DESIGN.items() for name in names.split()}


def existing() -> set[str]:
    return {
        f"{folder}/{file.name}"
        for folder in DESIGN
        for file in (ROOT / folder).glob("*.py")
        if not file.name.startswith("__")
    }


def listed(heading: str) -> set[str]:
    return {name for row in rows(RECORD, heading) for name in quoted(row[0])}


def test_the_record_lists_the_files_that_are_not_there_yet() -> None:
    assert listed("Not there yet") == PLANNED - existing()


def test_the_record_lists_the_files_that_stand_beside_the_design() -> None:
    assert listed("Beside the design") == existing() - PLANNED


def test_the_page_on_architecture_names_every_file() -> None:
    (tree,) = (b.text for b in blocks("docs/architecture.md", "text") if "composition root" in b.text)
    words = set(tree.replace(",", " ").replace(".py", " ").replace("|", " ").split())
    prefixes = tuple(word.removesuffix("*") for word in words if word.endswith("*"))

    missing = {
        path
        for path in existing()
        if (stem := path.rpartition("/")[2].removesuffix(".py")) not in words
        and not stem.startswith(prefixes)
        and not path.startswith(tuple(f"{folder}/" for folder in DESIGN if folder.count("/") == 2))
        and stem != "bounds"
    }

    assert missing == set()
