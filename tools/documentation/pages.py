"""A hook of MkDocs: the repository's Markdown becomes the site's.

Links in the repository are relative to files, so that a code host can follow them. Here those that leave docs/ are made
to stay in the site: README.md and its neighbours become pages, and a config or a script that is linked to comes along.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Pages of the site that are files beside docs/.
ROOT_PAGES = {
    "README.md": "index.md",
    "MODEL_ZOO.md": "model_zoo.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
# A fenced block, which stays as it is, or the target of a link or picture without its anchor.
LINK = re.compile(r"^```.*?^```$|(?<=\]\()(?!https?:|mailto:|#)[^)#\s]+", re.MULTILINE | re.DOTALL)
# A list right below a paragraph, which is one on a code host and needs an empty line here.
LIST = re.compile(r"^```.*?^```$|(?P<above>^(?![-#|>\s])[^\n]+)\n(?=- )", re.MULTILINE | re.DOTALL)


def linked_files(text: str, folder: str) -> set[str]:
    """Files of the repository, by their paths in it, that a page in ``folder`` links to and that are not pages."""
    paths = {posixpath.normpath(posixpath.join(folder, link)) for link in LINK.findall(text) if "```" not in link}
    return {path for path in paths if not path.startswith("docs/") and path not in ROOT_PAGES}


def site_text(text: str, folder: str) -> str:
    """The Markdown of a page in ``folder`` of the repository, as the site has it."""

    def site_link(match: re.Match[str]) -> str:
        if match[0].startswith("```"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, match[0]))
        return ROOT_PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}")

    text = LINK.sub(site_link, text)
    return LIST.sub(lambda match: match[0] if match["above"] is None else f"{match['above']}\n\n", text)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    linked = set()
    for page in files.documentation_pages():
        linked |= linked_files(page.content_string, "docs")
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        linked |= linked_files(text, "")
        files.append(File.generated(config, page, content=site_text(text, "")))
    for path in sorted(linked):
        if (ROOT / path).is_file():  # otherwise the link is reported as any other that leads nowhere
            files.append(File.generated(config, f"source/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    return markdown if page.file.src_uri in ROOT_PAGES.values() else site_text(markdown, "docs")
