"""What a worker does before it has datasets: it describes the operator's objects, and reads samples of them.

It goes on as a worker with the objects that it has built, so what it found is what is served.
"""

import traceback
from dataclasses import replace
from functools import partial

from feedline_server.declared.datasets import Declaration, PythonConfig
from feedline_server.host.child_process import give_up_after, stay
from feedline_server.host.user_code import exception_line
from feedline_server.sources.python.object_source import PythonSource, opened
from feedline_server.sources.python.process import Described, Read
from feedline_server.sources.source import Opened, SampleRequest
from feedline_wire.errors import FeedlineError, LoaderBroken


def answer(
    question: PythonConfig | SampleRequest, built: list[tuple[Declaration, Opened]]
) -> Opened | Read | FeedlineError:
    """Describe objects, or read samples of those that were described last; `built` has all that were.

    What takes longer than the declaration allows ends this process.
    """
    config = question if isinstance(question, PythonConfig) else built[-1][0]
    assert isinstance(config, PythonConfig), "Python objects are asked about"
    give_up_after(config.start_timeout_s)
    try:
        if isinstance(question, PythonConfig):
            built.append((question, opened(question)))
            return _described(question, built[-1][1])
        return _source(built[-1][1]).draw(question)
    except FeedlineError as error:
        return error
    except Exception as error:  # a fault of our own: it must arrive and not be lost with this process
        return LoaderBroken(
            f"looking at Python objects failed: {exception_line(error)}", traceback=traceback.format_exc()
        )
    finally:
        stay()


def _source(found: Opened) -> PythonSource:
    assert isinstance(found.source, PythonSource), "it is what was opened"
    return found.source


def _described(config: PythonConfig, found: Opened) -> Opened:
    """What was opened, as it can be sent."""
    source = _source(found)
    said = tuple(source.check())
    content = tuple(source.content())
    described = Described(
        config, source.samples, source.columns, content, longest=dict(source.longest), unit_rows=source.unit_rows
    )
    return replace(found, source=described, notes=partial(tuple, (*found.notes(), *said)))
