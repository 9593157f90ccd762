"""The page that a browser shows at the relay's address: one document, no script, nothing fetched from anywhere."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from relaymesh_relay.metrics import Live

CONTENT_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Whatever slipped into the page could neither run nor fetch."""
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1a1c20; --soft: #5d636e; --line: #dfe2e7; --page: #f6f7f9; --card: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaee; --soft: #9aa1ad; --line: #2f343d; --page: #14161a; --card: #1c1f25; }
}
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 44rem; margin: 0 auto; padding: 3rem 1.25rem; }
h1 { margin: 0; font-size: 2rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1rem; color: var(--soft); font-weight: 600; }
p { margin: .5rem 0 0; overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.live { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 2rem; }
.live div { flex: 1 1 9rem; padding: 1rem; border: 1px solid var(--line); border-radius: .5rem; }
.live div, li { background: var(--card); }
.live b { display: block; font-size: 1.6rem; font-variant-numeric: tabular-nums; }
ul { display: flex; flex-wrap: wrap; gap: .4rem; margin: 0; padding: 0; list-style: none; }
li { padding: .1rem .6rem; border: 1px solid var(--line); border-radius: 1rem; }
table { width: 100%; border-collapse: collapse; background: var(--card); }
td { padding: .45rem .75rem; border: 1px solid var(--line); }
td + td { text-align: right; font-variant-numeric: tabular-nums; }
"""


def human_page(document: Mapping[str, Any], live: Live) -> str:
    """The page, in HTML.

    Args:
        document: The relay information document (NIP-11).
        live: What goes on at this moment.
    """
    name, description = html.escape(document.get("name", "Nostr relay")), html.escape(document.get("description", ""))
    numbers = (
        ("connections", live.connections),
        ("subscriptions", live.subscriptions),
        ("events stored", live.stored_events),
    )
    cards = "".join(f"<div><b>{value:,}</b>{label}</div>" for label, value in numbers)
    nips = "".join(f"<li>{nip:02}</li>" for nip in document["supported_nips"])
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style><main><h1>{name}</h1><p>{description}</p>"
        f'<p class="soft">This is a Nostr relay: add its address to your client to use it.</p>{_reach(document)}'
        f'<div class="live">{cards}</div><h2>NIPs</h2><ul>{nips}</ul>'
        f"<h2>Limits</h2><table>{_rows(document['limitation'].items())}</table></main></html>\n"
    )


def _reach(document: Mapping[str, Any]) -> str:
    known: Sequence[tuple[str, str]] = (("Contact", "contact"), ("Terms", "terms_of_service"))
    said = [f"{label}: {html.escape(document[name])}" for label, name in known if document.get(name)]
    return f'<p class="soft">{" · ".join(said)}</p>' if said else ""


def _rows(limits: Iterable[tuple[str, object]]) -> str:
    return "".join(f"<tr><td>{html.escape(_words(name))}</td><td>{_value(value)}</td></tr>" for name, value in limits)


def _words(name: str) -> str:
    """A name of NIP-11 as people write it: `max_message_length` becomes "maximum message length"."""
    full = {"max": "maximum", "min": "minimum", "subid": "subscription id", "pow": "proof of work"}
    return " ".join(full.get(word, word) for word in name.split("_"))


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else html.escape(str(value))
