"""The data room: what a dataset will train (`validate_dataset`), and the rows a run is given (`convert_dataset`).

reading, json_records: records out of files, faults located. formats, conversation: Alpaca, ShareGPT, messages,
prompt/completion, classification, text -> one shape. source: both as one stream. engine, render: tokens and loss mask
as TRL computes them. checks: stable fault codes, with personal (PII, secrets), wording and near (near-duplicates).
validate, convert, report: the two verbs and what they return.
"""

from skill.data.convert import convert_dataset
from skill.data.report import DatasetReport, Finding, Manifest, TokenReport
from skill.data.validate import validate_dataset

__all__ = ["DatasetReport", "Finding", "Manifest", "TokenReport", "convert_dataset", "validate_dataset"]
