"""A loader's settings: command line, environment, loader.toml and defaults, in this order, checked once at the start.

A wrong setting is never replaced by a default. All problems are named at once, each with where it stands, what was
found and what was wanted.
"""

import contextlib
import json
import os
import tomllib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from feedline_server.access import bind_policy
from feedline_server.access.bind_policy import Protection
from feedline_server.declared.datasets import DatasetConfig, Declaration
from feedline_server.declared.forms import Count, Whole
from feedline_server.host import addresses, machine
from feedline_server.settings import recognition
from feedline_server.settings.problems import PREFIX, TRAINERS, Layer, in_words, misspelt
from feedline_server.settings.recognition import dataset_name, recognised_kind
from feedline_wire.command_line import DATASET
from feedline_wire.errors import InvalidRequest
from feedline_wire.lane import Compression

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
    return addresses.checked(text, 50051)


def _enough(nbytes: ByteSize) -> ByteSize:
    if nbytes < LEAST_MEMORY:
        raise ValueError("a size of at least 1MiB, such as 512MiB or 2GB")
    return nbytes


AUTO = 0
"""As a number of workers or replicas: it is chosen from what this machine has, before anything else is done with it."""


def _auto(value: object) -> object:
    if isinstance(value, str) and value.strip().lower() == "auto":
        return AUTO
    is_count = isinstance(value, int | str) and not isinstance(value, bool) and str(value).strip().isdecimal()
    if not is_count or not int(str(value)):
        raise ValueError("a whole number of 1 or more, or auto")
    return value


