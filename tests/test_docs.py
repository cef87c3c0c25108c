"""What the documents say of the code."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_model_zoo_page_holds_the_current_tables():
    script = [sys.executable, "tools/model_zoo_table.py"]
    tables = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert tables.strip() in (ROOT / "docs/model_zoo.md").read_text("utf-8")


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
