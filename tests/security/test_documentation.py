"""docs/security.md does what it says: its commands are run, and what they make is used."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedline
from feedline.connection.credentials import Credentials
from feedline_wire.errors import NotAllowed

SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text()


def has_openssl_3() -> bool:
    """The commands are written for it."""
    if shutil.which("openssl") is None:
        return False
    version = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=False).stdout
    return re.match(r"OpenSSL [3-9]", version) is not None


@pytest.mark.skipif(not has_openssl_3(), reason="OpenSSL 3 is not installed")
def test_certificates_and_tokens_made_by_its_commands_are_what_loader_and_trainer_take(
    tmp_path: Path, numbered_columns: Callable[..., Any], start_loader: Callable[..., Any]
) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for block in re.findall(r"```bash\n(.*?)```", SECURITY, re.DOTALL):
        if not block.startswith("feedline serve"):
            subprocess.run(["bash", "-ec", block], cwd=tmp_path, env=environment, check=True, capture_output=True)
    (settings,) = re.findall(r"```toml\n(# loader.toml\n.*?)```", SECURITY, re.DOTALL)
    (tmp_path / "loader.toml").write_text(settings + '\n[datasets.hidden]\npath = "hidden"\n')
    numbered_columns(tmp_path / "digits", 5)
    numbered_columns(tmp_path / "hidden", 5)

    loader = start_loader(
        tmp_path, "--workers", "1", "--tokens", str(tmp_path / "tokens.toml"),
        "--tls-client-ca", str(tmp_path / "authority.pem"),
    )  # fmt: skip

    shown = {"ca": tmp_path / "authority.pem", "certificate": tmp_path / "trainer.pem", "key": tmp_path / "trainer.key"}
    with feedline.connect(loader.address, token_file=tmp_path / "alice.token", **shown) as alice:
        assert set(alice.datasets) == {"digits", "hidden"}
    with feedline.connect(loader.address, token_file=tmp_path / "bob.token", **shown) as bob:
        assert set(bob.datasets) == {"digits"}
    with pytest.raises(NotAllowed, match="needs a token"):
        feedline.connect(loader.address, **shown)
    assert "is for a dataset 'scans', which is not served here" in loader.log_text()


def test_every_argument_of_a_trainer_is_in_it_with_its_variable() -> None:
    rows = re.findall(r"^\| (`.*?`) \| (`FEEDLINE_.*?`) \|", SECURITY, re.MULTILINE)
    written = {
        argument.strip("`"): variable.strip("`")
        for arguments, variables in rows
        for argument, variable in zip(arguments.split(", "), variables.split(", "), strict=True)
    }

    names = set(Credentials.__dataclass_fields__) - {"traceparent"}  # docs/waiting.md has it
    assert written == {name: f"FEEDLINE_{name.upper()}" for name in names}
