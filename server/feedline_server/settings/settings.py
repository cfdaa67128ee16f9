"""A loader's settings: command line, environment, loader.toml and defaults, in this order, checked once at the start.

A wrong setting is never replaced by a default. All problems are named at once, each with where it stands, what was
found and what was wanted.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError

from feedline_server.access import bind_policy
from feedline_server.access.bind_policy import Protection
from feedline_server.declared.datasets import DatasetConfig, kind_of
from feedline_server.declared.forms import Count
from feedline_server.host import machine
from feedline_server.settings import recognition
from feedline_server.settings.problems import PREFIX, TRAINERS, Layer, in_words, misspelt
from feedline_server.settings.recognition import dataset_name, recognised
from feedline_wire.errors import InvalidRequest

__all__ = ["DatasetConfig", "Settings", "load_settings"]

DATA = "FEEDLINE_DATA"
"""The environment variable for the path to serve."""

FILE = "loader.toml"

SECRETS = ("tls_certificate", "tls_key", "tls_client_ca", "tokens")
"""Settings that name files; in loader.toml they are relative to its folder."""

MEMORY = 1 << 30
"""Bytes of the arena by default: some 200 batches of 4 MiB, more than any number of workers keeps in flight."""

LEAST_MEMORY = 1 << 20
"""Bytes. `memory = 512` is a forgotten unit, not a budget."""


def default_memory() -> int:
    """A quarter of what this process may use, up to MEMORY: trainers, workers and the page cache need the rest."""
    return min(MEMORY, machine.memory_nbytes() // 4)


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= 65535):  # 65535 is TCP's last port
        raise ValueError("host:port, such as 127.0.0.1:50051 or 0.0.0.0:50051 or [::]:50051")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError("host:port with an IPv6 host in brackets, such as [::]:50051")
    return text


def _enough(nbytes: ByteSize) -> ByteSize:
    if nbytes < LEAST_MEMORY:
        raise ValueError("a size of at least 1MiB, such as 512MiB or 2GB")
    return nbytes


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _name(text: str) -> str:
    if dataset_name(Path(text)) != text:
        raise ValueError(f"a name of letters, digits, '.', '_' and '-', such as {dataset_name(Path(text))}")
    return text


def _absolute(file: Path) -> Path:
    # Not resolve(): orchestrators replace a secret by pointing a link elsewhere.
    return file.expanduser().absolute()


SecretFile = Annotated[Path, AfterValidator(_absolute)]

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """All settings of a loader. `load_settings` finds them; the class itself looks nowhere."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:50051"
    """Where trainers connect; port 0 takes any free one."""
    workers: Count = Field(default_factory=machine.cores)
    """Processes that read and assemble."""
    replicas: Count = 1
    """Loaders that share the workers and the memory, on ports in a row from that of `listen`."""
    memory: Annotated[ByteSize, AfterValidator(_enough)] = Field(default_factory=lambda: ByteSize(default_memory()))
    """Bytes of the arena that batches are assembled in."""
    max_trainers: Count = 64
    """Streams served at once; the next is refused with LoaderBusy."""
    max_streams_per_client: Count | None = None
    """Of those, how many one token, client certificate or host may have; None: all of them."""
    tcp_lane: bool = True
    """Trainers may have batches over a plain TCP connection beside gRPC, for a third of the CPU. Never with TLS."""
    tcp_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Where, on the host of `listen`; 0 takes any free port. A trainer that cannot reach it has its batches by gRPC."""
    send_from_files: bool = True
    """Batches of plain columns that the page cache holds go over the tcp lane from there, without being assembled."""
    shm_lane: bool = True
    """Trainers on this host may have batches put straight into memory of theirs. Never with TLS."""
    batch_timeout_s: Seconds = 30.0
    """A worker that takes longer for one batch is replaced."""
    drain_timeout_s: Seconds = 20.0
    """SIGTERM waits so long for trainers to move on; orchestrators kill after 30 s."""
    log_format: Annotated[Literal["auto", "text", "json"], BeforeValidator(_lower)] = "auto"
    """auto: text on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = "info"
    tls_certificate: SecretFile | None = None
    """The loader's certificate, with those that lead to its authority; PEM. Trainers then connect with TLS only."""
    tls_key: SecretFile | None = None
    """The private key of the certificate; PEM."""
    tls_client_ca: SecretFile | None = None
    """Only trainers with a certificate of these authorities are let in; PEM."""
    tokens: SecretFile | None = None
    """Only callers with one of these tokens are let in; TOML, see docs/security.md."""
    insecure: bool = False
    """Other hosts may connect without TLS."""
    health_listen: Annotated[str, AfterValidator(_address)] | None = None
    """Where the health service is answered without TLS, for orchestrators that cannot speak it, and nothing else is."""
    datasets: dict[Annotated[str, AfterValidator(_name)], DatasetConfig] = Field(default_factory=dict)
    """What is served, by name."""

    @property
    def protection(self) -> Protection:
        """What stands between this loader and those who reach it."""
        return Protection(
            listen=self.listen,
            certificate=self.tls_certificate,
            key=self.tls_key,
            client_ca=self.tls_client_ca,
            tokens=self.tokens,
            insecure=self.insecure,
        )


