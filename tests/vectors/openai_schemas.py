"""
Makes openai_schemas.json: the schemas of OpenAI's published API description that our answers must satisfy.

Source: openapi.json of github.com/openai/openai-openapi (MIT, openai_schemas.LICENSE), descriptions and
examples left out. Run: python tests/vectors/openai_schemas.py OPENAPI.JSON
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOTS = (
    "CreateChatCompletionResponse",
    "CreateChatCompletionStreamResponse",
    "CreateCompletionResponse",
    "CreateEmbeddingResponse",
    "Model",
    "ListModelsResponse",
    "Response",
    "ResponseStreamEvent",
    "ErrorResponse",
    "ResponseItemList",
)
ABOUT = {"description", "example", "examples", "title", "externalDocs", "deprecated", "default", "readOnly"}


def bare(value: Any, *, are_properties: bool = False) -> Any:
    """Leave out what describes; the names of properties are no keywords."""
    if isinstance(value, dict):
        return {
            name: bare(part, are_properties=name == "properties" and not are_properties)
            for name, part in value.items()
            if are_properties or not (name in ABOUT or name.startswith("x-"))
        }
    return [bare(part) for part in value] if isinstance(value, list) else value


def main(path: Path) -> None:
    document = json.loads(path.read_text())
    schemas, kept, wanted = document["components"]["schemas"], {}, list(ROOTS)
    while wanted:
        name = wanted.pop()
        if name not in kept:
            kept[name] = bare(schemas[name])
            wanted += re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(kept[name]))
    out = {
        "source": "github.com/openai/openai-openapi",
        "version": document["info"]["version"],
        "license": "MIT",
        "components": {"schemas": dict(sorted(kept.items()))},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
