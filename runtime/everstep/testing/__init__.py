"""Tests of your own workflows: `pytest_plugins = ["everstep.testing"]` in conftest.py (docs/guides/testing.md).

Fixtures: `everstep_app` (yours to define), `everstep_stage`, `everstep_sync_stage`, `everstep_database`,
`everstep_migrations`. What they give is here as well, for whoever wants no fixtures.

PYTEST_DONT_REWRITE: there is no assertion in here to be explained.
"""

from everstep.testing.blocking import SyncClock, SyncStage
from everstep.testing.clock import Clock, StuckError
from everstep.testing.probe import CrashPoint
from everstep.testing.stage import Ran, Stage

pytest_plugins = ["everstep.testing.plugin"]

__all__ = ["Clock", "CrashPoint", "Ran", "Stage", "StuckError", "SyncClock", "SyncStage"]