def load_settings(path: Path | None, overrides: Mapping[str, object]) -> Settings:
    """The settings: `overrides` (the command line) before FEEDLINE_… variables before loader.toml before defaults.

    `path` is a loader.toml, or a folder: its loader.toml if it has one, else what it holds is recognised. Or it is a
    Python object, `module:name`, of which `views` and `steps_per_epoch` of the overrides say more.
    FEEDLINE_DATA stands in for None. Raises InvalidRequest with all problems, one a line.
    """
    if path is None and os.environ.get(DATA):
        path = Path(os.environ[DATA])
    given = {name: value for name, value in overrides.items() if value is not None}
    folder = path
    if served := _python_dataset(path, given):
        given["datasets"] = served
        folder = path = None
    layers: list[Layer] = [("command line", given), ("environment", _environment())]
    if path is not None and (file := _settings_file(path)) is not None:
        folder = file.parent
        layers.append((str(file), _read(file)))
    values: dict[str, Any] = {}
    for _, below in layers:
        values = _over(values, below)
    problems = [*misspelt(os.environ, {*Settings.model_fields, "data", *TRAINERS}), *_recognise_kinds(values)]
    settings = None
    try:
        settings = Settings(**values)
        problems += bind_policy.problems(settings.protection)
        if not settings.datasets and folder is not None:
            name, config = dataset_name(folder.absolute()), recognised(folder.absolute())
            settings = settings.model_copy(update={"datasets": {name: config}})
    except ValidationError as error:
        problems += [in_words(problem, layers, list(Settings.model_fields)) for problem in error.errors()]
    if settings is None or problems:
        raise InvalidRequest("\n".join(problems))
    if not settings.datasets:
        raise InvalidRequest(f"nothing to serve: name a folder of data or a {FILE}, or set {DATA} to one")
    return settings


