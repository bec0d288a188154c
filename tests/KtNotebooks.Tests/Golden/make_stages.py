#!/usr/bin/env python3
"""Reference numbers of the stages and adaptations beside SFT with LoRA, on the tiny DeepSeek-V2-Lite of this folder; needs torch, transformers 5 and PEFT.

    python3 make_stages.py deepseek_v2_lite OUT

Reads FOLDER/model and FOLDER/adapter_init.safetensors; writes OUT/stages/expected.json, one OUT/stages/CASE.safetensors a case, and the adapters that PEFT
saved. Everything is F32 on the CPU with eager attention; nothing here calls TRL: the losses are written from their papers.

 dpo_sigmoid  Rafailov et al. 2023 (arXiv 2305.18290), eq. 7:  -log s(b ((log p_w - log r_w) - (log p_l - log r_l))), sums over the answer's tokens
 dpo_orpo     Hong et al. 2024 (2403.07691), eq. 6 and 7:      -m_w - b log s(log(P_w/(1-P_w)) - log(P_l/(1-P_l))), m = mean log p, P = exp m
 dpo_simpo    Meng et al. 2024 (2405.14734), eq. 6:            -log s(b m_w - b m_l - gamma)
 kto          Ethayarajh et al. 2024 (2402.01306), eq. 8:      l_w (1 - s(b (d - z))) or l_u (1 - s(b (z - d))), d = log p - log r, z = max(0, mean d of the
                                                               mismatched answers), no gradient through z
 rm           Ouyang et al. 2022 (2203.02155), eq. 1:          -log s(v_w - v_l), v = h w + c at the last token, h after the last norm
 full, freeze mean cross-entropy over all targets of expected.json; every weight, or the last layer and model.norm; AdamW with weight decay 0.1 on what
              transformers' Trainer.get_decay_parameter_names decays: no norms, no biases
 dora         PEFT's use_dora on the linears of attention (Liu et al. 2024, 2402.09353): y = m/|W + s B A| (W + s B A) x, the norm a constant in the gradient
 parameters   PEFT's target_parameters on mlp.experts.gate_up_proj and mlp.experts.down_proj
 modules      PEFT's modules_to_save: lm_head trained beside LoRA on q_proj
 pissa        PEFT's init_lora_weights: pissa on the linears of attention (Meng et al. 2024, 2404.02948): s B A of each

A case holds its loss, gradient norm and six AdamW steps (lr 1e-3, cosine with 2 warm-up steps, clipping at 1) in expected.json, and in its file `grads` and
`after6`: of each tensor in the order of `names` every STRIDE-th element, one after the other, and `norms`, the length of each whole gradient. Experts have
the names of the checkpoint, a tensor each."""

import json
import math
import os
import re
import sys

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

STRIDE, RANK, ALPHA = 11, 4, 16
F = torch.nn.functional
folder, out = sys.argv[1], os.path.join(sys.argv[2], "stages")
os.makedirs(out, exist_ok=True)
golden = json.load(open(f"{folder}/expected.json"))
ids, labels = torch.tensor(golden["input_ids"]), torch.tensor(golden["labels"])


def load():
    model = AutoModelForCausalLM.from_pretrained(f"{folder}/model", dtype=torch.float32, attn_implementation="eager").eval()
    try:
        model.set_experts_implementation("eager")
    except Exception as error:
        print("experts stay as they are:", error)
    return model


base = load()
P = dict(base.named_parameters())
for p in P.values():
    p.requires_grad_(False)
V, D = base.config.vocab_size, base.config.hidden_size
INIT = {k.removeprefix("base_model.model.").removesuffix(".weight"): v for k, v in load_file(f"{folder}/adapter_init.safetensors").items()}
LINEARS = sorted({k.rsplit(".lora_", 1)[0] for k in INIT})
DENSE = [n for n in LINEARS if n + ".weight" in P]
ATTENTION = [n for n in DENSE if ".self_attn." in n]  # PEFT 0.21 takes gate_proj and its like for parameters of experts, which have neither DoRA nor PiSSA
FUSED = [n.removesuffix(".gate_up_proj") for n in P if n.endswith("experts.gate_up_proj")]
expected = dict(transformers=transformers.__version__, torch=torch.__version__, stride=STRIDE, cases={})


