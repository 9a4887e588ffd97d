"""Every reason a condition may carry: constant words, for alerts, `kubectl wait` and tests."""

from enum import StrEnum


class Reason(StrEnum):
    # for Rollout Reconciling and Stalled
    UP_TO_DATE = "UpToDate"
    SUSPENDED = "Suspended"
    DELETING = "Deleting"
    INVALID_SPEC = "InvalidSpec"
    DATABASE_UNKNOWN = "WaitingForDatabase"
    MIGRATING = "WaitingForMigration"
    STARTING_WORKERS = "WaitingForWorkers"
    WORKERS_FAILING = "WorkersFailing"
    PROMOTING = "Promoting"
    RESIZING = "Resizing"
    REJECTED = "RejectedByCluster"
    # for SchemaMigrated
    MIGRATED = "Migrated"
    MIGRATION_PENDING = "MigrationPending"
    MIGRATION_RUNNING = "MigrationRunning"
    MIGRATION_FAILED = "MigrationFailed"
    MIGRATION_BLOCKED = "MigrationPodFailing"
    # for Draining
    NOTHING_TO_DRAIN = "NothingToDrain"
    WAITING_FOR_WORKFLOWS = "WaitingForWorkflows"
    WAITING_FOR_QUIESCENCE = "WaitingForQuiescence"
    WAITING_FOR_DELAY = "WaitingForScaleDownDelay"
    STRANDED = "WorkflowsWithoutWorkers"
    DRAIN_UNKNOWN = "DatabaseUnknown"
    # for Ready
    CURRENT_AVAILABLE = "CurrentVersionAvailable"
    CURRENT_UNAVAILABLE = "CurrentVersionUnavailable"
    NO_CURRENT = "NoCurrentVersion"
    SCALED_TO_ZERO = "ScaledToZero"
    # for DatabaseReachable
    CONNECTED = "Connected"
    SECRET_MISSING = "SecretMissing"  # noqa: S105 - a reason, not a password
    INVALID_URL = "InvalidUrl"
    UNREACHABLE = "Unreachable"
    SCHEMA_TAKEN = "SchemaTaken"
    STANDBY = "Standby"
    IDENTITY_CHANGED = "IdentityChanged"
    INSUFFICIENT_PRIVILEGE = "InsufficientPrivilege"
    ENGINE_MISMATCH = "EngineMismatch"
