"""The data room: what a dataset will train (`validate_dataset`), and the rows a run is given (`convert_dataset`).

reading   records out of files; faults located
formats   Alpaca, ShareGPT, messages, prompt/completion, classification, text -> one conversation
source    reading and formats as one stream
render    tokens and loss mask, as TRL computes them
checks    stable fault codes
validate, convert, report
"""

from skill.data.convert import convert_dataset
from skill.data.report import DatasetReport, Finding, Manifest, TokenReport
from skill.data.validate import validate_dataset

__all__ = ["DatasetReport", "Finding", "Manifest", "TokenReport", "convert_dataset", "validate_dataset"]
