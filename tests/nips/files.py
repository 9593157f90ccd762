"""Every file below nips/ that the code writes; `make docs` writes them, test_files.py compares them.

`charge.json` and `session.json` belong to the tests that check them in full, and are written here as they say.
"""

import json
from typing import Any, Final

from tests.house import tree
from tests.market import charge_vectors
from tests.nips import examples, schemas, vectors
from tests.nips.contents import CONTENTS
from tests.protocol import test_session_vectors as session_vectors

FOLDER: Final = "nips"


def contents() -> dict[str, str]:
    """What each generated file ought to hold, by its path below the root."""
    made: dict[str, Any] = {
        **{f"schemas/{content.name}.json": schemas.build(content) for content in CONTENTS},
        **{f"examples/{name}": value for name, value in examples.files().items()},
        **{f"vectors/{name}": value for name, value in vectors.files().items()},
    }
    texts = {f"{FOLDER}/{name}": render(value) for name, value in made.items()}
    texts[f"{FOLDER}/vectors/charge.json"] = charge_vectors.render()
    texts[f"{FOLDER}/vectors/session.json"] = render(session_vectors.build_vectors())
    return texts


def render(value: Any) -> str:
    """A value as our files hold it."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write() -> None:
    """Write anew what is not as it ought to be."""
    for path, text in contents().items():
        place = tree.ROOT / path
        if not place.exists() or place.read_text(encoding="utf-8") != text:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
