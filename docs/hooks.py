"""What mkdocs does beside its plugins: pages from files outside docs/, and a check of the docstrings (mkdocs.yml)."""

import re
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]

PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root that are pages of the site."""

LINK = re.compile(r"(\]\()(?!https?:|#|mailto:)([^)\s]+)(\))")

PATHS = [ROOT / "client", ROOT / "protos"]

PACKAGES = (
    *("feedline", "feedline.testing", "feedline.keras", "feedline.tf_keras"),
    *("feedline.torch", "feedline.jax", "feedline.grain", "feedline.tf", "feedline.ray"),
)
"""What `__all__` of these lists is public."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:  # noqa: ANN401 - a Page
    """Make the links that are right in the repository right on the site."""
    folder = "" if page.file.src_uri in PAGES.values() else "docs/"
    return LINK.sub(lambda link: link[1] + _target(link[2], folder, str(config.repo_url)) + link[3], markdown)


def on_pre_build(config: MkDocsConfig) -> None:
    """Fail where a public name is undocumented, or is not in api.md."""
    shown = (ROOT / "docs" / "api.md").read_text()
    problems = []
    for package in PACKAGES:
        module: Any = griffe.load(package, search_paths=PATHS, resolve_aliases=True, resolve_external=True)
        for name in sorted(map(str, module.exports or ())):
            if f"::: {package}.{name}\n" not in shown:
                problems.append(f"docs/api.md lacks ::: {package}.{name}")
            problems += [f"{path} has no docstring" for path in undocumented(module[name])]
    if problems:
        raise PluginError("\n".join(problems))


def undocumented(thing: Any) -> list[str]:  # noqa: ANN401 - griffe's Object or Alias
    """The paths of a public object and its public members that have no docstring; special methods are their class's."""
    found = [] if thing.has_docstring else [thing.path]
    members = [member for name, member in thing.members.items() if not name.startswith("_")] if thing.is_class else []
    return found + [path for member in members for path in undocumented(member)]


def _target(link: str, folder: str, repository: str) -> str:
    """A link of a page in `folder` of the repository, as one of the site: to a page of it, else into the repository."""
    path, _, anchor = link.partition("#")
    parts: list[str] = []
    for part in f"{folder}{path}".split("/"):
        if part == "..":
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    name = "/".join(parts)
    fragment = f"#{anchor}" if anchor else ""
    if name in PAGES:
        return PAGES[name] + fragment
    if name.startswith("docs/"):
        return name.removeprefix("docs/") + fragment
    return f"{repository}/blob/main/{name}{fragment}"
