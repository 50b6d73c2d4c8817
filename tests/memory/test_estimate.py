from skill.memory import estimate_vram
from skill.workspace import Workspace


def test_qlora_needs_less_than_lora_and_full(tmp_path):
    ws = Workspace.open(tmp_path)
    peaks = [
        estimate_vram(ws, model="meta-llama/Llama-3.1-8B", method=m, batch_size=1).device_peak.allocated_gib.value
        for m in ("qlora", "lora", "full")
    ]
    assert peaks[0] < peaks[1] < peaks[2]
