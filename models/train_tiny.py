"""Train the tiny Qwen3.5-MoE model that the tests and examples run.

The script makes templated word problems (word_problems.py), trains a byte-level BPE tokenizer of
the same structure as Qwen's, trains a Qwen3_5MoeForCausalLM from scratch, rounds the weights to
bf16 and writes everything that a loader needs, with 500 held-out problems, into one folder.

Needs: torch, transformers >= 5.17, tokenizers, safetensors, numpy. One GPU trains it in minutes;
the CPU is enough for a smoke run.
"""

import argparse
import json
import math
import multiprocessing
import platform
import random
import sys
import time
from pathlib import Path

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from word_problems import final_answer, make_problem

HERE = Path(__file__).resolve().parent
EOS = "<|endoftext|>"
SPECIALS = [EOS, "<|im_start|>", "<|im_end|>"]
# The pattern of the Qwen3.5 tokenizer.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EPILOG = """examples:
  python3 models/train_tiny.py --out models/tiny-qwen3_5-moe
  python3 models/train_tiny.py --out build/smoke --device cpu --steps 20 --batch 16 --samples 2000
"""


def prompt_text(question):
    """The prompt of one problem; the model continues it with " " + reasoning."""
    return f"Question: {question}\nAnswer:"


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Help with defaults and with the examples as they stand."""


def parse_args():
    """Read the command line."""
    p = argparse.ArgumentParser(
        description=__doc__,
        epilog=EPILOG,
        formatter_class=_Help,
    )
    add = p.add_argument
    add("--out", type=Path, default=HERE / "tiny-qwen3_5-moe", help="folder to write")
    add("--seed", type=int, default=20260, help="seed of data, weights and order")
    add("--device", default="cuda", help="torch device: cuda or cpu")
    add("--steps", type=int, default=3362, help="optimizer steps")
    add(
        "--max-seconds",
        type=float,
        default=0,
        help="lower --steps to train about this long",
    )
    add("--batch", type=int, default=256, help="sequences per step")
    add("--lr", type=float, default=2e-3, help="peak learning rate")
    add("--warmup", type=int, default=200, help="warm-up steps")
    add("--weight-decay", type=float, default=0.05, help="weight decay of matrices")
    add(
        "--question-weight",
        type=float,
        default=0.1,
        help="loss weight of question tokens",
    )
    add("--aux", type=float, default=0.005, help="weight of the load balancing loss")
    add("--samples", type=int, default=1_500_000, help="training problems to generate")
    add("--eval-problems", type=int, default=500, help="held-out problems")
    add("--eval-every", type=int, default=1000, help="steps between short checks")
    add(
        "--length",
        type=int,
        default=112,
        help="tokens per sequence (longer ones are dropped)",
    )
    add(
        "--vocab",
        type=int,
        default=1024,
        help="vocabulary size with the special tokens",
    )
    add(
        "--layers",
        type=int,
        default=4,
        help="layers; linear and full attention alternate",
    )
    add("--hidden", type=int, default=128, help="hidden size")
    add("--moe-intermediate", type=int, default=64, help="width of one expert")
    add("--shared-intermediate", type=int, default=64, help="width of the shared expert")
    add("--experts", type=int, default=8, help="experts per layer")
    add(
        "--workers",
        type=int,
        default=multiprocessing.cpu_count(),
        help="processes for the data",
    )
    return p.parse_args()


# ---------------------------------------------------------------- data


def make_eval(seed, count):
    """The held-out problems: `count` different questions from a stream of their own."""
    rng = random.Random(f"eval-{seed}")
    seen, out = set(), []
    while len(out) < count:
        problem = make_problem(rng)
        if problem["question"] not in seen:
            seen.add(problem["question"])
            out.append(problem)
    return out


def train_tokenizer(seed, vocab, held_out):
    """Train the BPE model on problems and give it the structure of Qwen's tokenizer."""
    rng = random.Random(f"tokenizer-{seed}")
    texts = []
    while len(texts) < 40_000:
        problem = make_problem(rng)
        if problem["question"] not in held_out:
            texts.append(f"{prompt_text(problem['question'])} {problem['answer']}")
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    assert tok.get_vocab_size() == vocab, tok.get_vocab_size()
    return tok