def _python_dataset(path: Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """The dataset that a path means which is a Python object, by its name; empty if it is none.

    Takes what is about such a dataset out of the overrides.
    """
    more = {name: overrides.pop(name) for name in ("views", "steps_per_epoch") if name in overrides}
    found = None if path is None else recognition.python_object(path)
    if found is None and more:
        raise InvalidRequest(
            "--view and --steps-per-epoch are about a Python object on the command line, module:name; "
            "of what a loader.toml declares say it there"
        )
    if found is None:
        return {}
    name, dataset = found
    module = dataset["object"].partition(":")[0]
    views = dict(_view(argument, module) for argument in more.pop("views", ()))
    return {name: {**dataset, **({"views": views} if views else {}), **more}}


def _view(argument: str, module: str) -> tuple[str, str]:
    """VIEW=OBJECT, the object in the same module if none is named."""
    view, equals, text = argument.partition("=")
    if not (view and equals and text):
        raise InvalidRequest(f"--view: found {argument!r}; wanted VIEW=OBJECT, such as validation={module}:NAME")
    return view, f"{module}:{text}" if text.isidentifier() else text


def _settings_file(path: Path) -> Path | None:
    """The loader.toml meant by a path, if it has one."""
    if path.is_dir():
        # Asked before anything in it is looked at; in containers, where the user is another, this is the usual mistake.
        if not os.access(path, os.R_OK | os.X_OK):
            raise InvalidRequest(
                f"{path}: user {os.getuid()}, as whom the loader runs, may not read this folder; give it leave "
                f"(chmod a+rX), or run the loader as the folder's owner"
            )
        return path / FILE if (path / FILE).is_file() else None
    if not path.exists():
        raise InvalidRequest(f"{path}: there is no such file or folder; wanted a {FILE} or a folder of data")
    return path if path.suffix == ".toml" else None


def _read(file: Path) -> dict[str, Any]:
    """The file's values; datasets are in its own folder unless they say otherwise."""
    try:
        values = tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidRequest(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # not TOML, with line and column, or not even text
        raise InvalidRequest(f"{file}: is not TOML: {error}") from error
    folder = file.parent.absolute()
    for dataset in _tables(values.get("datasets")).values():
        if isinstance(place := dataset.get("path", "."), str):
            dataset["path"] = str(folder / Path(place).expanduser())
        has_code = "transforms" in dataset or "filters" in dataset
        if isinstance(place := dataset.get("modules", "." if has_code else None), str):
            dataset["modules"] = str(folder / Path(place).expanduser())
    for name in SECRETS:
        if isinstance(place := values.get(name), str):
            values[name] = str(folder / Path(place).expanduser())
    return values


def _environment() -> dict[str, Any]:
    """What variables that are not empty set: a setting, datasets as JSON, or a key of one (`…DATASETS__NAME__KEY`)."""
    found: dict[str, Any] = {}
    for variable, text in sorted(os.environ.items()):
        name, *keys = variable.upper().removeprefix(PREFIX).lower().split("__")
        if not (variable.upper().startswith(PREFIX) and name in Settings.model_fields and text):
            continue
        if name != "datasets":
            found |= {} if keys else {name: text}
            continue
        try:
            value = json.loads(text)
        except ValueError as error:
            if not keys:
                raise InvalidRequest(f"environment: datasets: {error}; wanted JSON in {variable}") from error
            value = text
        for key in reversed(keys):
            value = {key: value}
        found = _over({name: value}, found)
    return found


def _over(top: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Both values, `top` where both have one; tables are merged key by key, and copied."""
    merged = dict(below)
    for name, value in top.items():
        under = merged.get(name)
        merged[name] = _over(value, under if isinstance(under, dict) else {}) if isinstance(value, dict) else value
    return merged


def _recognise_kinds(values: dict[str, Any]) -> list[str]:
    """Give datasets that do not say their kind the one their keys or their folder show; the problems with that."""
    problems = []
    for name, dataset in list(_tables(values.get("datasets")).items()):
        place = dataset.get("path")
        if "kind" in dataset or not isinstance(place, str):
            continue
        try:
            dataset["kind"] = kind_of(dataset) or recognised(Path(place).expanduser().absolute()).kind
        except InvalidRequest as error:
            problems.append(f"datasets.{name}: {error}")
            del values["datasets"][name]  # else Settings would say that its kind is missing, too
    return problems


def _tables(datasets: object) -> dict[str, dict[str, Any]]:
    entries = datasets.items() if isinstance(datasets, dict) else ()
    return {name: table for name, table in entries if isinstance(table, dict)}
