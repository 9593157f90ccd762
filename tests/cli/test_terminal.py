"""What strangers wrote is shown, and never obeyed."""

import io

from rich.console import Console

from relaymesh.cli.market_screen import price_table
from relaymesh.cli.terminal import clean_line, clean_text, short_npub
from relaymesh.nostr.identifiers import decode_public_key, encode_public_key

CLIPBOARD = "\x1b]52;c;cm0gLXJmIC8=\x07"


def test_control_and_direction_characters_never_reach_a_terminal() -> None:
    hostile = f"a{CLIPBOARD}\x9b2J\r\x7f\u202eb\u2066c\u2028d\ud800"
    for cleaned in (clean_line(hostile), clean_text(hostile)):
        assert cleaned.isprintable() or set(cleaned) <= set("abcd]52;cm0gLXJmIC8=2J\N{REPLACEMENT CHARACTER}")
        assert "\x1b" not in cleaned and "\x9b" not in cleaned
    assert clean_line("two\nlines") == "two\N{REPLACEMENT CHARACTER}lines"
    assert clean_text("two\n\tlines, 日本語, 👩\u200d💻") == "two\n\tlines, 日本語, 👩\u200d💻"


def test_a_models_name_is_neither_markup_nor_an_order_to_the_terminal() -> None:
    row = {
        "node": "npub1" + "q" * 58,
        "label": "main",
        "model": f"[/] [bold]m[/bold]{CLIPBOARD}",
        "job_types": ["chat"],
    }
    prices = {"input_msat": 1, "output_msat": 2, "per": 1, "unit": "byte", "minimum_msat": 3}
    screen = io.StringIO()
    Console(file=screen, force_terminal=True, color_system=None, width=200).print(
        price_table([{**row, **prices, "state": "up", "free": 1, "queue": 0, "standing": None}], None)
    )
    assert "[/] [bold]m[/bold]" in screen.getvalue()
    assert "\x1b]" not in screen.getvalue()


def test_a_node_is_shown_by_the_beginning_of_its_npub() -> None:
    key = decode_public_key("11" * 32)
    assert encode_public_key(key).startswith(short_npub(key).rstrip("…"))
