from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ("protocol", "oldest_protocol", "features", "version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    oldest_protocol: int
    features: _containers.RepeatedScalarFieldContainer[str]
    version: str
    def __init__(self, protocol: _Optional[int] = ..., oldest_protocol: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("protocol", "version", "replica", "datasets", "limits", "oldest_protocol", "features", "lanes")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    DATASETS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    version: str
    replica: str
    datasets: _containers.RepeatedCompositeFieldContainer[Dataset]
    limits: Limits
    oldest_protocol: int
    features: _containers.RepeatedScalarFieldContainer[str]
    lanes: _containers.RepeatedCompositeFieldContainer[Lane]
    def __init__(self, protocol: _Optional[int] = ..., version: _Optional[str] = ..., replica: _Optional[str] = ..., datasets: _Optional[_Iterable[_Union[Dataset, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., oldest_protocol: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., lanes: _Optional[_Iterable[_Union[Lane, _Mapping]]] = ...) -> None: ...

class Lane(_message.Message):
    __slots__ = ("name", "address")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    name: str
    address: str
    def __init__(self, name: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_batch_bytes", "max_window")
    MAX_BATCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_WINDOW_FIELD_NUMBER: _ClassVar[int]
    max_batch_bytes: int
    max_window: int
    def __init__(self, max_batch_bytes: _Optional[int] = ..., max_window: _Optional[int] = ...) -> None: ...

class Dataset(_message.Message):
    __slots__ = ("name", "fingerprint", "samples", "columns", "structure", "views", "orders", "deferred", "batched", "stream", "categories", "nondeterministic", "skips_bad_samples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    STRUCTURE_FIELD_NUMBER: _ClassVar[int]
    VIEWS_FIELD_NUMBER: _ClassVar[int]
    ORDERS_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_FIELD_NUMBER: _ClassVar[int]
    BATCHED_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    NONDETERMINISTIC_FIELD_NUMBER: _ClassVar[int]
    SKIPS_BAD_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    fingerprint: bytes
    samples: int
    columns: _containers.RepeatedCompositeFieldContainer[Column]
    structure: Structure
    views: _containers.RepeatedCompositeFieldContainer[View]
    orders: _containers.RepeatedScalarFieldContainer[str]
    deferred: _containers.RepeatedCompositeFieldContainer[Deferred]
    batched: bool
    stream: bool
    categories: _containers.RepeatedCompositeFieldContainer[Categories]
    nondeterministic: bool
    skips_bad_samples: bool
    def __init__(self, name: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., samples: _Optional[int] = ..., columns: _Optional[_Iterable[_Union[Column, _Mapping]]] = ..., structure: _Optional[_Union[Structure, _Mapping]] = ..., views: _Optional[_Iterable[_Union[View, _Mapping]]] = ..., orders: _Optional[_Iterable[str]] = ..., deferred: _Optional[_Iterable[_Union[Deferred, _Mapping]]] = ..., batched: bool = ..., stream: bool = ..., categories: _Optional[_Iterable[_Union[Categories, _Mapping]]] = ..., nondeterministic: bool = ..., skips_bad_samples: bool = ...) -> None: ...

class Categories(_message.Message):
    __slots__ = ("column", "names")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    column: str
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, column: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class Deferred(_message.Message):
    __slots__ = ("column", "cast", "scale", "normalise", "one_hot")
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    SCALE_FIELD_NUMBER: _ClassVar[int]
    NORMALISE_FIELD_NUMBER: _ClassVar[int]
    ONE_HOT_FIELD_NUMBER: _ClassVar[int]
    column: str
    cast: Cast
    scale: Scale
    normalise: Normalise
    one_hot: OneHot
    def __init__(self, column: _Optional[str] = ..., cast: _Optional[_Union[Cast, _Mapping]] = ..., scale: _Optional[_Union[Scale, _Mapping]] = ..., normalise: _Optional[_Union[Normalise, _Mapping]] = ..., one_hot: _Optional[_Union[OneHot, _Mapping]] = ...) -> None: ...

class Cast(_message.Message):
    __slots__ = ("dtype",)
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    def __init__(self, dtype: _Optional[str] = ...) -> None: ...

class Scale(_message.Message):
    __slots__ = ("factor", "divide_by", "offset", "dtype")
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    DIVIDE_BY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    factor: float
    divide_by: float
    offset: float
    dtype: str
    def __init__(self, factor: _Optional[float] = ..., divide_by: _Optional[float] = ..., offset: _Optional[float] = ..., dtype: _Optional[str] = ...) -> None: ...

class Normalise(_message.Message):
    __slots__ = ("mean", "std", "dtype")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    dtype: str
    def __init__(self, mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., dtype: _Optional[str] = ...) -> None: ...

class OneHot(_message.Message):
    __slots__ = ("classes", "dtype")
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    classes: int
    dtype: str
    def __init__(self, classes: _Optional[int] = ..., dtype: _Optional[str] = ...) -> None: ...

class View(_message.Message):
    __slots__ = ("name", "samples")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    name: str
    samples: int
    def __init__(self, name: _Optional[str] = ..., samples: _Optional[int] = ...) -> None: ...

class Column(_message.Message):
    __slots__ = ("name", "dtype", "shape")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class Structure(_message.Message):
    __slots__ = ("kind", "column", "names", "parts")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        COLUMN: _ClassVar[Structure.Kind]
        TUPLE: _ClassVar[Structure.Kind]
        MAPPING: _ClassVar[Structure.Kind]
    COLUMN: Structure.Kind
    TUPLE: Structure.Kind
    MAPPING: Structure.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    COLUMN_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    kind: Structure.Kind
    column: str
    names: _containers.RepeatedScalarFieldContainer[str]
    parts: _containers.RepeatedCompositeFieldContainer[Structure]
    def __init__(self, kind: _Optional[_Union[Structure.Kind, str]] = ..., column: _Optional[str] = ..., names: _Optional[_Iterable[str]] = ..., parts: _Optional[_Iterable[_Union[Structure, _Mapping]]] = ...) -> None: ...

class Key(_message.Message):
    __slots__ = ("dataset", "fingerprint", "view", "order", "seed", "epoch", "offset", "rows")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    fingerprint: bytes
    view: str
    order: str
    seed: int
    epoch: int
    offset: int
    rows: int
    def __init__(self, dataset: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., view: _Optional[str] = ..., order: _Optional[str] = ..., seed: _Optional[int] = ..., epoch: _Optional[int] = ..., offset: _Optional[int] = ..., rows: _Optional[int] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("ticket", "key")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    key: Key
    def __init__(self, ticket: _Optional[int] = ..., key: _Optional[_Union[Key, _Mapping]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("wants", "cancelled", "protocol", "oldest_protocol", "features", "version", "lane", "checksum", "reader", "crc")
    WANTS_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    OLDEST_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    READER_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    wants: _containers.RepeatedCompositeFieldContainer[Want]
    cancelled: _containers.RepeatedScalarFieldContainer[int]
    protocol: int
    oldest_protocol: int
    features: _containers.RepeatedScalarFieldContainer[str]
    version: str
    lane: str
    checksum: bool
    reader: Reader
    crc: int
    def __init__(self, wants: _Optional[_Iterable[_Union[Want, _Mapping]]] = ..., cancelled: _Optional[_Iterable[int]] = ..., protocol: _Optional[int] = ..., oldest_protocol: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., lane: _Optional[str] = ..., checksum: bool = ..., reader: _Optional[_Union[Reader, _Mapping]] = ..., crc: _Optional[int] = ...) -> None: ...

class Reader(_message.Message):
    __slots__ = ("dataset", "view", "rank", "world", "epoch", "step", "steps", "batches", "rows", "elapsed_us", "waited_us", "lane", "trainer", "total_batches", "total_rows", "total_waited_us", "loaders", "quiet_us")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ELAPSED_US_FIELD_NUMBER: _ClassVar[int]
    WAITED_US_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    TRAINER_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BATCHES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ROWS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_WAITED_US_FIELD_NUMBER: _ClassVar[int]
    LOADERS_FIELD_NUMBER: _ClassVar[int]
    QUIET_US_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    view: str
    rank: int
    world: int
    epoch: int
    step: int
    steps: int
    batches: int
    rows: int
    elapsed_us: int
    waited_us: _containers.RepeatedScalarFieldContainer[int]
    lane: str
    trainer: str
    total_batches: int
    total_rows: int
    total_waited_us: _containers.RepeatedScalarFieldContainer[int]
    loaders: int
    quiet_us: int
    def __init__(self, dataset: _Optional[str] = ..., view: _Optional[str] = ..., rank: _Optional[int] = ..., world: _Optional[int] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., steps: _Optional[int] = ..., batches: _Optional[int] = ..., rows: _Optional[int] = ..., elapsed_us: _Optional[int] = ..., waited_us: _Optional[_Iterable[int]] = ..., lane: _Optional[str] = ..., trainer: _Optional[str] = ..., total_batches: _Optional[int] = ..., total_rows: _Optional[int] = ..., total_waited_us: _Optional[_Iterable[int]] = ..., loaders: _Optional[int] = ..., quiet_us: _Optional[int] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("pieces", "draining", "lane_ticket", "crc")
    PIECES_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LANE_TICKET_FIELD_NUMBER: _ClassVar[int]
    CRC_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[Piece]
    draining: bool
    lane_ticket: bytes
    crc: int
    def __init__(self, pieces: _Optional[_Iterable[_Union[Piece, _Mapping]]] = ..., draining: bool = ..., lane_ticket: _Optional[bytes] = ..., crc: _Optional[int] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("ticket", "header", "start", "failure", "stages_s", "compressed", "data")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    STAGES_S_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    ticket: int
    header: BatchHeader
    start: int
    failure: Failure
    stages_s: _containers.RepeatedScalarFieldContainer[float]
    compressed: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, ticket: _Optional[int] = ..., header: _Optional[_Union[BatchHeader, _Mapping]] = ..., start: _Optional[int] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., stages_s: _Optional[_Iterable[float]] = ..., compressed: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class BatchHeader(_message.Message):
    __slots__ = ("nbytes", "arrays")
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    nbytes: int
    arrays: _containers.RepeatedCompositeFieldContainer[Array]
    def __init__(self, nbytes: _Optional[int] = ..., arrays: _Optional[_Iterable[_Union[Array, _Mapping]]] = ...) -> None: ...

class Array(_message.Message):
    __slots__ = ("name", "dtype", "shape", "offset")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    offset: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., offset: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "message", "traceback", "samples", "elsewhere")
    KIND_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    ELSEWHERE_FIELD_NUMBER: _ClassVar[int]
    kind: str
    message: str
    traceback: str
    samples: _containers.RepeatedScalarFieldContainer[int]
    elsewhere: bool
    def __init__(self, kind: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., samples: _Optional[_Iterable[int]] = ..., elsewhere: bool = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("replica", "version", "draining", "short_of", "counters", "trainers", "recent_s", "recent", "steps", "work")
    class StepsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REPLICA_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SHORT_OF_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    TRAINERS_FIELD_NUMBER: _ClassVar[int]
    RECENT_S_FIELD_NUMBER: _ClassVar[int]
    RECENT_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    replica: str
    version: str
    draining: bool
    short_of: str
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    trainers: _containers.RepeatedCompositeFieldContainer[Trainer]
    recent_s: float
    recent: _containers.RepeatedCompositeFieldContainer[Counter]
    steps: _containers.ScalarMap[str, float]
    work: _containers.RepeatedCompositeFieldContainer[Work]
    def __init__(self, replica: _Optional[str] = ..., version: _Optional[str] = ..., draining: bool = ..., short_of: _Optional[str] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ..., trainers: _Optional[_Iterable[_Union[Trainer, _Mapping]]] = ..., recent_s: _Optional[float] = ..., recent: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ..., steps: _Optional[_Mapping[str, float]] = ..., work: _Optional[_Iterable[_Union[Work, _Mapping]]] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("dataset", "view", "batches", "assembling_s")
    DATASET_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    BATCHES_FIELD_NUMBER: _ClassVar[int]
    ASSEMBLING_S_FIELD_NUMBER: _ClassVar[int]
    dataset: str
    view: str
    batches: int
    assembling_s: float
    def __init__(self, dataset: _Optional[str] = ..., view: _Optional[str] = ..., batches: _Optional[int] = ..., assembling_s: _Optional[float] = ...) -> None: ...

class Trainer(_message.Message):
    __slots__ = ("peer", "counters", "readers")
    PEER_FIELD_NUMBER: _ClassVar[int]
    COUNTERS_FIELD_NUMBER: _ClassVar[int]
    READERS_FIELD_NUMBER: _ClassVar[int]
    peer: str
    counters: _containers.RepeatedCompositeFieldContainer[Counter]
    readers: _containers.RepeatedCompositeFieldContainer[Reader]
    def __init__(self, peer: _Optional[str] = ..., counters: _Optional[_Iterable[_Union[Counter, _Mapping]]] = ..., readers: _Optional[_Iterable[_Union[Reader, _Mapping]]] = ...) -> None: ...

class Counter(_message.Message):
    __slots__ = ("name", "whole", "real", "unit", "meaning")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    REAL_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    name: str
    whole: int
    real: float
    unit: str
    meaning: str
    def __init__(self, name: _Optional[str] = ..., whole: _Optional[int] = ..., real: _Optional[float] = ..., unit: _Optional[str] = ..., meaning: _Optional[str] = ...) -> None: ...
