"""Make the reference data of this folder from the saved tiny model, with transformers on the CPU.

Writes reference.json, reference_logits.safetensors, reference_intermediates.safetensors,
tokenizer_cases.json and eval_tiny_exact_match.json; README.md says what each one holds.

Needs: torch, transformers >= 5.17, tokenizers, safetensors.
"""

import argparse
import json
import platform
import time
from collections import defaultdict
from pathlib import Path

import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import Qwen3_5MoeForCausalLM

HERE = Path(__file__).resolve().parent
EOS = "<|endoftext|>"
COMMAND = "python3 tests/data/make_reference.py"
EPILOG = """examples:
  python3 tests/data/make_reference.py
  python3 tests/data/make_reference.py --model models/tiny-qwen3_5-moe --out build/reference
"""

TOKENIZER_STRINGS = [
    "",
    " ",
    "  ",
    "a",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "Question: Tom has 12 apples. He buys 30 more. How many apples does Tom have now?\nAnswer:",
    " 12 + 30 = 42 apples.\n#### 42<|endoftext|>",
    "0123456789",
    "1,234,567.89",
    "3 * 4 = 12",
    "$15 and 20% off",
    "x=10;y=20",
    "2nd 3rd 4th",
    "I'm you're he's they'll we've I'd don't",
    "I'M YOU'RE HE'S THEY'LL WE'VE I'D DON'T",
    "'s't'RE'lL 'q ''s",
    "rock 'n' roll",
    " leading space",
    "trailing space ",
    "two  spaces",
    "three   spaces",
    "many          spaces",
    "    indented\n        more\n",
    "tab\tseparated\tvalues",
    "\t\tdouble tab",
    " \t mixed \t blanks \t",
    "line one\nline two",
    "line one\r\nline two\r\n",
    "a\n\nb\n\n\nc",
    "a \n b \n\n c",
    "\n",
    "\r\n",
    "   \n   \n",
    "end with blanks and newline   \n",
    "punctuation?!\n\n...and---more***",
    "(a+b)*[c]{d}<e>/f\\g|h~i`j^k@l#m&n_o",
    "#include <vector>\nint main() { return 0; }\n",
    "snake_case camelCase PascalCase SCREAMING_CASE",
    "https://example.com/path?x=1&y=2#top",
    "naïve café über Ångström",
    "nai\u0308ve cafe\u0301 u\u0308ber A\u030angstro\u0308m",
    "e\u0301\u0323 q\u0307\u0323 \u1e0b\u0323",
    "\u212b \u2126 \ufb01 \u00bd",
    "Łódź Æsop ß ẞ İstanbul ıı",
    "Привет, мир! Как дела?",
    "Γειά σου Κόσμε",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "你好,世界!",
    "今天有3个苹果。",
    "日本語のテキスト カタカナ",
    "한국어 텍스트 \u1112\u1161\u11ab",
    "😀 😃😄",
    "👩\u200d🚀 👍🏽 🇫🇷 ❤\ufe0f",
    "a\u00a0b\u2003c\u3000d\u200be",
    "½ ² Ⅷ ٣ 𝟘𝟙",
    "“quotes” ‘single’ — dash … ellipsis",
    "<|endoftext|>",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "a<|endoftext|>b <|im_end|> c",
    "<|endoftext|><|endoftext|>",
    "<|endoftext <|im_start |> |im_end|>",
    "nul\u0000byte \u0007bell \u007fdel",
    "\ufeffbyte order mark",
    "𐍈 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]


def prompt_text(question):
    """The prompt of one problem; the model continues it with " " + reasoning."""
    return f"Question: {question}\nAnswer:"


def final_answer(text):
    """The word after the last "####", without commas; None when there is none."""
    _head, mark, tail = text.rpartition("####")
    words = tail.split() if mark else []
    return words[0].replace(",", "") if words else None


def load(folder, dtype):
    """The saved model on the CPU with the plain attention and expert code."""
    model = Qwen3_5MoeForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
    )
    return model.eval()


def greedy(model, rows, limit, eos):
    """Greedy continuations of equally long token rows, each cut after its end token."""
    ids = torch.tensor(rows)
    out = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=limit,
        do_sample=False,
        eos_token_id=eos,
        pad_token_id=eos,
    )
    result = []
    for row in out[:, ids.shape[1] :].tolist():
        result.append(row[: row.index(eos) + 1] if eos in row else row)
    return result


def margins(model, ids, continuation):
    """How close the decisions along a greedy continuation are.

    Returns the smallest distance between the best and the second logit of a generated token, and
    the smallest distance between the last chosen and the first rejected router logit of any token.
    """
    row = torch.tensor([ids + continuation[:-1]])
    out = model(input_ids=row, use_cache=False, output_router_logits=True)
    best = out.logits[0, len(ids) - 1 :].float().topk(2, dim=-1).values
    token = float((best[:, 0] - best[:, 1]).min())
    k = model.config.num_experts_per_tok
    routed = torch.cat(out.router_logits).float().topk(k + 1, dim=-1).values
    router = float((routed[:, k - 1] - routed[:, k]).min())
    return round(token, 6), round(router, 6)


def capture(model, ids):
    """Hidden states of one forward pass: embedding, every block output, every layer, final norm."""
    seen = {}

    def keep(name):
        def hook(module, inputs, output):
            value = output[0] if isinstance(output, tuple) else output
            seen[name] = value.detach().float().reshape(-1, value.shape[-1]).clone()

        return hook

    base = model.model
    hooks = [base.embed_tokens.register_forward_hook(keep("embed"))]
    for i, layer in enumerate(base.layers):
        mixer = layer.linear_attn if hasattr(layer, "linear_attn") else layer.self_attn
        hooks.append(mixer.register_forward_hook(keep(f"layers.{i}.mixer")))
        hooks.append(layer.mlp.gate.register_forward_hook(keep(f"layers.{i}.router_logits")))
        hooks.append(layer.mlp.register_forward_hook(keep(f"layers.{i}.mlp")))
        hooks.append(layer.register_forward_hook(keep(f"layers.{i}.out")))
    hooks.append(base.norm.register_forward_hook(keep("norm")))
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for h in hooks:
        h.remove()
    return seen


