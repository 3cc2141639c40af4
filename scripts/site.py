"""A hook of mkdocs: the site is the repository's own Markdown at its own paths, so a link there is a link here.

From the pages of the navigation on, whatever a page links to comes along: pages, pictures, files; notebooks as pages.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The theme's files, and ours as they lie in the repository."""
    ours = Path(config.docs_dir)
    found = Files([file for file in files if not file.abs_src_path or not Path(file.abs_src_path).is_relative_to(ours)])
    wanted = [page for group in config.nav or [] for page in _pages(group)] + [str(style) for style in config.extra_css]
    seen = set(wanted)
    while wanted:
        name = wanted.pop()
        path, text = ROOT / name, ""
        if path.suffix == ".ipynb":
            text = notebook(path)
            found.append(File.generated(config, f"{name}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV))
        elif path.is_file():  # of others mkdocs says so, with the page
            text = path.read_text(encoding="utf-8") if path.suffix == ".md" else ""
            found.append(File.generated(config, name, abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
        linked = {os.path.normpath(Path(name).parent / target) for target in LINK.findall(text)}
        wanted += linked - seen
        seen |= linked
    return found


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to notebooks lead to their pages."""
    return markdown.replace(".ipynb)", ".ipynb.md)")


def notebook(path: Path) -> str:
    """Cells and outputs as Markdown: tables and pictures as they are, text as text."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if "image/png" in data:
                parts.append(f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})".replace("\n", ""))
            elif "text/html" in data:
                parts.append("".join(data["text/html"]))
            else:
                parts.append("```text\n" + "".join(data["text/plain"]).rstrip() + "\n```")
    return "\n\n".join(parts) + "\n"


def _pages(entry: object) -> list[str]:
    if isinstance(entry, dict):
        return [page for value in entry.values() for page in _pages(value)]
    return (
        [page for value in entry for page in _pages(value)]
        if isinstance(entry, list)
        else [str(entry).replace(".ipynb.md", ".ipynb")]
    )