CountOrAuto = Annotated[Whole, BeforeValidator(_auto)]


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

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    listen: Annotated[str, AfterValidator(_address)] = "127.0.0.1:50051"
    """Where trainers connect; port 0 takes any free one."""
    workers: CountOrAuto = Field(default_factory=machine.cores)
    """Processes that read and assemble; `auto` chooses from cores, quota and memory."""
    replicas: CountOrAuto = 1
    """Loaders that share the workers and the memory, on ports in a row from that of `listen`; `auto` chooses from cores
    and NUMA nodes."""
    memory: Annotated[ByteSize, AfterValidator(_enough)] = Field(default_factory=lambda: ByteSize(default_memory()))
    """Bytes of the arena that batches are assembled in."""
    max_trainers: Count = 64
    """Streams served at once; the next is refused with LoaderBusy."""
    max_streams_per_client: Count | None = None
    """Of those, how many one token, client certificate or host may have; None: all of them."""
    tcp_lane: bool = True
    """Trainers may have batches over a TCP connection beside gRPC, for a third of the CPU; with TLS they are sealed."""
    tcp_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Where, on the host of `listen`; 0 takes any free port. A trainer that cannot reach it has its batches by gRPC."""
    send_from_files: bool = True
    """Batches of plain columns that the page cache holds go over the tcp lane from there, without being assembled."""
    shm_lane: bool = True
    """Trainers on this host may have batches put straight into memory of theirs. Never with TLS."""
    compression: Compression = "auto"
    """Batches that a thin line holds up are compressed for trainers that take it; encrypted: under TLS as well."""
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
    metrics_listen: Annotated[str, AfterValidator(_address)] | None = None
    """Where metrics and the page are shown over HTTP, to who may call `listen`, with the same TLS."""
    datasets: dict[Annotated[str, AfterValidator(_name)], DatasetConfig] = Field(default_factory=dict)
    """What is served, by name."""

    @property
    def protection(self) -> Protection:
        """What stands between this loader and those who reach it."""
        return Protection(
            listen=self.listen,
            metrics_listen=self.metrics_listen,
            certificate=self.tls_certificate,
            key=self.tls_key,
            client_ca=self.tls_client_ca,
            tokens=self.tokens,
            insecure=self.insecure,
        )


class InvalidSettings(InvalidRequest):
    """Settings that are none, with what is well of them."""

    def __init__(self, problems: Iterable[str], datasets: Mapping[str, Declaration]) -> None:
        super().__init__("\n".join(problems))
        self.datasets = datasets
        """Those that can be opened all the same, to say at once what is wrong with their data."""


def load_settings(
    path: Path | None, overrides: Mapping[str, object], others: Sequence[Path] = (), *, is_serving: bool = True
) -> Settings:
    """The settings: `overrides` (the command line) before FEEDLINE_… variables before loader.toml before defaults.

    `path` is a loader.toml, or a folder: its loader.toml if it has one, else what it holds is recognised. Or it is a
    Python object, `module:name`. FEEDLINE_DATA stands in for None. With `others`, each is a dataset, or a loader.toml
    of nothing but datasets. Some overrides
    (DATASET) say more of them. Without `is_serving` nothing will listen, and where it would is no problem. Raises
    InvalidRequest with all problems, one a line.
    """
    if path is None and os.environ.get(DATA):
        path = Path(os.environ[DATA])
    given = {name: value for name, value in overrides.items() if value is not None}
    keys = {name: given.pop(name) for name in DATASET if name in given}
    paths = [] if path is None else [path, *others]
    files = {one: file for one in paths if recognition.python_object(one) is None and (file := _settings_file(one))}
    read = {file: _read(file) for file in files.values()}
    layers: list[Layer] = [("command line", given), ("environment", _environment())]
    layers += [(str(file), values) for file, values in reversed(read.items())]  # what is merged last comes first
    is_certain = bool(others) or (bool(paths) and recognition.python_object(paths[0]) is not None)
    declaring = {one for one, file in files.items() if read[file].get("datasets")}
    plain = [files[one].parent if one in files else one for one in paths if one not in declaring]
    if plain and (is_certain or not any(below.get("datasets") for _, below in layers)):
        given["datasets"] = _named(plain, keys)
    if others:
        _check_together(read, _tables(given.get("datasets")))
    if keys and ("datasets" not in given or len(plain) < len(paths)):
        raise InvalidRequest(
            "--kind, --size, --view, --validation-split, --steps-per-epoch, --argument and --nondeterministic are "
            "about data that the command line names; of what a loader.toml declares say it there"
        )
    values: dict[str, Any] = {}
    for _, below in layers:
        values = _over(values, below)
    problems = [*misspelt(os.environ, {*Settings.model_fields, "data", *TRAINERS})]
    unknown = _recognise_kinds(values, _tables(given.get("datasets")))
    settings = None
    try:
        settings = Settings(**values)
        problems += bind_policy.problems(settings.protection) if is_serving else []
    except ValidationError as error:
        problems += [in_words(problem, layers, list(Settings.model_fields)) for problem in error.errors()]
    problems += unknown
    if settings is None or problems:
        raise InvalidSettings(problems, dict(_valid(values.get("datasets"))))
    if not settings.datasets:
        raise InvalidRequest(f"nothing to serve: name a folder of data or a {FILE}, or set {DATA} to one")
    return settings


def _check_together(read: Mapping[Path, Mapping[str, Any]], named: Mapping[str, Any]) -> None:
    """InvalidRequest if a loader.toml says more than datasets, or if two of all have a dataset of one name."""
    place_of = dict.fromkeys(named, "the command line")
    for file, values in read.items():
        if more := sorted(values.keys() - {"datasets"}):
            raise InvalidRequest(
                f"{file}: says {', '.join(more)}, which is about a whole loader; of several paths each is a dataset, "
                "or a loader.toml with nothing but datasets: leave it out, or declare the others in that file"
            )
        for name in _tables(values.get("datasets")):
            if name in place_of:
                raise InvalidRequest(
                    f"{place_of[name]} and {file}: both have a dataset {name!r}; rename one: [datasets.NAME]"
                )
            place_of[name] = str(file)


def _valid(datasets: object) -> Iterator[tuple[str, Declaration]]:
    """The tables of datasets that are well by themselves."""
    for name, table in _tables(datasets).items():
        with contextlib.suppress(ValidationError):
            yield name, TypeAdapter(DatasetConfig).validate_python(table)


def _named(paths: Iterable[Path], keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The datasets that paths of the command line mean, by their names, with what options say about them."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        name, dataset = recognition.python_object(path) or (
            dataset_name(path.absolute()),
            {"path": str(path.absolute())},
        )
        if name in found:
            raise InvalidRequest(
                f"{found[name]['path']} and {path}: are both called {name!r}; name them in a {FILE}: [datasets.NAME]"
            )
        found[name] = {**dataset, **keys}
        if "views" in keys:
            found[name]["views"] = dict(_view(text, dataset.get("object", "")) for text in keys["views"])
        if "arguments" in keys:
            found[name]["arguments"] = dict(map(_argument, keys["arguments"]))
    return found


def _view(argument: str, served: str) -> tuple[str, str]:
    """VIEW=PART, or VIEW=OBJECT, which is in the module of what is `served` if no other is named."""
    view, equals, text = argument.partition("=")
    module = served.partition(":")[0]
    if not (view and equals and text):
        part = f"{module}:NAME" if module else "0:1500"
        raise InvalidRequest(f"--view: found {argument!r}; wanted VIEW={part}, such as validation={part}")
    return view, f"{module}:{text}" if module and text.isidentifier() else text


def _argument(argument: str) -> tuple[str, object]:
    """NAME=VALUE, a value of TOML, or else text."""
    name, equals, text = argument.partition("=")
    if not (equals and name.isidentifier()):
        raise InvalidRequest(f"--argument: found {argument!r}; wanted NAME=VALUE, such as batch_size=32")
    try:
        return name, tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return name, text


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


def _recognise_kinds(values: dict[str, Any], named: Container[str]) -> list[str]:
    """Give datasets that do not say their kind the one their keys or their folder show; the problems with that.

    Of those that the command line `named` by their paths, a problem says the path only.
    """
    problems = []
    for name, dataset in list(_tables(values.get("datasets")).items()):
        place = dataset.get("path")
        if "kind" in dataset or not isinstance(place, str):
            continue
        try:
            dataset["kind"] = recognised_kind(Path(place).expanduser().absolute(), dataset)
        except InvalidRequest as error:
            problems.append(str(error) if name in named else f"datasets.{name}: {error}")
            del values["datasets"][name]  # else Settings would say that its kind is missing, too
    return problems


def _tables(datasets: object) -> dict[str, dict[str, Any]]:
    entries = datasets.items() if isinstance(datasets, dict) else ()
    return {name: table for name, table in entries if isinstance(table, dict)}
