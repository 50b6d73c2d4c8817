"""Names that moved or vanished between versions of the libraries, and what stands in their place.

Every entry is held by tests/scripts/test_compat.py against the installed stack: the old name is refused there (or
deprecated, where it stands under DEPRECATED), and a new name exists. Values are the sentence a person needs.
"""

from __future__ import annotations

# Arguments of TrainingArguments and everything derived from it (SFTConfig, DPOConfig, GRPOConfig ...): old -> new.
CONFIG_RENAMED = {
    "max_seq_length": "max_length",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "fsdp_transformer_layer_cls_to_wrap": "fsdp_config",
    "fsdp_min_num_params": "fsdp_config",
    "dispatch_batches": "accelerator_config",
    "split_batches": "accelerator_config",
}
# ... and those that have no successor of one name.
CONFIG_GONE = {
    "warmup_ratio": "Write warmup_steps=0.03: below 1 it is the share of the run.",
    "group_by_length": 'Write train_sampling_strategy="group_by_length".',
    "logging_dir": "Remove it; report_to and the tracker's own settings say where logs go.",
    "overwrite_output_dir": "Remove it; the folder is written over, and resume_from_checkpoint decides about resuming.",
    "save_safetensors": "Remove it; weights are always saved as safetensors.",
    "safe_serialization": "Remove it; weights are always saved as safetensors.",
    "adafactor": 'Write optim="adafactor".',
    "half_precision_backend": "Remove it; bf16=True or fp16=True decides.",
    "fp16_opt_level": "Remove it; bf16=True or fp16=True decides.",
    "dataset_batch_size": "Remove it; dataset_num_proc sets the processes of the preparation.",
    "num_of_sequences": "Remove it; packing packs whole rows (packing_strategy='bfd').",
    "chars_per_token": "Remove it; rows are tokenised before they are packed.",
    "tokenizer": "Give the tokenizer to the trainer: processing_class=tokenizer.",
    "max_prompt_length": "Only max_length is left; filter long prompts before training.",
    "max_completion_length": "Only max_length is left; filter long rows before training.",
    "rpo_alpha": 'Write loss_type=["sigmoid", "sft"] with loss_weights.',
    "reference_free": "Remove it; with peft_config the base without its adapter is the reference.",
    "force_use_ref_model": "Remove it; leave ref_model out when peft_config is given.",
    "generate_during_eval": "Remove it; generate in a callback or after training.",
    "model_adapter_name": "Remove it; TRL names the adapters itself.",
    "ref_adapter_name": "Remove it; TRL adds the frozen reference adapter itself.",
}
# Arguments of trainers: old -> new. Those that became fields of the config are found from the config itself.
TRAINER_RENAMED = {"tokenizer": "processing_class"}

# Accepted today with a warning, gone in the next major version. (family, argument) -> what to write.
DEPRECATED = {
    ("config", "gradient_checkpointing"): "Write activation_checkpointing (transformers 6 drops the old name).",
    ("config", "gradient_checkpointing_kwargs"): "Write activation_checkpointing_kwargs.",
    ("config", "use_liger_kernel"): 'Write model_init_kwargs={"use_kernels": True} and pip install kernels.',
    ("config", "pad_token"): "Set tokenizer.pad_token and give the tokenizer as processing_class.",
    ("config", "label_smoothing_factor"): "SFTTrainer needs a second forward pass for it; leave it out.",
    ("trainer", "compute_metrics"): "It costs SFTTrainer a second forward pass; evaluate by generation afterwards.",
    ("trainer", "compute_loss_func"): "It costs a second forward pass; override compute_loss in a subclass.",
    ("loader", "torch_dtype"): "Write dtype.",
}

# Names that are no longer in a package: (package, name) -> what to use.
_PPO = "TRL has dropped PPO. Use RLOOTrainer or GRPOTrainer with a reward function or a reward model."
NAMES_GONE = {
    ("trl", "PPOTrainer"): _PPO,
    ("trl", "PPOConfig"): _PPO,
    ("trl", "PPOv2Trainer"): _PPO,
    ("trl", "PPOv2Config"): _PPO,
    ("trl", "AutoModelForCausalLMWithValueHead"): _PPO,
    ("trl", "AutoModelForSeq2SeqLMWithValueHead"): _PPO,
    ("trl", "DataCollatorForCompletionOnlyLM"): "Give rows of prompt and completion: the loss covers the completion.",
    ("trl", "DataCollatorForCompletionOnly"): "Give rows of prompt and completion: the loss covers the completion.",
    ("trl", "setup_chat_format"): "Use the model's own chat template, or SFTConfig(chat_template_path=...).",
    ("trl", "ConstantLengthDataset"): "Write SFTConfig(packing=True).",
    ("trl", "get_kbit_device_map"): "Leave device_map out: the trainer places the model.",
    ("trl", "ORPOTrainer"): "Import it from trl.experimental.orpo.",
    ("trl", "ORPOConfig"): "Import it from trl.experimental.orpo.",
    ("trl", "CPOTrainer"): "Import it from trl.experimental.cpo.",
    ("trl", "CPOConfig"): "Import it from trl.experimental.cpo.",
    ("trl", "OnlineDPOTrainer"): "Import it from trl.experimental.online_dpo.",
    ("trl", "OnlineDPOConfig"): "Import it from trl.experimental.online_dpo.",
    ("trl", "GKDTrainer"): "Import it from trl.experimental.gkd.",
    ("trl", "GKDConfig"): "Import it from trl.experimental.gkd.",
    ("transformers", "AdamW"): "Use torch.optim.AdamW, or optim= of the training arguments.",
}
MODULES_GONE = {
    "trl.experimental.ppo": _PPO,
    "auto_gptq": "AutoGPTQ is retired; GPTQModel (pip install gptqmodel) takes its place.",
    "awq": "AutoAWQ is retired; quantise with llm-compressor or gptqmodel.",
}

# Attributes that a library never had, but that are often written: attribute -> the right one.
ATTRIBUTES = {"total_mem": "total_memory"}


def fix_for(family: str, argument: str) -> str:
    """The sentence that replaces an argument a signature does not have; empty when there is none.

    Args:
        family: "config" (TrainingArguments and its descendants), "trainer", or anything else.
    """
    renamed = {"config": CONFIG_RENAMED, "trainer": TRAINER_RENAMED}.get(family, {})
    if argument in renamed:
        return f"It is {renamed[argument]} now."
    return CONFIG_GONE.get(argument, "") if family == "config" else ""
