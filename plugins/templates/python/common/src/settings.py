"""The operator's table, read by config.schema.json: that file alone holds keys, defaults and
ranges. It knows whole numbers and texts.
"""

import json
from typing import Any

from componentize_py_types import Err


def read(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """Raises `Err`: one sentence that names the key, what was found and what is expected."""
    try:
        config = json.loads(text)
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise Err("config: expected a JSON object")
    keys = schema["properties"]
    for key in config:
        if key not in keys:
            known = ", ".join(f'"{known}"' for known in keys)
            raise Err(f"config.{key}: unknown key, expected one of {known}")
    settings = {}
    for key, rules in keys.items():
        settings[key] = config.get(key, rules.get("default"))
        if expected := mistake(rules, settings[key]):
            found = json.dumps(settings[key], ensure_ascii=False)[:40]
            raise Err(f"config.{key}: found {found}, expected {expected}")
    return settings


def mistake(rules: dict[str, Any], value: Any) -> str | None:
    """What is expected instead, if anything."""
    if rules["type"] == "string":
        least, most = rules.get("minLength", 0), rules.get("maxLength", 4294967295)
        fits = isinstance(value, str) and least <= len(value) <= most
        return None if fits else f"a text of {least} to {most} characters"
    least, most = rules.get("minimum", 0), rules.get("maximum", 4294967295)
    # To Python, true is a number.
    fits = type(value) is int and least <= value <= most
    return None if fits else f"a whole number from {least} to {most}"
