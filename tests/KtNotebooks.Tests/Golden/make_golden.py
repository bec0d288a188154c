"""Golden references from HF transformers for tiny random models. Writes one folder per case and a tar per case in $OUT.
usage: make_golden.py SEED PREFIX OUT_DIR [NAME,…] (an odd seed gives other sizes; with names only those models, without the FP8 folder)"""
import json, os, sys, torch, shutil, subprocess, math
from safetensors.torch import save_file, load_file
import transformers
from transformers import DeepseekV2Config, DeepseekV3Config, Qwen3MoeConfig, Glm4MoeConfig, GptOssConfig, AutoModelForCausalLM
seed, prefix = int(sys.argv[1]), sys.argv[2]
out = sys.argv[3]; work = out + "/work"; os.makedirs(work, exist_ok=True)
j = seed % 2  # the second family uses other sizes
yarn = lambda m: dict(rope_type="yarn", factor=40.0, original_max_position_embeddings=64, beta_fast=32, beta_slow=1, mscale=m, mscale_all_dim=m, rope_theta=10000.0)
CASES = {
 "deepseek_v2_lite": DeepseekV2Config(vocab_size=256+64*j, hidden_size=64+32*j, intermediate_size=96+16*j, moe_intermediate_size=32+16*j, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=4, n_shared_experts=2, n_routed_experts=8, routed_scaling_factor=1.0, kv_lora_rank=32, q_lora_rank=None,
    qk_rope_head_dim=16, v_head_dim=24, qk_nope_head_dim=32, topk_method="greedy", n_group=1, topk_group=1, num_experts_per_tok=3, first_k_dense_replace=1,
    norm_topk_prob=False, max_position_embeddings=2560, rope_parameters=yarn(0.707)),
 "deepseek_v2": DeepseekV2Config(vocab_size=256, hidden_size=64+32*j, intermediate_size=96, moe_intermediate_size=40, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=12, routed_scaling_factor=16.0, kv_lora_rank=32, q_lora_rank=40,
    qk_rope_head_dim=16, v_head_dim=32, qk_nope_head_dim=32, topk_method="group_limited_greedy", n_group=4, topk_group=2, num_experts_per_tok=3+j, first_k_dense_replace=1,
    norm_topk_prob=False, max_position_embeddings=2560, rope_parameters=yarn(0.707)),
 "deepseek_v3": DeepseekV3Config(vocab_size=256, hidden_size=64+32*j, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=4,
    num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=16, routed_scaling_factor=2.5, kv_lora_rank=32, q_lora_rank=48,
    qk_rope_head_dim=16, v_head_dim=32, qk_nope_head_dim=32, n_group=4, topk_group=2, num_experts_per_tok=4, first_k_dense_replace=1+j,
    norm_topk_prob=True, max_position_embeddings=2560, rope_parameters=yarn(1.0)),
 "qwen3_moe": Qwen3MoeConfig(vocab_size=256, hidden_size=64+32*j, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    head_dim=32, moe_intermediate_size=32+8*j, num_experts=8, num_experts_per_tok=2+j, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[],
    max_position_embeddings=4096, rope_parameters=dict(rope_type="default", rope_theta=1000000.0)),
 # Kimi-K2.5's text model: V3 with one group of experts, which are stored in packed 4 bits; config and tensor names nested as nest() below does
 "kimi_k25": DeepseekV3Config(vocab_size=256, hidden_size=64+32*j, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=3,
    num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1, n_routed_experts=12, routed_scaling_factor=2.827, kv_lora_rank=32, q_lora_rank=48,
    qk_rope_head_dim=16, v_head_dim=32, qk_nope_head_dim=32, n_group=1, topk_group=1, num_experts_per_tok=3+j, first_k_dense_replace=1,
    norm_topk_prob=True, max_position_embeddings=2560, rope_parameters={**yarn(1.0), "rope_theta": 50000.0}),
 # GLM-4.5: bias in q, k, v; half of a head turns (partial_rotary_factor); q/k norm as GLM-4.5 has it in the odd family only; sigmoid router with correction bias, shared expert, first dense layer
 "glm4_moe": Glm4MoeConfig(vocab_size=256, hidden_size=64+32*j, intermediate_size=96, moe_intermediate_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    n_shared_experts=1, n_routed_experts=8, num_experts_per_tok=2+j, n_group=1, topk_group=1, routed_scaling_factor=1.5, norm_topk_prob=True, first_k_dense_replace=1, use_qk_norm=bool(j), attention_bias=True,
    max_position_embeddings=4096, rope_parameters=dict(rope_type="default", rope_theta=1000000.0, partial_rotary_factor=0.5)),
 # gpt-oss: sinks, windows on every other layer, biases everywhere, clamped SwiGLU, gate and up interleaved in [E, H, 2I]; adapters here are per expert: gate = even columns, up = odd ones
 "gpt_oss": GptOssConfig(vocab_size=256, hidden_size=64+32*j, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32, num_local_experts=8, num_experts_per_tok=2+j,
    sliding_window=16, max_position_embeddings=2560, rope_parameters=dict(rope_type="yarn", factor=32.0, original_max_position_embeddings=64, beta_fast=32.0, beta_slow=1.0, truncate=False, rope_theta=150000.0)),
}
only = sys.argv[4].split(",") if len(sys.argv) > 4 else list(CASES)
CASES = {k: v for k, v in CASES.items() if k in only}
def int4(w):
    """Codes -8 … 7 and BF16 scales of groups of 32 neighbours, [n, k] and [n, k/32]; what they stand for takes the place of w."""
    groups = w.view(w.shape[0], -1, 32); scale = (groups.abs().amax(-1, keepdim=True) / 7.5).to(torch.bfloat16)
    codes = torch.clamp(torch.round(groups / scale.float()), -8, 7); groups.copy_(codes * scale.float())
    return codes.view(w.shape).to(torch.int64), scale.view(w.shape[0], -1)
