#!/usr/bin/env python3
"""The other side of README's speed table: a LoRA step of transformers and PEFT on random weights of a true shape, as `kt bench train` times ours.

    python3 tests/gpu/huggingface.py CONFIG.json                      all on the card
    python3 tests/gpu/huggingface.py CONFIG.json --checkpointing      the same with gradient checkpointing
    python3 tests/gpu/huggingface.py CONFIG.json --offload            FSDP2 with CPU off-load, and checkpointing

CONFIG.json is src/KtNotebooks.Engine/Models/Shapes/deepseek-v2-lite.json. LoRA is on all linears and all routed experts. Needs a card and torch,
transformers 5 and PEFT 0.21 or newer. A step is forward, backward, clipping and AdamW; the speed is that of the median step, and the card's figure is
what the driver says is in use, context included."""

import argparse
import importlib.metadata
import json
import os
import statistics
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]  # parameters, not linears, in transformers 5


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--seq", type=int, default=512, help="tokens of a sequence")
    p.add_argument("--batch", type=int, default=16, help="sequences at a time")
    p.add_argument("--accumulate", type=int, default=1, help="batches of a step")
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--steps", type=int, default=5, help="measured steps, after two to warm up")
    p.add_argument("--layers", type=int, help="the first so many; without it all")
    p.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    p.add_argument("--offload", action="store_true", help="FSDP2, weights in pinned host memory")
    return p.parse_args()


def make_model(a):
    values = json.load(open(a.config))
    if a.layers:
        values["num_hidden_layers"] = a.layers
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    config.use_cache = False
    with torch.device("cuda"):  # a random normal of 31 GB takes minutes on a CPU
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    lora = LoraConfig(r=a.rank, lora_alpha=2 * a.rank, target_modules="all-linear", target_parameters=EXPERTS)
    model = get_peft_model(model, lora, autocast_adapter_dtype=not a.offload)
    if a.checkpointing or a.offload:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    return shard(model.cpu()) if a.offload else model


def shard(model):
    from torch.distributed import init_process_group
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    init_process_group("cpu:gloo,cuda:nccl")
    torch.cuda.empty_cache()
    for layer in model.base_model.model.model.layers:
        fully_shard(layer, offload_policy=CPUOffloadPolicy())
    return fully_shard(model, offload_policy=CPUOffloadPolicy())


def main():
    a = arguments()
    torch.manual_seed(42)
    model = make_model(a).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    vocabulary = model.config.vocab_size

    def step():
        for _ in range(a.accumulate):
            ids = torch.randint(0, vocabulary, (a.batch, a.seq), device="cuda")
            loss = model(input_ids=ids, labels=ids).loss / a.accumulate
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.item() * a.accumulate

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    seconds, losses, used = [], [], 0
    for n in range(2 + a.steps):
        start = time.perf_counter()
        losses.append(round(step(), 3))
        torch.cuda.synchronize()
        free, whole = torch.cuda.mem_get_info()
        used = max(used, whole - free)
        if n >= 2:
            seconds.append(time.perf_counter() - start)
    tokens = a.batch * a.accumulate * a.seq
    print(json.dumps({
        "card": torch.cuda.get_device_name(),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft")},
        "settings": vars(a),
        "trained_parameters": sum(p.numel() for p in trained),
        "tokens_per_second": round(tokens / statistics.median(seconds), 1),
        "seconds_a_step": [round(s, 3) for s in seconds],
        "card_gb": round(used / 1e9, 1),
        "torch_peak_gb": round(torch.cuda.max_memory_reserved() / 1e9, 1),
        "losses": losses,
    }))


if __name__ == "__main__":
    main()
