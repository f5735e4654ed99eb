"""What must docs/reference/study.md say? Everything the models know: ``python -m tests.study_reference`` prints it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

from bioface_core.config import Study
from bioface_core.sections import Section

_ATTRIBUTE = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.M)
_PLAIN = {"boolean": "`true` or `false`", "string": "text", "null": "`null`", "array": "list of texts"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_TOP = """\
# The study file

Which settings does a study have, what may each be, and what does it mean? A study is one YAML file; a key that is not
in it has its default. Here `train.rate` stands for `rate:` under `train:`, as it is written after `-s`:

```sh
bioface simulate demo -s train.rate=1e-3 -s federation.rounds=20 -s name=longer
```

The value is YAML. An unknown key, or a value of the wrong kind, is refused in one line that names the nearest key or
what was expected. Shipped studies, in `configs/`: `demo`, `paper`, `private`,
`research` and `smoke`.

**The study's id** is the SHA-256 of all settings but `simulation`, `speed` and `model.base`; of a base that is a file,
`model.base_sha256` is part of it. A begun run folder accepts a study with the same id and the same `simulation`, of
which `engine`, `workers` and `compare` may differ; where the base is no file, `model.base` must be the same too.

Everything here may be logged and sent. Nothing that is derived from patients is a setting.

*This page is made from `bioface_core/sections.py` and `config.py` by `python -m tests.study_reference`; a test compares
them.*
"""


def page() -> str:
    """The whole page."""
    return _TOP + "".join(_sections(Study, ""))


def keys(section: type[Section] = Study, prefix: str = "") -> list[str]:
    """Every key of a study, as it is written after ``-s``."""
    own = [prefix + name for name in section.model_fields if name not in _nested(section)]
    return own + [key for name, part in _nested(section).items() for key in keys(part, f"{prefix}{name}.")]


def _sections(section: type[Section], prefix: str) -> Iterator[str]:
    """A heading and a table for a section, then for those in it."""
    rows = "".join(_rows(section, prefix))
    heading = f"`{prefix.removesuffix('.')}`" if prefix else "The study itself"
    table = "| key | value | default | meaning |\n|---|---|---|---|\n"
    yield f"\n## {heading}\n\n" + (f"{_summary(section)}\n\n" if prefix else "") + table + rows
    for name, part in _nested(section).items():
        yield from _sections(part, f"{prefix}{name}.")


def _rows(section: type[Section], prefix: str) -> Iterator[str]:
    schema, meanings = section.model_json_schema()["properties"], _meanings(section)
    for name, field in section.model_fields.items():
        if name not in _nested(section):
            default = json.dumps(field.default).strip('"')
            yield f"| `{prefix}{name}` | {_kind(schema[name])} | `{default}` | {meanings[name]} |\n"


def _nested(section: type[Section]) -> dict[str, type[Section]]:
    fields = {name: field.annotation for name, field in section.model_fields.items()}
    return {name: kind for name, kind in fields.items() if isinstance(kind, type) and issubclass(kind, Section)}


def _kind(schema: dict[str, Any]) -> str:
    """What a value may be, from its JSON schema."""
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"])
    if schema["type"] in _PLAIN:
        return _PLAIN[schema["type"]]
    bounds = [f"{word} {schema[bound]:,}" for bound, word in _BOUNDS.items() if bound in schema]
    return ", ".join(["whole number" if schema["type"] == "integer" else "number", *bounds])


def _summary(section: type[Section]) -> str:
    """What a section's docstring says before its attributes."""
    return _flowing((inspect.getdoc(section) or "").partition("Attributes:")[0])


def _meanings(section: type[Section]) -> dict[str, str]:
    """Attribute to what the docstring says of it; a nested section describes itself."""
    attributes = (inspect.getdoc(section) or "").partition("Attributes:")[2]
    return {name: _flowing(text).replace("|", "\\|") for name, text in _ATTRIBUTE.findall(attributes)}


def _flowing(text: str) -> str:
    return " ".join(text.split()).replace("``", "`")


if __name__ == "__main__":
    print(page(), end="")
