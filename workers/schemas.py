"""The published JSON Schema of STEM.json, made from the models: `python -m workers.schemas` writes it."""

import json
from pathlib import Path

from workers.transcript import SCHEMA_VERSION, Transcript

TRANSCRIPT_SCHEMA = Path(__file__).parent.parent / "workflows" / "schemas" / "transcript.schema.json"


def transcript_schema() -> str:
    """The text of the schema file."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:whisperfleet:transcript:{SCHEMA_VERSION}",
        # what is written, not what would be accepted: fields with a default are always there
        **Transcript.model_json_schema(mode="serialization"),
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    TRANSCRIPT_SCHEMA.parent.mkdir(exist_ok=True)
    TRANSCRIPT_SCHEMA.write_text(transcript_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