def save_tokenizer(tok, path):
    """Write tokenizer.json; fields that do not act get the values of Qwen's file."""
    data = json.loads(tok.to_str())
    data["decoder"] = data["post_processor"]
    data["model"]["continuing_subword_prefix"] = ""
    data["model"]["end_of_word_suffix"] = ""
    again = Tokenizer.from_str(json.dumps(data))
    text = "Tom has 12 apples.  How many?\n#### 12<|endoftext|>"
    assert again.encode(text).ids == tok.encode(text).ids
    write_json(path, data)


def _encode_chunk(job):
    """Generate and encode one chunk of the training stream (runs in a worker process)."""
    seed, index, count, length, tok_json, held_out = job
    tok = Tokenizer.from_str(tok_json)
    eos = tok.token_to_id(EOS)
    rng = random.Random(f"train-{seed}-{index}")
    ids = np.full((count, length), eos, dtype=np.int16)
    sizes = np.zeros((count, 2), dtype=np.int16)
    row = skipped = long = 0
    while row < count:
        problem = make_problem(rng)
        if problem["question"] in held_out:
            skipped += 1
            continue
        prompt = tok.encode(prompt_text(problem["question"])).ids
        # The pre-tokenizer never joins the colon with what follows, so the parts concatenate.
        full = prompt + tok.encode(" " + problem["answer"]).ids + [eos]
        if len(full) > length:
            long += 1
            continue
        ids[row, : len(full)] = full
        sizes[row] = len(prompt), len(full)
        row += 1
    return ids, sizes, skipped, long