def with_lora(lora):
    """The weights of the model with W + (alpha / r) B A in their place."""
    delta = lambda n: ALPHA / RANK * lora[n + ".lora_B"] @ lora[n + ".lora_A"]
    weights = {n + ".weight": P[n + ".weight"] + delta(n) for n in DENSE}
    for b in FUSED:
        E = P[b + ".gate_up_proj"].shape[0]
        weights[b + ".gate_up_proj"] = P[b + ".gate_up_proj"] + torch.stack([torch.cat([delta(f"{b}.{e}.gate_proj"), delta(f"{b}.{e}.up_proj")]) for e in range(E)])
        weights[b + ".down_proj"] = P[b + ".down_proj"] + torch.stack([delta(f"{b}.{e}.down_proj") for e in range(E)])
    return weights


normed = []
base.model.norm.register_forward_hook(lambda module, inputs, output: normed.append(output))


def run(weights, tokens, hidden=False):
    normed.clear()
    logits = torch.func.functional_call(base, weights, (torch.tensor([tokens]),)).logits
    return normed[0][0] if hidden else logits[0]


def answer(weights, prompt, tokens):
    """log p of each token of an answer."""
    logits = run(weights, prompt + tokens)
    return F.log_softmax(logits[len(prompt) - 1:-1], -1).gather(1, torch.tensor(tokens)[:, None])[:, 0]


def singles(tensors):
    """Tensors by the checkpoint's names: stacked experts one by one."""
    named = {}
    for n, t in tensors.items():
        b = n.rsplit(".", 1)[0]
        if n.endswith("experts.gate_up_proj"):
            I = t.shape[1] // 2
            for e in range(t.shape[0]):
                named[f"{b}.{e}.gate_proj.weight"], named[f"{b}.{e}.up_proj.weight"] = t[e, :I], t[e, I:]
        elif n.endswith("experts.down_proj"):
            for e in range(t.shape[0]):
                named[f"{b}.{e}.down_proj.weight"] = t[e]
        else:
            named[n] = t
    return named


def sample(tensors, names):
    return torch.cat([tensors[n].detach().flatten()[::STRIDE] for n in names]).contiguous()


def learn(case, trained, loss_of, decays=lambda n: False, decay=0.0, extra=None, **facts):
    """Gradients at the beginning, and six steps. trained: name -> tensor that requires a gradient."""
    first = {n: p.detach().clone() for n, p in trained.items()}
    groups = [dict(params=[p for n, p in trained.items() if decays(n)], weight_decay=decay), dict(params=[p for n, p in trained.items() if not decays(n)], weight_decay=0.0)]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 6)
    losses, rates, norms = [], [], []
    for step in range(6):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        if step == 0:
            grads = singles({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in trained.items()})
        norms.append(float(torch.nn.utils.clip_grad_norm_(list(trained.values()), 1.0)))
        rates.append(schedule.get_last_lr()[0])
        losses.append(float(loss.detach()))
        optimizer.step()
        schedule.step()
    names, after = sorted(grads), singles(trained)
    save_file(dict(grads=sample(grads, names), after6=sample(after, names), norms=torch.stack([grads[n].norm() for n in names]), **(extra or {})), f"{out}/{case}.safetensors")
    expected["cases"][case] = dict(names=names, sizes=[grads[n].numel() for n in names], losses=losses, lrs=rates, grad_norms=norms, weight_decay=decay, **facts)
    print(case, losses, norms[0])
    for n, p in trained.items():
        p.data.copy_(first[n])


def adapter():
    return {n: p.clone().requires_grad_() for n, p in INIT.items()}


