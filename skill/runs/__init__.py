"""Durable runs: launch, watch, cancel, resume. What runs is a process of its own; what is known of it lies on disk."""

from skill.runs.accuracy import Calibration, Comparison, calibration
from skill.runs.control import LaunchStarted, cancel_run, launch, resume_run
from skill.runs.diagnosis import Diagnosis
from skill.runs.jobs import current, start_job
from skill.runs.preview import LaunchPreview
from skill.runs.report import write_report
from skill.runs.states import Kind, State
from skill.runs.status import JobView, RunList, RunRow, RunStatus, cursor, get_run, list_runs
from skill.runs.store import JobRecord

__all__ = [
    "Calibration",
    "Comparison",
    "Diagnosis",
    "JobRecord",
    "JobView",
    "Kind",
    "LaunchPreview",
    "LaunchStarted",
    "RunList",
    "RunRow",
    "RunStatus",
    "State",
    "calibration",
    "cancel_run",
    "current",
    "cursor",
    "get_run",
    "launch",
    "list_runs",
    "resume_run",
    "start_job",
    "write_report",
]
