"""What import-linter cannot say: purity below the line, clocks, asyncio, and what the relay may know."""

import ast
from collections.abc import Iterator

from tests.house import tree

# Below the line a module imports only this. The list is closed: no clock, no randomness and no socket is in reach,
# rather than those that somebody thought of forbidding.
PURE_STANDARD_LIBRARY = frozenset(
    "__future__ abc base64 binascii bisect collections contextlib dataclasses enum functools hashlib heapq hmac "
    "ipaddress itertools json math operator re statistics string struct types typing unicodedata".split()
)
PURE_LIBRARIES: dict[str, set[str]] = {
    "nostr": {"coincurve", "cryptography", "orjson", "pydantic", "pynostr", "secp256k1", "secrets"},
    "protocol": {"annotated_types", "cryptography", "orjson", "pydantic", "pydantic_core"},
    "market": {"numpy", "orjson"},
    "machines": {"orjson"},
    "units": set(),
    "errors": set(),
}
NOT_PURE_BUILTINS = frozenset({"open", "print", "input", "exec", "eval", "breakpoint", "globals", "__import__"})

# The system's wall clock is named by commands, by the simulated network's own process and in one place of the relay;
# everybody else is told.
WALL_CLOCK = frozenset({"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"})
MAY_NAME_THE_CLOCK = ("relaymesh.cli", "relaymesh.lightning_sim.__main__", "relaymesh_relay.transport")

# asyncio itself, where a library forces it.
MAY_IMPORT_ASYNCIO = ("relaymesh.adapters", "relaymesh_relay")

RELAY_MAY_IMPORT = ("relaymesh.nostr", "relaymesh.units", "relaymesh.errors", "relaymesh.configuration")


def _within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def _impurities(module: tree.Module) -> Iterator[str]:
    for node in module.nodes:
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{module.path}:{node.lineno}: async"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in NOT_PURE_BUILTINS:
            yield f"{module.path}:{node.lineno}: {node.func.id}()"


def test_below_the_line_nothing_waits_or_opens_anything() -> None:
    found = [line for module in tree.code() if module.is_below_the_line for line in _impurities(module)]
    assert not found, "below the line time, entropy and the world are arguments:\n" + "\n".join(found)


def test_below_the_line_only_pure_modules_are_imported() -> None:
    found = []
    for module in tree.code():
        if not module.is_below_the_line:
            continue
        allowed = (*PURE_STANDARD_LIBRARY, *PURE_LIBRARIES[module.floor], "relaymesh")
        found += [f"{module.path}:{line}: {name}" for name, line in tree.imports(module) if not _within(name, allowed)]
    assert not found, "not on the list of what is allowed below the line:\n" + "\n".join(found)


def test_only_key_generation_draws_randomness_below_the_line() -> None:
    users = [m for m in tree.code() if m.is_below_the_line and "secrets" in _roots(m)]
    assert [module.name for module in users] == ["relaymesh.nostr.keys"]
    (generate,) = (n for n in users[0].nodes if isinstance(n, ast.FunctionDef) and n.name == "generate")
    drawn = [line for name, line in _all_names(users[0]) if name.startswith("secrets.")]
    assert drawn, "KeyPair.generate draws from the system"
    assert all(generate.lineno <= line <= (generate.end_lineno or 0) for line in drawn)


def _roots(module: tree.Module) -> set[str]:
    return {name.split(".")[0] for name, _ in tree.imports(module)}


def _all_names(module: tree.Module) -> Iterator[tuple[str, int]]:
    for node in module.nodes:
        if isinstance(node, ast.Attribute):
            yield _dotted(node), node.lineno


def test_the_wall_clock_is_named_only_where_a_process_begins() -> None:
    found = [
        f"{module.path}:{line}: {name}"
        for module in tree.code()
        if not _within(module.name, MAY_NAME_THE_CLOCK)
        for name, line in (*_all_names(module), *tree.imports(module))
        if name.removeprefix("datetime.") in WALL_CLOCK or name in WALL_CLOCK
    ]
    assert not found, "take `now` or a clock as an argument:\n" + "\n".join(found)


def test_asyncio_stays_where_a_library_forces_it() -> None:
    found = [
        f"{module.path}:{line}: {name}"
        for module in tree.code()
        if not _within(module.name, MAY_IMPORT_ASYNCIO)
        for name, line in tree.imports(module)
        if name.split(".")[0] == "asyncio"
    ]
    assert not found, "use anyio:\n" + "\n".join(found)


def test_the_relay_knows_nostr_units_and_errors_and_nothing_else_of_relaymesh() -> None:
    found = [
        f"{module.path}:{line}: {name}"
        for module in tree.modules("relay/")
        for name, line in tree.imports(module)
        if name.split(".")[0] == "relaymesh" and not _within(name, RELAY_MAY_IMPORT)
    ]
    assert not found, "the relay serves any Nostr client:\n" + "\n".join(found)


def test_every_stream_between_tasks_is_bounded() -> None:
    found = []
    for module in tree.code():
        for node in module.nodes:
            if isinstance(node, ast.Call):
                function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
                if _dotted(function).split(".")[-1] == "create_memory_object_stream" and any(
                    _dotted(argument).split(".")[-1] == "inf" for argument in node.args
                ):
                    found.append(f"{module.path}:{node.lineno}")
    assert not found, "a stream without a bound hides a slow reader until memory ends:\n" + "\n".join(found)
