"""Durable workflows that need nothing but Postgres."""

from everstep.app import App
from everstep.client.asynchronous import Client
from everstep.client.debounce import Debounce
from everstep.client.handle import Handle
from everstep.client.startable import StartOptions
from everstep.client.timetable import Backfill
from everstep.context import StepContext, step_context, workflow_id
from everstep.database import Database
from everstep.definitions import AsyncWorkflow, PlainStep, PlainWorkflow, Step, Workflow
from everstep.durable.calls import ChildHandle, run, sleep, sleep_until, start
from everstep.durable.endless import continue_as_new
from everstep.durable.limits import Timeout
from everstep.durable.talking import close_stream, get_event, recv, send, set_event, write_stream
from everstep.durable.timeouts import timeout, wait_for
from everstep.durable.together import as_completed, wait_first
from everstep.durable.transactional import PlainTransaction, Transaction
from everstep.durable.values import deprecate_patch, now, patched, random, uuid
from everstep.encoding import Codec, PayloadPlace
from everstep.engine.worker import Worker
from everstep.errors import (
    CodecError,
    DatabaseRefusedError,
    DatabaseUnreachableError,
    DuplicateWorkflowError,
    EverstepError,
    Failure,
    NonDeterminismError,
    PayloadError,
    RecordedError,
    SchemaError,
    StepError,
    StepInterruptedError,
    UnknownWorkflowError,
    UsageError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowDeadError,
    WorkflowError,
    WorkflowExistsError,
    WorkflowTimeoutError,
)
from everstep.queues import Queue, Rate
from everstep.retry import Retry
from everstep.schedules import CatchUp, Overlap, Schedule
from everstep.settings import Settings
from everstep.store.infos import Encoded, EventInfo, Status, StepInfo, WorkflowInfo
from everstep.store.places import Isolation
from everstep.store.schedules import ScheduleInfo
from everstep.store.sessions import AsyncTx as Connection
from everstep.store.sessions import Tx as PlainConnection
from everstep.store.workflows import Filter

__version__ = "0.1.0"

__all__ = [
    "App",
    "AsyncWorkflow",
    "Backfill",
    "CatchUp",
    "ChildHandle",
    "Client",
    "Codec",
    "CodecError",
    "Connection",
    "Database",
    "DatabaseRefusedError",
    "DatabaseUnreachableError",
    "Debounce",
    "DuplicateWorkflowError",
    "Encoded",
    "EventInfo",
    "EverstepError",
    "Failure",
    "Filter",
    "Handle",
    "Isolation",
    "NonDeterminismError",
    "Overlap",
    "PayloadError",
    "PayloadPlace",
    "PlainConnection",
    "PlainStep",
    "PlainTransaction",
    "PlainWorkflow",
    "Queue",
    "Rate",
    "RecordedError",
    "Retry",
    "Schedule",
    "ScheduleInfo",
    "SchemaError",
    "Settings",
    "StartOptions",
    "Status",
    "Step",
    "StepContext",
    "StepError",
    "StepInfo",
    "StepInterruptedError",
    "Timeout",
    "Transaction",
    "UnknownWorkflowError",
    "UsageError",
    "Worker",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowConflictError",
    "WorkflowDeadError",
    "WorkflowError",
    "WorkflowExistsError",
    "WorkflowInfo",
    "WorkflowTimeoutError",
    "as_completed",
    "close_stream",
    "continue_as_new",
    "deprecate_patch",
    "get_event",
    "now",
    "patched",
    "random",
    "recv",
    "run",
    "send",
    "set_event",
    "sleep",
    "sleep_until",
    "start",
    "step_context",
    "timeout",
    "uuid",
    "wait_first",
    "wait_for",
    "workflow_id",
    "write_stream",
]
