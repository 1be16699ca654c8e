"""How JSON is written: numbers short, lists of numbers on one line, so that a change can be read in a diff."""

import json
from pathlib import Path


def write_json(path: Path, data) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", "utf-8")


def rounded(value):
    """Floats with the eight digits that tell one f32 from the next in most places; the tolerance is far above."""
    if isinstance(value, float):
        return float(f"{value:.8g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def as_text(value, depth: int = 0) -> str:
    """JSON with a line for each entry, but lists of numbers or short texts on one line."""
    inner = " " * (depth + 1)
    if isinstance(value, dict) and depth < 3 and any(isinstance(item, (dict, list, str)) for item in value.values()):
        items = [f"{inner}{json.dumps(key)}: {as_text(item, depth + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(items) + "\n" + " " * depth + "}"
    if isinstance(value, list) and any(isinstance(item, (list, dict)) for item in value):
        return "[\n" + ",\n".join(inner + as_text(item, depth + 1) for item in value) + "\n" + " " * depth + "]"
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
