"""The house stays in order: direction of imports, no circles, and sizes that fit on a screen."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Top to bottom: a room imports only rooms of lower lines.
LEVELS = [
    {"__main__"},
    {"cli"},
    {"detect", "export", "quickstart"},
    {"engine", "inference"},
    {"model_zoo"},
    {"data", "checkpoint"},
    {"config"},
    {"modeling"},
    {"evaluation", "utils", "version"},
]
ROOT_MODULES = 7
FCOS_LINES = 240
FILE_LINES = 400
FUNCTION_LINES = 60
# Lists of options may be longer: three of four statements of the body define an option.
LISTS_OF_OPTIONS = {("fcos_d2/config.py", "add_fcos_config")}

FILES = {p.relative_to(ROOT).as_posix(): p for p in sorted(ROOT.glob("fcos_d2/**/*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in FILES.items()}


def file_of(module):
    """File that the dotted name of a module stands for, or None."""
    stem = module.replace(".", "/")
    return next((name for name in (f"{stem}.py", f"{stem}/__init__.py") if name in FILES), None)


def imported_files(name):
    """Files of the package that one of its files imports, also inside functions."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {file_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*name.split("/")[: -node.level], *base.split(".")]).rstrip(".")
            found |= {file_of(f"{base}.{alias.name}") or file_of(base) for alias in node.names}
    return found - {None, name}


IMPORTS = {name: imported_files(name) for name in FILES}


def room(name):
    return name.split("/")[1].removesuffix(".py")


def lines(name):
    return len(FILES[name].read_text("utf-8").splitlines())


def functions():
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield name, node


def test_imports_point_down():
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    unknown = {room(name) for name in FILES} - {*level, "__init__"}
    assert not unknown, f"give these new rooms a place in LEVELS: {unknown}"
    wrong = []
    for name in FILES:
        for target in IMPORTS[name]:
            a, b = room(name), room(target)
            if a not in (b, "__init__") and (b == "__init__" or level[a] >= level[b]):
                wrong.append(f"{name} imports {target}")
    assert not wrong, "move what both need to a lower room: " + "; ".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        pytest.fail(f"move what two of these files share to a file of its own: {circle}")


def test_the_root_holds_few_modules():
    names = [n for n in FILES if n.count("/") == 1 and "__" not in n]
    assert len(names) <= ROOT_MODULES, f"move one of these into a room: {names}"


def test_files_fit_in_the_head():
    limits = dict.fromkeys(FILES, FILE_LINES) | {"fcos_d2/modeling/fcos.py": FCOS_LINES}
    long = [f"{name}: {lines(name)} of {n} lines" for name, n in limits.items() if lines(name) > n]
    assert not long, f"give one idea of each a file of its own: {long}"


def defines_an_option(node):
    """``parser.add_argument(...)``, or ``cfg.SECTION.KEY = ...``."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "attr", "") == "add_argument"
    targets = getattr(node, "targets", [None])
    return isinstance(targets[0], ast.Attribute) and targets[0].attr.isupper()


def test_functions_fit_on_a_screen():
    long = {}
    for name, node in functions():
        if (n := node.end_lineno - node.lineno + 1) > FUNCTION_LINES:
            options = sum(map(defines_an_option, node.body))
            long[name, node.name] = (n, options >= 0.75 * len(node.body))
    stale = {key for key in LISTS_OF_OPTIONS if not long.get(key, (0, False))[1]}
    assert not stale, f"no longer long lists of options: take them off LISTS_OF_OPTIONS: {stale}"
    wrong = [f"{n}: {f}, {long[n, f][0]} lines" for n, f in long if (n, f) not in LISTS_OF_OPTIONS]
    assert not wrong, f"split what these functions do into named steps: {wrong}"