def experts_to_int4(m):
    """Quantises the routed experts where they are; {checkpoint name of a matrix: (codes, scales)}."""
    kept = {}
    for n, p in m.named_parameters():
        if n.endswith("experts.gate_up_proj"):
            b = n[: -len(".gate_up_proj")]; I = p.shape[1] // 2
            for e in range(p.shape[0]): kept[f"{b}.{e}.gate_proj.weight"] = int4(p[e, :I]); kept[f"{b}.{e}.up_proj.weight"] = int4(p[e, I:])
        if n.endswith("experts.down_proj"):
            for e in range(p.shape[0]): kept[f"{n[: -len('.down_proj')]}.{e}.down_proj.weight"] = int4(p[e])
    return kept
def nest(folder, kept):
    """A saved checkpoint in Kimi-K2.5's form: experts packed (compressed-tensors: value + 8, eight to an int32, the first in the lowest bits), every name behind
    `language_model.`, a vision tower that nobody asks for, config.json with text_config."""
    tensors = {k: v for f in sorted(os.listdir(folder)) if f.endswith(".safetensors") for k, v in load_file(f"{folder}/{f}").items()}
    for f in os.listdir(folder):
        if ".safetensors" in f: os.remove(f"{folder}/{f}")
    out = {}
    for k, v in tensors.items():
        if k not in kept: assert ".experts." not in k or "shared" in k, k; out["language_model." + k] = v.contiguous(); continue
        codes, scale = kept.pop(k); assert torch.equal((codes.view(codes.shape[0], -1, 32) * scale.float()[..., None]).view(v.shape), v), k
        packed = ((codes.view(codes.shape[0], -1, 8) + 8) << (4 * torch.arange(8))).sum(-1)
        out["language_model." + k + "_packed"] = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
        out["language_model." + k + "_scale"] = scale.contiguous(); out["language_model." + k + "_shape"] = torch.tensor(codes.shape, dtype=torch.int64)
    assert not kept, list(kept)[:3]
    out["vision_tower.patch_embed.proj.weight"] = torch.zeros(4, 4); out["mm_projector.proj.0.weight"] = torch.zeros(4, 4)
    ks = sorted(out); parts = [ks[i::3] for i in range(3)]; wm = {}  # codes and scales in different shards
    for i, part in enumerate(parts):
        n = f"model-{i + 1:05d}-of-00003.safetensors"; save_file({k: out[k] for k in part}, f"{folder}/{n}", metadata={"format": "pt"}); wm.update({k: n for k in part})
    json.dump(dict(metadata={}, weight_map=wm), open(folder + "/model.safetensors.index.json", "w"), indent=1)
    text = json.load(open(folder + "/config.json")); text["model_type"] = "kimi_k2"
    weights = dict(actorder=None, block_structure=None, dynamic=False, group_size=32, num_bits=4, observer="minmax", strategy="group", symmetric=True, type="int")
    text["quantization_config"] = dict(config_groups=dict(group_0=dict(input_activations=None, output_activations=None, targets=["Linear"], weights=weights)), format="pack-quantized",
        ignore=["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"], kv_cache_scheme=None, quant_method="compressed-tensors", quantization_status="compressed")
    json.dump(dict(architectures=["KimiK25ForConditionalGeneration"], model_type="kimi_k25", tie_word_embeddings=False, text_config=text, vision_config=dict(hidden_size=4)), open(folder + "/config.json", "w"), indent=1)
