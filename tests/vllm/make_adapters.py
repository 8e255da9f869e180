"""Writes random LoRA adapters for the tiny model: `make_adapters.py MODEL FOLDER NAME ...`. Run by the Python that has vLLM."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

RANK = 8


def make(model: Path, folder: Path, seed: int) -> None:
    config = json.loads((model / "config.json").read_text())
    hidden = config["hidden_size"]
    head = hidden // config["num_attention_heads"]
    outputs = {"q_proj": hidden, "v_proj": config["num_key_value_heads"] * head}
    chance = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for name, size in outputs.items():
            base = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{base}.lora_A.weight"] = torch.randn(RANK, hidden, generator=chance) * 0.02
            tensors[f"{base}.lora_B.weight"] = torch.randn(size, RANK, generator=chance) * 0.02
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(model),
        "r": RANK,
        "lora_alpha": 16,
        "target_modules": list(outputs),
        "bias": "none",
        "lora_dropout": 0.0,
        "task_type": "CAUSAL_LM",
    }
    (folder / "adapter_config.json").write_text(json.dumps(adapter))


if __name__ == "__main__":
    for number, adapter_name in enumerate(sys.argv[3:]):
        make(Path(sys.argv[1]), Path(sys.argv[2]) / adapter_name, number)
