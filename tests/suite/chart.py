"""What is written from the Helm chart's schema, and what the chart is rendered to: `scripts/chart`.

values.schema.json is the source of values.yaml and of the table in docs/kubernetes.md; deploy/kubernetes/base holds
what `helm template` makes of the chart for the demo. A test compares all of them with what would be written now.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/feedline"
BASE = ROOT / "deploy/kubernetes/base"
PAGE = ROOT / "docs/kubernetes.md"
NAME = "feedline"
"""The fleet that the manifests without Helm are of."""

HEAD = "# Written by scripts/chart from values.schema.json, where descriptions and defaults stand: change them there."
TABLE = re.compile(r"(?<=<!-- scripts/chart: values -->\n\n).*?(?=\n\n<!-- end -->)", re.DOTALL)

Schema = dict[str, Any]


def values_yaml(schema: Schema) -> str:
    """values.yaml: every default, below its description."""
    return "\n".join([HEAD, *_lines(schema, "")]) + "\n"


def _lines(schema: Schema, indent: str) -> Iterator[str]:
    for name, value in schema["properties"].items():
        if name == "global":
            continue
        if not indent:
            yield ""
        if "default" not in value and "properties" not in value:
            continue  # no more than allowed
        if "description" in value:
            yield f"{indent}# {value['description']}"
        if "default" in value:
            yield f"{indent}{name}: {json.dumps(value['default'], ensure_ascii=False)}"
        else:
            yield f"{indent}{name}:"
            yield from _lines(value, f"{indent}  ")


def table(schema: Schema) -> str:
    """The values as a table in Markdown."""
    return "\n".join(["| value | default | meaning |", "| --- | --- | --- |", *_rows(schema, "")])


def _rows(schema: Schema, above: str) -> Iterator[str]:
    for name, value in schema["properties"].items():
        if "properties" in value:
            yield from _rows(value, f"{above}{name}.")
        elif "description" in value and name != "global":
            default = f"`{json.dumps(value['default'], ensure_ascii=False)}`" if "default" in value else ""
            meaning = value["description"].replace("|", "\\|")
            yield f"| `{above}{name}` | {default} | {meaning} |"


def rendered(helm: str, *arguments: str, name: str = NAME) -> str:
    """What `helm template` makes of the chart."""
    command = [helm, "template", name, str(CHART), "--namespace", "default", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def base_files(helm: str) -> dict[str, str]:
    """The manifests of deploy/kubernetes/base by the names of their files."""
    text = rendered(helm, "--values", str(CHART / "ci/demo-values.yaml")).replace(
        "app.kubernetes.io/managed-by: Helm", "app.kubernetes.io/managed-by: kustomize"
    )
    files = {}
    for document in re.split(r"^---\n", text, flags=re.MULTILINE):
        if found := re.match(r"# Source: feedline/templates/(\S+)\n", document):
            files[found[1]] = document[found.end() :]
    listed = "".join(f"  - {file}\n" for file in sorted(files))
    kustomization = f"apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n{listed}"
    return {**files, "kustomization.yaml": kustomization}


def written(helm: str) -> dict[Path, str]:
    """All files that are written, with what they should hold."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = {CHART / "values.yaml": values_yaml(schema)}
    page = {PAGE: TABLE.sub(lambda _: table(schema), PAGE.read_text())}
    head = "# Written by scripts/chart from deploy/helm/feedline with ci/demo-values.yaml.\n"
    return values | page | {BASE / name: head + text for name, text in base_files(helm).items()}


if __name__ == "__main__":
    # values.yaml first: what is rendered is made of it.
    (CHART / "values.yaml").write_text(values_yaml(json.loads((CHART / "values.schema.json").read_text())))
    for path, text in written(sys.argv[1]).items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
