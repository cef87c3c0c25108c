"""What the documents say of the code: commands, keys, files, functions and links exist."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from detectron2.config import get_cfg as get_detectron2_cfg

import fcos_d2
from fcos_d2.checkpoint.formats.format import flatten
from fcos_d2.cli import main
from fcos_d2.engine.main import run

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text("utf-8")
# "train_net.py", or "fcos-d2" with a command; what follows it on its (continued) line.
SHOWN_COMMAND = re.compile(r"^.*?(train_net\.py|fcos-d2 [a-z][a-z-]*)(.*)$", re.MULTILINE)


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130


def test_the_model_zoo_page_holds_the_current_tables():
    script = [sys.executable, "tools/model_zoo_table.py"]
    tables = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tables.strip() in (ROOT / "docs/model_zoo.md").read_text("utf-8")


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name}: {target}#{anchor}"


def anchors(page):
    """Anchors of a page's headings: lower case, hyphens for spaces, no other punctuation."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: page.name)
def test_shown_commands_and_their_flags_exist(page, capsys):
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [code.replace("\\\n", "") for language, code in blocks if not language]
    lines += re.findall(r"`(fcos-d2 [^`]*)`", text)
    for command, rest in SHOWN_COMMAND.findall("\n".join(lines)):
        with pytest.raises(SystemExit) as end:
            if command == "train_net.py":
                run(["--help"])
            else:
                main([command.split()[1], "--help"])
        known = capsys.readouterr().out
        assert end.value.code == 0, f"{page.name}: {command}"
        for flag in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest):
            assert re.search(rf"{flag}\b(?!-)", known), f"{page.name}: {command} {flag}"


def test_the_config_page_has_every_key_with_its_default():
    text = (ROOT / "docs/config.md").read_text("utf-8")
    rows = re.findall(r"^\| `([A-Z][\w.]+)` \| `(.*?)` \| [^|]+ \|$", text, re.MULTILINE)
    documented = {key: yaml.safe_load(default) for key, default in rows if "." in key}
    before, ours = flatten(get_detectron2_cfg()), flatten(fcos_d2.get_cfg())
    added = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in ours.items()
        if key not in before
    }
    assert documented == added


def test_the_tree_of_the_architecture_page_is_that_of_the_package():
    tree = re.search(r"^fcos_d2/\n(.*?)^\w", ARCHITECTURE, re.DOTALL | re.MULTILINE)[1]
    folders, drawn = [], set()
    for line in tree.splitlines():
        indent, name = re.match(r"( *)(\S+)", line).groups()
        del folders[len(indent) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            drawn.add("".join([*folders, name]))
    package = ROOT / "fcos_d2"
    files = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert drawn == {name for name in files if not Path(name).name.startswith("__")}


def test_the_where_is_table_names_files_and_names_that_exist():
    table = ARCHITECTURE.split("## Where is")[1]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 10
    for question, _, places in rows:
        for place in places.removesuffix(" |").split("; "):
            path, names = place.split(": ")
            defined = definitions(ROOT / path.strip("`"))
            for name in re.findall(r"`([^`]+)`", names):
                assert name in defined, f"{question}: {path} has no {name}"


def definitions(path):
    """Names of a module's functions, classes, methods (as Class.method) and variables."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{x.name}" for x in node.body if isinstance(x, ast.FunctionDef)}
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names
