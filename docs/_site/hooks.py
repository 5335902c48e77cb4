"""What mkdocs.yml cannot say: pages that are written from the code, and files of the repository that pages name."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # hooks are loaded by their path

from generated import PAGES, ROOT
from mkdocs.structure.files import File, Files

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(((?:\.\./)+)([^)#]+)\)")
_FOLDER = "repository"  # of the site, in which those files lie


def on_files(files: Files, config: Any) -> Files:
    named = {path for file in files.documentation_pages() for path in _named(file)}
    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    for path in named:
        if (ROOT / path).is_file():
            files.append(File.generated(config, f"{_FOLDER}/{path}.txt", content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link out of docs/ leads to the file's text, and that to a folder is its name alone."""

    def inside(found: re.Match[str]) -> str:
        text, up, path = found.groups()
        if (target := _outside(page.file.src_uri, up, path)) is None:
            return found[0]
        if not (ROOT / target).exists():
            raise ValueError(f"{page.file.src_uri} names {target}, which the repository does not have.")
        return f"[{text}]({up[3:]}{_FOLDER}/{target}.txt)" if (ROOT / target).is_file() else text

    return _OUTSIDE.sub(inside, markdown)


def _named(file: File) -> set[str]:
    found = _OUTSIDE.findall(Path(str(file.abs_src_path)).read_text())
    return {path for _, up, raw in found if (path := _outside(file.src_uri, up, raw)) is not None}


def _outside(page: str, up: str, path: str) -> str | None:
    """The file of the repository, or None where the link stays in docs/."""
    return path if up.count("../") > page.count("/") else None