def draw(seed, low, high):
    g = torch.Generator().manual_seed(seed)
    count = int(torch.randint(low, high, (1,), generator=g))
    return torch.randint(0, V, (count,), generator=g).tolist()


def preferences():
    pairs = [dict(prompt=draw(10 + i, 3, 9), chosen=draw(20 + i, 3, 12), rejected=draw(30 + i, 3, 12)) for i in range(4)]
    expected.update(pairs=pairs)
    beta, gamma, logsigmoid = 0.5, 0.5, F.logsigmoid
    with torch.no_grad():
        reference = [[answer({}, p["prompt"], p[k]).sum() for k in ("chosen", "rejected")] for p in pairs]

    def mean(lora, loss):
        weights = with_lora(lora)
        return torch.stack([loss(i, answer(weights, p["prompt"], p["chosen"]), answer(weights, p["prompt"], p["rejected"])) for i, p in enumerate(pairs)]).mean()

    def sigmoid(i, w, l):
        return -logsigmoid(beta * ((w.sum() - reference[i][0]) - (l.sum() - reference[i][1])))

    def orpo(i, w, l):
        odds = lambda m: m - torch.log1p(-torch.exp(m))
        return -w.mean() - beta * logsigmoid(odds(w.mean()) - odds(l.mean()))

    def simpo(i, w, l):
        return -logsigmoid(beta * w.mean() - beta * l.mean() - gamma)

    for name, loss in dict(sigmoid=sigmoid, orpo=orpo, simpo=simpo).items():
        lora = adapter()
        learn("dpo_" + name, lora, lambda: mean(lora, loss), beta=beta, gamma=gamma)

    head = dict(weight=torch.randn(1, D, generator=torch.Generator().manual_seed(5)) / math.sqrt(D), bias=torch.tensor([0.25]))
    lora = adapter()
    trained = {**lora, "v_head.summary.weight": head["weight"].clone().requires_grad_(), "v_head.summary.bias": head["bias"].clone().requires_grad_()}

    def reward():
        weights = with_lora(lora)
        value = lambda tokens: (run(weights, tokens, hidden=True)[-1] @ trained["v_head.summary.weight"][0]) + trained["v_head.summary.bias"][0]
        return torch.stack([-logsigmoid(value(p["prompt"] + p["chosen"]) - value(p["prompt"] + p["rejected"])) for p in pairs]).mean()

    learn("rm", trained, reward, extra=dict(v_head_weight=head["weight"], v_head_bias=head["bias"]))


def kto():
    beta, wanted, unwanted = 0.5, 1.0, 0.7
    for seed in range(100, 100000, 100):  # rows whose z is above 0, so that it counts
        rows = [dict(prompt=draw(seed + i, 3, 9), answer=draw(seed + 10 + i, 3, 12), mismatched=draw(seed + 20 + i, 3, 12), wanted=i % 3 != 1) for i in range(5)]
        with torch.no_grad():
            weights = with_lora(INIT)
            reference = [[answer({}, r["prompt"], r[k]).sum() for k in ("answer", "mismatched")] for r in rows]
            z = torch.stack([answer(weights, r["prompt"], r["mismatched"]).sum() - reference[i][1] for i, r in enumerate(rows)]).mean()
        if z > 0.5:
            break
    lora = adapter()

    def loss():
        weights = with_lora(lora)
        with torch.no_grad():
            z = torch.stack([answer(weights, r["prompt"], r["mismatched"]).sum() - reference[i][1] for i, r in enumerate(rows)]).mean().clamp(min=0)
        all = []
        for i, r in enumerate(rows):
            d = answer(weights, r["prompt"], r["answer"]).sum() - reference[i][0]
            all.append(wanted * (1 - torch.sigmoid(beta * (d - z))) if r["wanted"] else unwanted * (1 - torch.sigmoid(beta * (z - d))))
        return torch.stack(all).mean()

    learn("kto", lora, loss, beta=beta, wanted=wanted, unwanted=unwanted, rows=rows, z=float(z))