def pick_prompts(problems):
    """Eight prompts: four held-out problems of different lengths and four other texts."""
    order = sorted(problems, key=lambda p: len(p["question"]))
    chosen = [order[len(order) // 2], order[0], order[(3 * len(order)) // 4], order[-1]]
    prompts = [prompt_text(p["question"]) for p in chosen]
    shots = [f"{prompt_text(p['question'])} {p['answer']}\n\n" for p in problems[:2]]
    prompts.append("".join(shots) + prompt_text(problems[2]["question"]))
    prompts.append("There")
    prompts.append("The quick brown fox jumps over the lazy dog. 1 + 1 = 2; naïve café, 你好 😀")
    prompts.append("Question: A mug costs $")
    return prompts


def write_json(path, value):
    """Write indented ASCII JSON with a final newline."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def evaluate(model, tok, problems, eos, limit, batch):
    """Exact match on the problems, with the generated texts; rows of a batch are equally long."""
    groups = defaultdict(list)
    for i, p in enumerate(problems):
        groups[len(tok.encode(prompt_text(p["question"])).ids)].append(i)
    texts = [""] * len(problems)
    for members in groups.values():
        for at in range(0, len(members), batch):
            part = members[at : at + batch]
            rows = [tok.encode(prompt_text(problems[i]["question"])).ids for i in part]
            for i, ids in zip(part, greedy(model, rows, limit, eos), strict=True):
                texts[i] = tok.decode(ids, skip_special_tokens=True)
    right = [final_answer(t) == final_answer(p["answer"]) for t, p in zip(texts, problems, strict=True)]
    return texts, right


def main():
    """Write all reference files."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root = HERE.parent.parent
    parser.add_argument(
        "--model", type=Path, default=root / "models" / "tiny-qwen3_5-moe", help="saved model folder"
    )
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write")
    parser.add_argument("--continuation", type=int, default=64, help="tokens to continue a prompt")
    parser.add_argument("--limit", type=int, default=96, help="new tokens per evaluated problem")
    parser.add_argument("--batch", type=int, default=64, help="problems per evaluated batch")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    transformers.utils.logging.set_verbosity_error()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    torch.set_grad_enabled(False)

    tok = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    eos = tok.token_to_id(EOS)
    with open(args.model / "eval.jsonl", encoding="utf-8") as f:
        problems = [json.loads(line) for line in f]
    made_by = {
        "command": COMMAND,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "safetensors": safetensors.__version__,
        },
    }

    cases = []
    for text in TOKENIZER_STRINGS:
        ids = tok.encode(text).ids
        plain = tok.decode(ids, skip_special_tokens=True)
        full = tok.decode(ids, skip_special_tokens=False)
        cases.append({"text": text, "ids": ids, "decoded": full, "decoded_skip_special": plain})
    partial = []
    for ids in (tok.encode("😀").ids, tok.encode("é你").ids):
        for cut in (ids[:1], ids[:-1], ids[1:]):
            if cut:
                partial.append({"ids": cut, "decoded": tok.decode(cut, skip_special_tokens=False)})
    write_json(
        args.out / "tokenizer_cases.json",
        {**made_by, "cases": cases, "decode_only": partial},
    )

    model = load(args.model, torch.float32)
    model16 = load(args.model, torch.bfloat16)
    prompts, logits = [], {}
    for i, text in enumerate(pick_prompts(problems)):
        ids = tok.encode(text).ids
        row = torch.tensor([ids])
        logits[f"logits.{i}"] = model(input_ids=row).logits[0].contiguous()
        logits[f"logits_bf16.{i}"] = model16(input_ids=row).logits[0].float().contiguous()
        continuation = greedy(model, [ids], args.continuation, eos)[0]
        continuation16 = greedy(model16, [ids], args.continuation, eos)[0]
        token_margin, router_margin = margins(model, ids, continuation)
        prompts.append(
            {
                "prompt": text,
                "ids": ids,
                "continuation": continuation,
                "continuation_text": tok.decode(continuation, skip_special_tokens=False),
                "token_margin": token_margin,
                "router_margin": router_margin,
                "continuation_bf16": continuation16,
            }
        )
    write_json(args.out / "reference.json", {**made_by, "eos": eos, "prompts": prompts})
    save_file(logits, args.out / "reference_logits.safetensors")
    states = {k: v.contiguous() for k, v in capture(model, prompts[0]["ids"]).items()}
    save_file(states, args.out / "reference_intermediates.safetensors")

    start = time.time()
    texts, right = evaluate(model, tok, problems, eos, args.limit, args.batch)
    first = [
        {
            "question": p["question"],
            "expected": final_answer(p["answer"]),
            "generated": t,
        }
        for p, t in list(zip(problems, texts, strict=True))[:20]
    ]
    result = {
        **made_by,
        "dtype": "float32",
        "problems": len(problems),
        "exact_match": sum(right),
        "max_new_tokens": args.limit,
        "wrong_lines": [i + 1 for i, ok in enumerate(right) if not ok],
        "first_20": first,
    }
    write_json(args.out / "eval_tiny_exact_match.json", result)
    for path in args.out.glob("reference_*.safetensors"):
        path.chmod(0o644)
    print(f"exact match {sum(right)} of {len(problems)}, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