def rnd(g, *s, std=0.02): return torch.randn(*s, generator=g) * std
for name, cfg in CASES.items():
    g = torch.Generator().manual_seed(seed * 1000 + len(name))
    torch.manual_seed(seed)
    cfg._attn_implementation = "eager"
    m = AutoModelForCausalLM.from_config(cfg, dtype=torch.float32).eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            p.copy_(1 + 0.1 * rnd(g, *p.shape, std=1) if p.dim() == 1 else rnd(g, *p.shape, std=1.0 / math.sqrt(p.shape[-1])))
        for n, b in m.named_buffers():
            if "e_score_correction_bias" in n: b.copy_(0.1 * rnd(g, *b.shape, std=1))
        kept = experts_to_int4(m) if name == "kimi_k25" else None
    try: m.set_experts_implementation("eager")
    except Exception as e: print("experts impl:", e)
    d = f"{work}/{prefix}_{name}"; shutil.rmtree(d, ignore_errors=True); os.makedirs(d)
    m.save_pretrained(d + "/model", max_shard_size="200KB")
    if kept: nest(d + "/model", kept)
    # two packed documents: compare each alone (no cross-attention between them)
    T = 40
    ids = torch.randint(0, cfg.vocab_size, (2, T), generator=g); labels = ids.clone(); labels[0, :13] = -100; labels[1, :7] = -100
    ids_long = torch.randint(0, cfg.vocab_size, (1, 200), generator=g)
    with torch.no_grad():
        logits = m(ids).logits; logits_long = m(ids_long).logits[:, -4:]
    # LoRA on every linear, every expert, W_eff = W + (alpha/r) B A, dropout 0
    r, alpha = 4, 16; sc = alpha / r
    P = dict(m.named_parameters()); lin = [n for n, mod in m.named_modules() if isinstance(mod, torch.nn.Linear) and "lm_head" not in n and not n.endswith((".gate", ".router"))]
    lora = {}
    def add(key, o, i): 
        lora[key + ".lora_A"] = rnd(g, r, i, std=1 / math.sqrt(i)).requires_grad_(); lora[key + ".lora_B"] = rnd(g, o, r, std=0.05).requires_grad_()
    fused = [n for n in P if n.endswith("experts.gate_up_proj")]
    for n in lin: add(n, *P[n + ".weight"].shape)
    for n in fused:
        b = n[: -len(".gate_up_proj")]; E, two_i, h = P[n].shape if name != "gpt_oss" else (P[n].shape[0], P[n].shape[2], P[n].shape[1]); I = two_i // 2
        assert P[b + ".down_proj"].shape == ((E, h, I) if name != "gpt_oss" else (E, I, h)), (P[b + ".down_proj"].shape, (E, h, I))
        for e in range(E): add(f"{b}.{e}.gate_proj", I, h); add(f"{b}.{e}.up_proj", I, h); add(f"{b}.{e}.down_proj", h, I)
    init = {k: v.detach().clone() for k, v in lora.items()}
    def eff():
        q = {}
        dl = lambda k: sc * lora[k + ".lora_B"] @ lora[k + ".lora_A"]
        for n in lin: q[n + ".weight"] = P[n + ".weight"].detach() + dl(n)
        for n in fused:
            b = n[: -len(".gate_up_proj")]; E = P[n].shape[0]
            if name == "gpt_oss":
                q[n] = P[n].detach() + torch.stack([torch.stack([dl(f"{b}.{e}.gate_proj"), dl(f"{b}.{e}.up_proj")], 1).flatten(0, 1).T for e in range(E)])
                q[b + ".down_proj"] = P[b + ".down_proj"].detach() + torch.stack([dl(f"{b}.{e}.down_proj").T for e in range(E)])
                continue
            q[n] = P[n].detach() + torch.stack([torch.cat([dl(f"{b}.{e}.gate_proj"), dl(f"{b}.{e}.up_proj")]) for e in range(E)])
            q[b + ".down_proj"] = P[b + ".down_proj"].detach() + torch.stack([dl(f"{b}.{e}.down_proj") for e in range(E)])
        return q
    def loss_sum(rows):  # token-mean over all unmasked targets of the step
        tot = 0.; cnt = 0
        for b in rows:
            lg = torch.func.functional_call(m, eff(), (ids[b:b+1],)).logits
            tot = tot + torch.nn.functional.cross_entropy(lg[0, :-1], labels[b, 1:], ignore_index=-100, reduction="sum"); cnt += int((labels[b, 1:] != -100).sum())
        return tot / cnt
    with torch.no_grad(): lora_logits = torch.cat([torch.func.functional_call(m, eff(), (ids[b:b+1],)).logits for b in range(2)])
    L0 = loss_sum([0, 1]); L0.backward(); grads = {k: (v.grad.clone() if v.grad is not None else torch.zeros_like(v)) for k, v in lora.items()}
    # 6 AdamW steps, cosine with warmup 2 of 6, clip 1.0, lr 1e-3, weight_decay 0
    opt = torch.optim.AdamW(lora.values(), lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    sched = transformers.get_cosine_schedule_with_warmup(opt, 2, 6); losses, lrs, norms = [], [], []
    for s in range(6):
        opt.zero_grad(); L = loss_sum([0, 1]); L.backward(); norms.append(float(torch.nn.utils.clip_grad_norm_(lora.values(), 1.0)))
        lrs.append(sched.get_last_lr()[0]); opt.step(); sched.step(); losses.append(float(L.detach()))
    with torch.no_grad():
        q = {k: v.detach() for k, v in eff().items()}
        cur = ids[:1, :12].clone(); gen = []
        for _ in range(24):
            nx = torch.func.functional_call(m, q, (cur,)).logits[0, -1].argmax(); gen.append(int(nx)); cur = torch.cat([cur, nx.view(1, 1)], 1)
    pe = lambda k: "base_model.model." + k + ".weight"
    save_file({pe(k): v for k, v in init.items()}, d + "/adapter_init.safetensors")
    save_file({pe(k): v.contiguous() for k, v in grads.items()}, d + "/adapter_grads.safetensors")
    save_file({pe(k): v.detach().contiguous() for k, v in lora.items()}, d + "/adapter_after6.safetensors")
    save_file(dict(logits=logits, logits_long_last4=logits_long.contiguous(), lora_logits=lora_logits.contiguous()), d + "/expected.safetensors")
    json.dump(dict(arch=name, transformers=transformers.__version__, torch=torch.__version__, r=r, alpha=alpha, input_ids=ids.tolist(), labels=labels.tolist(), input_ids_long=ids_long.tolist(),
        loss_lora_init=float(L0.detach()), optimizer=dict(kind="AdamW", lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0, max_grad_norm=1.0, warmup_steps=2, total_steps=6, schedule="cosine"),
        losses=losses, lrs=lrs, grad_norms=norms, greedy_prompt=ids[0, :12].tolist(), greedy_after6=gen), open(d + "/expected.json", "w"), indent=1)
    print(name, sorted(os.listdir(d + "/model")), "loss", float(L0), losses, gen[:6])
    if name == "deepseek_v3": print([k for f in sorted(os.listdir(d + "/model")) if f.endswith(".safetensors") for k in load_file(d + "/model/" + f)][:60])
# FP8 block-quantised checkpoint in DeepSeek-V3's layout
if len(sys.argv) > 4: sys.exit(subprocess.check_call(["tar", "-C", work, "-czf", f"{out}/{prefix}.tar.gz"] + sorted(x for x in os.listdir(work) if x.startswith(prefix + "_"))))
g = torch.Generator().manual_seed(seed + 7); d = f"{work}/{prefix}_fp8"; shutil.rmtree(d, ignore_errors=True); os.makedirs(d + "/model")
fp8, bf = {}, {}
for k, (o, i) in {"model.layers.0.self_attn.q_a_proj": (256, 384), "model.layers.0.mlp.down_proj": (200, 300), "model.layers.1.mlp.experts.0.up_proj": (128, 129), "model.layers.1.mlp.experts.1.up_proj": (64, 128)}.items():
    w = rnd(g, o, i, std=1) * torch.exp(rnd(g, o, 1, std=1)); R, C = -(-o // 128), -(-i // 128)
    pad = torch.zeros(R * 128, C * 128); pad[:o, :i] = w; s = pad.view(R, 128, C, 128).abs().amax((1, 3)) / 448.0
    S = s.repeat_interleave(128, 0).repeat_interleave(128, 1)[:o, :i]; qd = (w / S).to(torch.float8_e4m3fn)
    fp8[k + ".weight"] = qd; fp8[k + ".weight_scale_inv"] = s; bf[k + ".weight"] = (qd.float() * S).to(torch.bfloat16)
bf["model.norm.weight"] = fp8["model.norm.weight"] = (1 + rnd(g, 384, std=0.1)).to(torch.bfloat16)
ks = sorted(fp8); h = len(ks) // 2 + 1  # a weight and its scale may fall into different shards
wm = {}
for n, part in (("model-00001-of-00002.safetensors", ks[:h]), ("model-00002-of-00002.safetensors", ks[h:])):
    save_file({k: fp8[k].contiguous() for k in part}, f"{d}/model/{n}", metadata={"format": "pt"}); wm.update({k: n for k in part})
json.dump(dict(metadata={}, weight_map=wm), open(d + "/model/model.safetensors.index.json", "w"), indent=1)
json.dump(dict(architectures=["DeepseekV3ForCausalLM"], model_type="deepseek_v3", quantization_config=dict(activation_scheme="dynamic", fmt="e4m3", quant_method="fp8", weight_block_size=[128, 128])), open(d + "/model/config.json", "w"), indent=1)
save_file({k: v.contiguous() for k, v in bf.items()}, d + "/expected_bf16.safetensors")
subprocess.check_call(["tar", "-C", work, "-czf", f"{out}/{prefix}.tar.gz"] + sorted(x for x in os.listdir(work) if x.startswith(prefix + "_")))
print(os.path.getsize(f"{out}/{prefix}.tar.gz"))