def mean_loss(model_logits):
    """The mean over all targets of both sequences of expected.json."""
    total = sum(F.cross_entropy(model_logits(ids[b:b + 1])[0, :-1], labels[b, 1:], ignore_index=-100, reduction="sum") for b in range(2))
    return total / int((labels[:, 1:] != -100).sum())


FORBIDDEN = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]  # transformers 5, Trainer.get_decay_parameter_names


def weights_themselves():
    decays = lambda n: not any(re.search(p, n.lower()) for p in FORBIDDEN)
    last = f"model.layers.{base.config.num_hidden_layers - 1}."
    for case, takes in dict(full=lambda n: True, freeze=lambda n: n.startswith(last) or n.startswith("model.norm.")).items():
        model = load()
        trained = {n: p for n, p in model.named_parameters() if takes(n)}
        for n, p in model.named_parameters():
            p.requires_grad_(n in trained)
        learn(case, trained, lambda: mean_loss(lambda x: model(x).logits), decays, 0.1)


def of_peft(case, settings):
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(load(), LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM", **settings))
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    g = torch.Generator().manual_seed(len(case))
    with torch.no_grad():
        for n, p in trained.items():
            noise(n, p, g)
    model.save_pretrained(f"{out}/{case}")
    for f in os.listdir(f"{out}/{case}"):
        if f not in ("adapter_config.json", "adapter_model.safetensors"):
            os.remove(f"{out}/{case}/{f}")
    with torch.no_grad():
        logits = model(ids).logits
    # the names under which PEFT saves them
    saved = lambda n: n.replace(".default", "").removesuffix(".weight") if "magnitude" in n else n.replace(".default", "").replace(".modules_to_save", "")
    named = {saved(n): p for n, p in trained.items()}
    learn(case, named, lambda: mean_loss(lambda x: model(x).logits), extra=dict(logits=logits[:, ::5].contiguous()))


def noise(n, p, g):
    if "lora_B" in n or "lora_A" in n:
        p.copy_(torch.randn(p.shape, generator=g) * (0.05 if "lora_B" in n else 1 / math.sqrt(p.shape[-1])))
    else:
        p.mul_(1 + 0.1 * torch.randn(p.shape, generator=g))


def dora():
    of_peft("dora", dict(target_modules=ATTENTION, use_dora=True))


def parameters():
    of_peft("parameters", dict(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]))


def modules():
    of_peft("modules", dict(target_modules=["q_proj"], modules_to_save=["lm_head"]))


def pissa():
    from peft import LoraConfig, get_peft_model
    model = get_peft_model(load(), LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION, init_lora_weights="pissa", task_type="CAUSAL_LM"))
    made = dict(model.named_parameters())
    products = {n: ALPHA / RANK * made[f"base_model.model.{n}.lora_B.default.weight"] @ made[f"base_model.model.{n}.lora_A.default.weight"] for n in ATTENTION}
    # B and A themselves are known up to their signs: of each the squares of A's rows tell how the singular values were shared out
    rows = {n: made[f"base_model.model.{n}.lora_A.default.weight"].norm(dim=1) for n in ATTENTION}
    names = sorted(ATTENTION)
    save_file(dict(products=sample(products, names), rows=torch.cat([rows[n].detach() for n in names])), f"{out}/pissa.safetensors")
    expected["cases"]["pissa"] = dict(names=names, sizes=[products[n].numel() for n in names])
    print("pissa", len(names))


for make in (preferences, kto, weights_themselves, dora, parameters, modules, pissa):
    try:
        make()
    except Exception as error:  # one that fails leaves the others
        import traceback
        traceback.print_exc()
        expected.setdefault("failed", {})[make.__name__] = repr(error)
json.dump(expected, open(f"{out}/expected.json", "w"))
print("failed:", expected.get("failed", "none"), "bytes:", sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(out) for f in fs))