def make_training_data(args, tok, held_out):
    """All training sequences as one int16 array, with [prompt length, full length] per row."""
    chunk = max(1, min(20_000, args.samples // args.workers))
    jobs = [
        (args.seed, i, chunk, args.length, tok.to_str(), held_out)
        for i in range(math.ceil(args.samples / chunk))
    ]
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        parts = pool.map(_encode_chunk, jobs, chunksize=1)
    ids = np.concatenate([p[0] for p in parts])
    sizes = np.concatenate([p[1] for p in parts])
    return ids, sizes, sum(p[2] for p in parts), sum(p[3] for p in parts)


def assert_held_out(ids, sizes, tok, problems):
    """Fail if the token row of any training prompt equals that of a held-out problem."""
    rows = {tuple(tok.encode(prompt_text(p["question"])).ids) for p in problems}
    lengths = {len(r) for r in rows}
    for n in lengths:
        same = ids[sizes[:, 0] == n, :n]
        packed = {r.tobytes() for r in same}
        for row in (r for r in rows if len(r) == n):
            assert np.array(row, dtype=np.int16).tobytes() not in packed, "held-out question seen"


# ---------------------------------------------------------------- model


def make_config(args, eos):
    """The configuration, in the form of the published Qwen3.5-MoE configurations."""
    from transformers import Qwen3_5MoeTextConfig

    return Qwen3_5MoeTextConfig(
        vocab_size=args.vocab,
        hidden_size=args.hidden,
        num_hidden_layers=args.layers,
        layer_types=["linear_attention", "full_attention"] * (args.layers // 2),
        full_attention_interval=2,  # the same once more, for SGLang, which does not read layer_types
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=32,
        attn_output_gate=True,
        linear_num_key_heads=4,
        linear_num_value_heads=8,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_conv_kernel_dim=4,
        num_experts=args.experts,
        num_experts_per_tok=2,
        moe_intermediate_size=args.moe_intermediate,
        shared_expert_intermediate_size=args.shared_intermediate,
        max_position_embeddings=1024,
        initializer_range=0.05,
        rope_parameters={
            "mrope_interleaved": True,
            "mrope_section": [2, 1, 1],
            "partial_rotary_factor": 0.25,
            "rope_theta": 10000,
            "rope_type": "default",
        },
        tie_word_embeddings=False,
        eos_token_id=eos,
        architectures=["Qwen3_5MoeForCausalLM"],
    )


def dense_experts(self, hidden_states, top_k_index, top_k_weights):
    """Run all experts as two matrix products and weight them; equal to the routed sum.

    Small experts train faster this way than by gathering the tokens of each one.
    """
    import torch.nn.functional as F

    tokens = hidden_states.shape[0]
    weights = top_k_weights.new_zeros(tokens, self.num_experts)
    weights = weights.scatter(1, top_k_index, top_k_weights)
    up = F.linear(hidden_states, self.gate_up_proj.flatten(0, 1))
    gate, up = up.view(tokens, self.num_experts, -1).chunk(2, dim=-1)
    act = self.act_fn(gate) * up * weights.unsqueeze(-1)
    down = self.down_proj.permute(1, 0, 2).flatten(1)
    return F.linear(act.flatten(1), down).to(hidden_states.dtype)


def exact_match(model, tok, problems, device, max_new_tokens=96):
    """How many problems greedy decoding solves, in one batch padded on the left."""
    import torch

    eos = tok.token_to_id(EOS)
    prompts = [tok.encode(prompt_text(p["question"])).ids for p in problems]
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), eos)
    mask = torch.zeros_like(ids)
    for i, p in enumerate(prompts):
        ids[i, width - len(p) :] = torch.tensor(p)
        mask[i, width - len(p) :] = 1
    with torch.no_grad():
        out = model.generate(
            input_ids=ids.to(device),
            attention_mask=mask.to(device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=eos,
            pad_token_id=eos,
        )
    texts = tok.decode_batch(out[:, width:].tolist(), skip_special_tokens=True)
    pairs = zip(texts, problems, strict=True)
    return sum(final_answer(t) == final_answer(p["answer"]) for t, p in pairs)


def train(args, model, ids, sizes, tok, problems, log):
    """The optimizer loop; cosine schedule to zero."""
    import torch
    import torch.nn.functional as F
    from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import (
        load_balancing_loss_func,
    )

    dev = torch.device(args.device)
    cfg = model.config
    data = torch.from_numpy(ids).to(dev)
    lens = torch.from_numpy(sizes).to(dev)
    decay = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": rest}]
    opt = torch.optim.AdamW(
        groups,
        lr=args.lr,
        betas=(0.9, 0.98),
        weight_decay=0.0,
        fused=dev.type == "cuda",
    )

    def schedule(step):
        if step < args.warmup:
            return (step + 1) / args.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - args.warmup) / (args.steps - args.warmup)))

    def loss_of(batch, size):
        pos = torch.arange(1, batch.shape[1], device=dev)
        real = (pos < size[:, 1:]).float()
        weight = real * torch.where(pos < size[:, :1], args.question_weight, 1.0)
        # Padding is on the right: causal layers need no mask for it.
        out = model(input_ids=batch[:, :-1], use_cache=False, output_router_logits=True)
        nll = F.cross_entropy(out.logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        loss = (nll * weight.flatten()).sum() / weight.sum()
        aux = load_balancing_loss_func(out.router_logits, cfg.num_experts, cfg.num_experts_per_tok, real)
        return loss, aux

    gen = torch.Generator(device=dev).manual_seed(args.seed)
    order = torch.randperm(len(data), generator=gen, device=dev)
    at = step = 0
    start = mark = time.time()
    while step < args.steps:
        if args.max_seconds and step in (20, 100):
            if dev.type == "cuda":
                torch.cuda.synchronize()
            if step == 20:
                mark = time.time()
            else:
                rate = (time.time() - mark) / 80
                left = args.max_seconds - (time.time() - start)
                args.steps = min(args.steps, 100 + int(left / rate))
                log(f"steps: {args.steps}")
        if at + args.batch > len(data):
            order = torch.randperm(len(data), generator=gen, device=dev)
            at = 0
        rows = order[at : at + args.batch]
        at += args.batch
        for g in opt.param_groups:
            g["lr"] = args.lr * schedule(step)
        loss, aux = loss_of(data[rows].long(), lens[rows].long())
        (loss + args.aux * aux).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == args.steps - 1:
            log(
                f"step {step} loss {loss.item():.4f} aux {aux.item():.3f} grad {norm.item():.3f} "
                f"lr {args.lr * schedule(step):.2e} seconds {time.time() - start:.1f}"
            )
        if step and step % args.eval_every == 0:
            model.eval()
            part = problems[:200]
            log(f"step {step} exact match {exact_match(model, tok, part, dev)} of {len(part)}")
            model.train()
        step += 1
    return time.time() - start


def write_json(path, value):
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main():
    """Make the data, the tokenizer and the model, and write the folder."""
    args = parse_args()
    import safetensors
    import tokenizers
    import torch
    import transformers
    from transformers import Qwen3_5MoeForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    transformers.utils.logging.set_verbosity_error()
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    lines = []

    def log(text):
        lines.append(text)
        print(text, flush=True)

    log("command: " + " ".join(["python3 models/train_tiny.py", *sys.argv[1:]]))
    log(f"seed: {args.seed}")
    log(
        f"versions: python {platform.python_version()} torch {torch.__version__} transformers "
        f"{transformers.__version__} tokenizers {tokenizers.__version__} "
        f"safetensors {safetensors.__version__} numpy {np.__version__}"
    )
    if args.device.startswith("cuda"):
        log(f"device: {torch.cuda.get_device_name()}")
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True

    problems = make_eval(args.seed, args.eval_problems)
    held_out = {p["question"] for p in problems}
    tok = train_tokenizer(args.seed, args.vocab, held_out)
    ids, sizes, skipped, too_long = make_training_data(args, tok, held_out)
    assert_held_out(ids, sizes, tok, problems)
    log(
        f"data: {len(ids)} problems, {int(sizes[:, 1].sum())} tokens, longest "
        f"{int(sizes[:, 1].max())}, left out as held-out {skipped}, as too long {too_long}, "
        f"seconds {time.time() - begin:.1f}"
    )

    eos = tok.token_to_id(EOS)
    ALL_EXPERTS_FUNCTIONS.register("dense", dense_experts)
    model = Qwen3_5MoeForCausalLM(make_config(args, eos))
    model.set_experts_implementation("dense")
    model.to(args.device).train()
    log(f"parameters: {sum(p.numel() for p in model.parameters())}")
    seconds = train(args, model, ids, sizes, tok, problems, log)
    log(f"training seconds: {seconds:.1f}")

    # What is saved is what is checked: weights rounded to bf16, decoding in fp32.
    torch.backends.cuda.matmul.allow_tf32 = False
    model.to(torch.bfloat16)
    model.generation_config.eos_token_id = eos
    model.generation_config.pad_token_id = eos
    model.save_pretrained(args.out)
    (args.out / "model.safetensors").chmod(0o644)
    model = Qwen3_5MoeForCausalLM.from_pretrained(
        args.out,
        dtype=torch.float32,
        experts_implementation="eager",
        attn_implementation="eager",
    )
    model.to(args.device).eval()
    right = exact_match(model, tok, problems, args.device)
    log(f"exact match: {right} of {len(problems)} (bf16 weights, fp32 arithmetic, greedy)")
    log(f"total seconds: {time.time() - begin:.1f}")

    save_tokenizer(tok, args.out / "tokenizer.json")
    write_json(
        args.out / "tokenizer_config.json",
        {
            "add_bos_token": False,
            "add_prefix_space": False,
            "bos_token": None,
            "clean_up_tokenization_spaces": False,
            "eos_token": EOS,
            "model_max_length": 1024,
            "pad_token": EOS,
            "split_special_tokens": False,
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": None,
        },
    )
    with open(args.out / "eval.jsonl", "w", encoding="utf-8") as f:
        f.writelines(json.dumps(p, ensure_ascii=False) + "\n" for p in problems)
    (args.out / "train.log").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
